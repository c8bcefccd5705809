"""Deformable convolution: a convolution without offsets, and torchvision's kernel with them."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.testing import assert_close

from detkit.ops.deform_conv import deform_conv


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
    x = (torch.arange(8) + .5).expand(1, 1, 8, 8)      # the x of each pixel's centre
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
