"""RoIAlign: ramps read by hand, and the gradient of torchvision's kernel."""
from __future__ import annotations

import pytest
import torch
import torchvision
from torch.testing import assert_close

from detkit.ops.roi_align import roi_align


def ramp(height: int = 8, width: int = 8) -> torch.Tensor:
    """(1, 2, H, W): the x, and the y, of each pixel's centre."""
    y, x = torch.meshgrid(torch.arange(height) + .5, torch.arange(width) + .5, indexing='ij')
    return torch.stack([x, y])[None]


def test_roi_align_reads_a_ramp_at_the_bins_centres():
    pooled = roi_align(ramp(), torch.tensor([[0., 2., 1., 6., 5.]]), 2, 1.)
    assert_close(pooled[0, 0], torch.tensor([[3., 5.], [3., 5.]]))     # x: bins of [2, 6] end at 4
    assert_close(pooled[0, 1], torch.tensor([[2., 2.], [4., 4.]]))     # y: bins of [1, 5] end at 3


def test_roi_align_scales_rois_and_picks_the_image():
    feature = torch.cat([ramp(), ramp() + 100])
    pooled = roi_align(feature, torch.tensor([[1., 8., 4., 24., 20.]]), (1, 2), 0.25)
    assert_close(pooled[0, 0], torch.tensor([[103., 105.]]))
    assert pooled.shape == (1, 2, 1, 2)


def test_without_aligned_everything_lies_half_a_pixel_further():
    rois = torch.tensor([[0., 2., 1., 5., 4.]])
    difference = roi_align(ramp(), rois, 3, 1., aligned=False) - roi_align(ramp(), rois, 3, 1., aligned=True)
    assert_close(difference, torch.full_like(difference, 0.5))


@pytest.mark.parametrize('threads', [1, 3, 8])
def test_the_gradient_of_roi_align_is_torchvisions_with_any_number_of_threads(threads: int):
    torch.manual_seed(0)
    start = torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) * 40
    rois = torch.cat([torch.arange(40)[:, None] % 2, start, start + 5 + torch.rand(40, 2) * 30], 1)
    ours, theirs = (torch.randn(2, 5, 20, 24, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pooled, expected = roi_align(ours, rois, (3, 4), .5), torchvision.ops.roi_align(theirs, rois, (3, 4), .5, -1, True)
        assert torch.equal(pooled, expected)
        weights = torch.randn_like(expected)
        (pooled * weights).sum().backward()
        (expected * weights).sum().backward()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours.grad, theirs.grad) and ours.grad.abs().sum() > 0


def test_no_rois_give_no_features_but_a_graph():
    feature = ramp().requires_grad_()
    pooled = roi_align(feature, torch.zeros(0, 5), 7, 1.)
    assert pooled.shape == (0, 2, 7, 7)
    pooled.sum().backward()
    assert_close(feature.grad, torch.zeros_like(feature))


def test_roi_align_is_float32_inside_autocast():
    with torch.autocast('cpu', torch.bfloat16):
        pooled = roi_align(ramp().bfloat16(), torch.tensor([[0., 2., 1., 6., 5.]]), 2, 1.)
    assert pooled.dtype == torch.float32
    assert_close(pooled[0, 0], torch.tensor([[3., 5.], [3., 5.]]))
