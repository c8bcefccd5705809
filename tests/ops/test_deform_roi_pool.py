"""Deformable RoI pooling against RoIAlign of moved RoIs, and its gradient against differences."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.ops.deform_roi_pool import deform_roi_pool, sampled_bins
from detkit.ops.roi_align import roi_align

ROIS = torch.tensor([[0, 8., 4, 90, 70], [1, 0, 0, 200, 160], [1, 30.3, 20.7, 31, 44], [0, 150, 100, 230, 190]])


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('learning', [True, False])
def test_without_offsets_it_is_roi_align(ratio: int, learning: bool):
    feature, offset = drawn(2, 4, 20, 25), torch.zeros(4, 2, 3, 2, requires_grad=learning)
    assert_close(deform_roi_pool(feature, ROIS, offset, 1 / 8, ratio), roi_align(feature, ROIS, (3, 2), 1 / 8, ratio))


def test_an_offset_moves_a_bin_by_a_share_of_the_roi():
    feature = torch.arange(20.).expand(1, 1, 20, 20)                     # value = x, in cells
    roi, offset = torch.tensor([[0., 0, 0, 40, 40]]), torch.zeros(1, 2, 2, 2)
    offset[0, 0, 0, 1] = 2.                                              # x of the upper right bin: 2 * 0.1 * 40 pixels
    moved = deform_roi_pool(feature, roi, offset, 1 / 4, 2) - deform_roi_pool(feature, roi, offset * 0, 1 / 4, 2)
    assert_close(moved, torch.tensor([[[[0., 2.], [0., 0.]]]]))
    offset = offset.flip(1)                                              # the same for y, in which nothing changes
    assert_close(deform_roi_pool(feature, roi, offset, 1 / 4, 2), deform_roi_pool(feature, roi, offset * 0, 1 / 4, 2))


@pytest.mark.parametrize('ratio', [0, 2])
def test_learning_and_prediction_give_the_same(ratio: int):
    feature, offset = drawn(2, 4, 20, 25), drawn(4, 2, 7, 7)
    with torch.no_grad():
        expected = deform_roi_pool(feature, ROIS, offset, 1 / 8, ratio)
    assert_close(deform_roi_pool(feature, ROIS, offset.requires_grad_(), 1 / 8, ratio), expected)


def test_the_gradient_is_that_of_the_places():
    feature = drawn(2, 2, 9, 8).double().requires_grad_()
    start = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(1)).double() * 40
    image, side = torch.tensor([0, 1, 1]), torch.tensor([15., 9.])[:, None, None]

    def pooled(feature: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return sampled_bins(feature, image, torch.cat([place, place + side], 1), 1 / 8, 0)
    assert torch.autograd.gradcheck(pooled, (feature, start.requires_grad_()))


def test_no_rois():
    feature, offset = drawn(1, 4, 6, 6).requires_grad_(), torch.zeros(0, 2, 3, 3, requires_grad=True)
    out = deform_roi_pool(feature, ROIS[:0], offset, 1 / 8)
    assert out.shape == (0, 4, 3, 3)
    out.sum().backward()
    assert (feature.grad == 0).all()
