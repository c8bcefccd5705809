"""Boxes: overlaps worked out by hand, and what must hold for any boxes."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from detkit.ops.boxes import aligned_iou, areas, clip_boxes, intersections, larger_than, pairwise_iou, scale_boxes

MODES = ['iou', 'giou', 'diou', 'ciou']
LOWEST = {'iou': 0, 'giou': -1, 'diou': -1, 'ciou': -2}
A = torch.tensor([[0., 0., 10., 10.]])
B = torch.tensor([[5., 0., 15., 10.]])
FAR = torch.tensor([[20., 20., 30., 30.]])
coordinate = st.integers(-64, 640).map(lambda v: v / 2)
side = st.integers(1, 400).map(lambda v: v / 2)


@st.composite
def some_boxes(draw: st.DrawFn, least: int = 1, most: int = 6) -> Tensor:
    rows = draw(st.lists(st.tuples(coordinate, coordinate, side, side), min_size=least, max_size=most))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64).reshape(-1, 4)


@st.composite
def pairs_of_boxes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    a, b = draw(some_boxes(least=3)), draw(some_boxes(least=3))
    n = min(len(a), len(b))
    return a[:n], b[:n]


def test_area_and_intersection_by_hand():
    assert areas(torch.tensor([[1., 2., 4., 8.], [3., 3., 3., 9.]])).tolist() == [18, 0]
    assert intersections(A, torch.cat([B, FAR, A])).tolist() == [50, 0, 100]


def test_boxes_that_touch_share_nothing():
    assert intersections(A, torch.tensor([[10., 0., 20., 10.]])).tolist() == [0]


def test_pairwise_overlaps_by_hand():
    assert_close(pairwise_iou(A, torch.cat([A, B, FAR])), torch.tensor([[1., 50 / 150, 0.]]))
    assert_close(pairwise_iou(A, torch.tensor([[0., 0., 5., 5.], [0., 0., 20., 20.]]), 'iof'), torch.tensor([[.25, 1.]]))


def test_pairwise_shapes_with_nothing():
    assert pairwise_iou(torch.zeros(0, 4), A).shape == (0, 1)
    assert pairwise_iou(A, torch.zeros(0, 4)).shape == (1, 0)


def test_a_box_without_area_overlaps_nothing_and_divides_by_nothing():
    point = torch.tensor([[3., 3., 3., 3.]])
    assert pairwise_iou(point, torch.cat([A, point])).tolist() == [[0, 0]]
    for mode in MODES:
        assert torch.isfinite(aligned_iou(point, point, mode)).all()


@pytest.mark.parametrize(('mode', 'expected'), [
    # hull of A and B: 15 x 10 = the union; centres 5 apart, hull's diagonal^2 = 325; equal shapes
    ('iou', 1 / 3), ('giou', 1 / 3), ('diou', 1 / 3 - 25 / 325), ('ciou', 1 / 3 - 25 / 325)])
def test_aligned_overlaps_by_hand(mode: str, expected: float):
    assert aligned_iou(A, B, mode).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(('mode', 'expected'), [('iou', 0.), ('giou', -700 / 900), ('diou', -800 / 1800), ('ciou', -800 / 1800)])
def test_boxes_apart_by_hand(mode: str, expected: float):
    # hull 30 x 30, union 200; centres (5, 5) and (25, 25), hull's diagonal^2 = 1800
    assert aligned_iou(A, FAR, mode).item() == pytest.approx(expected, abs=1e-6)


def test_ciou_adds_the_shape_once_boxes_overlap_by_half():
    wide = torch.tensor([[0., 0., 10., 6.]])                       # IoU 0.6 with A, centres (5, 5) and (5, 3), hull 10 x 10
    diou = 0.6 - 4 / 200
    shape = 4 / math.pi**2 * (math.atan(10 / 6) - math.atan(1))**2
    assert aligned_iou(A, wide, 'diou').item() == pytest.approx(diou, abs=1e-5)
    assert aligned_iou(A, wide, 'ciou').item() == pytest.approx(diou - shape**2 / (0.4 + shape), abs=1e-5)
    narrow = torch.tensor([[0., 0., 10., 4.]])                     # IoU 0.4: the shape does not count
    assert aligned_iou(A, narrow, 'ciou').item() == aligned_iou(A, narrow, 'diou').item()


@settings(max_examples=60, deadline=None)
@given(pairs_of_boxes())
def test_overlaps_are_symmetric_bounded_and_ordered(boxes: tuple[Tensor, Tensor]):
    a, b = boxes
    found = {mode: aligned_iou(a, b, mode) for mode in MODES}
    for mode, value in found.items():
        assert_close(value, aligned_iou(b, a, mode))
        assert (value <= 1 + 1e-6).all()
        assert (value >= LOWEST[mode] - 1e-6).all()
    assert (found['giou'] <= found['iou'] + 1e-9).all()
    assert (found['ciou'] <= found['diou'] + 1e-9).all()
    assert (found['diou'] <= found['iou'] + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(some_boxes(), st.sampled_from(MODES))
def test_a_box_overlaps_itself_wholly(boxes: Tensor, mode: str):
    assert_close(aligned_iou(boxes, boxes, mode), torch.ones(len(boxes), dtype=torch.float64), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(pairs_of_boxes())
def test_the_diagonal_of_pairwise_is_aligned(boxes: tuple[Tensor, Tensor]):
    a, b = boxes
    assert_close(pairwise_iou(a, b).diagonal(), aligned_iou(a, b))


@settings(max_examples=40, deadline=None)
@given(pairs_of_boxes(), coordinate, st.sampled_from([0.5, 2., 4.]), st.sampled_from(MODES))
def test_overlaps_do_not_change_when_both_move_and_grow(boxes: tuple[Tensor, Tensor], shift: float, factor: float, mode: str):
    a, b = boxes
    assert_close(aligned_iou(a * factor + shift, b * factor + shift, mode, eps=1e-12), aligned_iou(a, b, mode, eps=1e-12),
                 atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize('mode', ['iou', 'giou', 'diou'])
def test_gradients_of_overlaps_are_right(mode: str):
    a = torch.tensor([[0., 0., 10., 10.], [1., 2., 5., 9.]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[5., 1., 15., 12.], [20., 22., 31., 29.]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: aligned_iou(x, b, mode), a)


@settings(max_examples=40, deadline=None)
@given(some_boxes(), st.integers(1, 100), st.integers(1, 100))
def test_clipped_boxes_lie_in_the_image_and_clipping_again_changes_nothing(boxes: Tensor, height: int, width: int):
    clipped = clip_boxes(boxes, (height, width))
    assert (clipped >= 0).all()
    assert (clipped[:, 0::2] <= width).all()
    assert (clipped[:, 1::2] <= height).all()
    assert torch.equal(clip_boxes(clipped, (height, width)), clipped)


def test_clipping_by_hand_takes_height_first_and_leaves_its_argument():
    boxes = torch.tensor([[-5., -5., 50., 50.], [1., 2., 3., 4.]])
    assert clip_boxes(boxes, (20, 30)).tolist() == [[0, 0, 30, 20], [1, 2, 3, 4]]
    assert boxes[0].tolist() == [-5, -5, 50, 50]


def test_scaling_takes_width_first():
    assert scale_boxes(torch.tensor([[1., 2., 3., 4.]]), (2., 10.)).tolist() == [[2, 20, 6, 40]]


def test_both_sides_must_exceed_the_size():
    boxes = torch.tensor([[0., 0., 3., 3.], [0., 0., 2., 9.], [0., 0., 9., 2.], [0., 0., 0., 0.]])
    assert larger_than(boxes, 2).tolist() == [True, False, False, False]
    assert larger_than(boxes, 0).tolist() == [True, True, True, False]


def test_an_unknown_overlap_is_refused():
    for overlap in (aligned_iou, pairwise_iou):
        with pytest.raises(ValueError, match="overlap mode 'eiou' is unknown. Known: iou, iof, giou, diou, ciou"):
            overlap(A, B, 'eiou')
    assert aligned_iou(A, B, 'iof').tolist() == [.5] and pairwise_iou(A, B, 'giou').tolist() == [[pytest.approx(1 / 3)]]
