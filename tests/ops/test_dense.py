"""RoIAlign, deformable convolution and focal loss per element."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.testing import assert_close

from detkit.ops.dense import deform_conv, roi_align, sigmoid_focal_loss


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


@pytest.mark.parametrize(('stride', 'padding', 'dilation'), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_deform_conv_without_offsets_is_a_convolution(stride: int, padding: int, dilation: int):
    torch.manual_seed(0)
    x, weight, bias = torch.rand(2, 3, 7, 6), torch.rand(4, 3, 3, 3), torch.rand(4)
    expected = F.conv2d(x, weight, bias, stride, padding, dilation)
    offset = torch.zeros(2, 18, *expected.shape[2:])
    assert_close(deform_conv(x, offset, weight, bias, stride, padding, dilation), expected)
    half = torch.full((2, 9, *expected.shape[2:]), 0.5)
    assert_close(deform_conv(x, offset, weight, None, stride, padding, dilation, half),
                 F.conv2d(x, weight, None, stride, padding, dilation) / 2)


def test_an_offset_of_one_pixel_moves_where_it_reads():
    x = ramp()[:, :1]                                  # value = x + 0.5
    weight = torch.ones(1, 1, 1, 1)
    offset = torch.zeros(1, 2, 8, 8)
    offset[:, 1] = 1.                                  # (dy, dx) = (0, 1)
    assert_close(deform_conv(x, offset, weight)[..., :7], x[..., :7] + 1)


@pytest.mark.parametrize('size', [(17, 23), (3, 1), (1, 64)])
@pytest.mark.parametrize(('stride', 'padding', 'dilation', 'groups', 'deform_groups'), [
    (1, 1, 1, 1, 1), (2, 1, 1, 2, 2), (1, 2, 2, 1, 4), ((1, 2), (1, 1), (1, 1), 4, 1)])
@pytest.mark.parametrize('spread', [0., 3.])
def test_deform_conv_and_its_gradient_are_torchvisions(size: tuple, stride: int, padding: int, dilation: int, groups: int,
                                                      deform_groups: int, spread: float):
    """Whole pixels (a spread of 0) are where the gradient of an offset jumps: there, too."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 8, *size, generator=generator), torch.randn(12, 8 // groups, 3, 3, generator=generator)
    out = F.conv2d(x[:, :1], weight[:1, :1], None, stride, padding, dilation).shape[2:]
    offset = torch.randn(2, 18 * deform_groups, *out, generator=generator) * spread
    mask = torch.rand(2, 9 * deform_groups, *out, generator=generator)
    ours, theirs = ([t.clone().requires_grad_() for t in (x, offset, weight, mask)] for _ in range(2))
    found = deform_conv(*ours[:3], None, stride, padding, dilation, ours[3])
    expected = torchvision.ops.deform_conv2d(*theirs[:3], None, stride, padding, dilation, theirs[3])
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert_close(deform_conv(*ours[:3], None, stride, padding, dilation, ours[3]), found)
    found.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours, theirs):
        assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('threads', [1, 3, 4])
def test_deform_conv_is_the_same_on_any_number_of_threads(threads: int):
    torch.manual_seed(0)
    x, offset, weight = torch.randn(1, 8, 6, 5), torch.randn(1, 36, 6, 5), torch.randn(2, 8, 3, 3)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, None, 1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_close(deform_conv(x, offset, weight, None, 1, 1), expected)
    finally:
        torch.set_num_threads(before)


def test_focal_loss_by_hand():
    # p = 0.5 everywhere: background (1 - 0.25) * 0.25 * ln 2, object 0.25 * 0.25 * ln 2
    loss = sigmoid_focal_loss(torch.zeros(2, 2), torch.tensor([1, 2]))
    negative, positive = 0.75 * 0.25 * 0.6931472, 0.25 * 0.25 * 0.6931472
    assert_close(loss, torch.tensor([negative + positive, 2 * negative]))


def test_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    for label in (0, 1, 2):
        loss = sigmoid_focal_loss(logits, torch.tensor([label]))
        assert torch.isfinite(loss).all()
        assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


def test_focal_loss_of_no_priors():
    assert sigmoid_focal_loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_focal_loss_gradient():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3])
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, labels, 1.5, 0.3), logits)


def test_focal_loss_in_pieces_is_focal_loss(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)      # in float64: kernels round single elements and vectors of them differently in the last digits
    logits, labels = torch.randn(50, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (50,))
    whole = sigmoid_focal_loss(logits, labels)
    slope = torch.autograd.grad(whole.sum(), logits)[0]
    monkeypatch.setattr('detkit.ops.dense.CACHED', 21)
    assert_close(sigmoid_focal_loss(logits, labels), whole, atol=0, rtol=1e-6)
    assert_close(torch.autograd.grad(sigmoid_focal_loss(logits, labels).sum(), logits)[0], slope, atol=0, rtol=1e-6)
