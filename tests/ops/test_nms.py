"""NMS against a plain loop, within groups, with soft scores, and what a config may say of it."""
from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from detkit.ops.boxes import pairwise_iou
from detkit.ops.nms import batched_nms, nms, padded_nms, soft_nms
from detkit.registry import ConfigError

MODULE = importlib.import_module('detkit.ops.nms')     # detkit.ops.nms is the function
# the second lies 80 % in the first (IoU 0.8), the third is the first moved by half (IoU 1/3), the fourth lies apart
BOXES = torch.tensor([[0., 0., 10., 10.], [0., 0., 10., 8.], [5., 0., 15., 10.], [50., 50., 60., 60.]])
SCORES = torch.tensor([.9, .8, .7, .6])


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    overlaps = pairwise_iou(boxes, boxes)
    for i in scores.argsort(descending=True).tolist():
        if all(overlaps[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


@st.composite
def scored_boxes(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes on a coarse grid, so that overlaps are common; distinct scores; three groups."""
    number = st.integers(-8, 12)
    rows = draw(st.lists(st.tuples(number, number, st.integers(1, 8), st.integers(1, 8), st.integers(0, 2)), min_size=1, max_size=14))
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows], dtype=torch.float32)
    order = draw(st.permutations(range(len(rows))))
    scores = torch.tensor([(i + 1) / (len(rows) + 1) for i in order])
    return boxes, scores, torch.tensor([row[-1] for row in rows])


@settings(max_examples=80, deadline=None)
@given(scored_boxes(), st.sampled_from([0.13, 0.31, 0.53, 0.71]))
def test_nms_keeps_what_a_plain_loop_keeps(drawn: tuple[Tensor, Tensor, Tensor], threshold: float):
    boxes, scores, _ = drawn
    assert nms(boxes, scores, threshold).tolist() == plain_nms(boxes, scores, threshold)


@settings(max_examples=80, deadline=None)
@given(scored_boxes(), st.sampled_from([0.13, 0.31, 0.53]), st.booleans())
def test_groups_do_not_see_each_other(drawn: tuple[Tensor, Tensor, Tensor], threshold: float, split: bool):
    boxes, scores, groups = drawn
    expected = []
    for g in groups.unique():
        index = (groups == g).nonzero().squeeze(1)
        expected += index[plain_nms(boxes[index], scores[index], threshold)].tolist()
    expected = sorted(expected, key=lambda i: -scores[i])
    keep, kept = batched_nms(boxes, scores, groups, dict(type='nms', iou_threshold=threshold, split_thr=0 if split else 10_000))
    assert keep.tolist() == expected
    assert torch.equal(kept, scores[keep])


def test_nms_by_hand():
    assert nms(BOXES, SCORES, 0.5).tolist() == [0, 2, 3]
    assert nms(BOXES, SCORES, 0.3).tolist() == [0, 3]
    assert nms(BOXES, SCORES, 0.9).tolist() == [0, 1, 2, 3]
    assert nms(BOXES, SCORES, 0.5, max_num=2).tolist() == [0, 2]
    assert nms(BOXES, SCORES, 0.5, score_threshold=0.65).tolist() == [0, 2]
    assert nms(BOXES[:0], SCORES[:0], 0.5).tolist() == []


def test_an_overlap_of_exactly_the_threshold_is_kept():
    halves = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 4.]])    # IoU 0.5
    assert nms(halves, torch.tensor([.9, .8]), 0.5).tolist() == [0, 1]


def test_many_boxes_are_split_by_group_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(300, 2, generator=generator) * 20], 1)
    scores, groups = torch.rand(300, generator=generator), torch.randint(0, 4, (300,), generator=generator)
    for cfg in (dict(iou_threshold=0.4), dict(type='soft_nms', iou_threshold=0.4, min_score=0.2), dict(iou_threshold=.4, max_num=7)):
        together = batched_nms(boxes, scores, groups, cfg)
        monkeypatch.setattr(MODULE, 'SPLIT_ABOVE', 10)
        apart = batched_nms(boxes, scores, groups, cfg)
        monkeypatch.undo()
        assert together[0].tolist() == apart[0].tolist()
        assert_close(together[1], apart[1], atol=1e-4, rtol=1e-4)   # overlaps of shifted boxes round otherwise


def test_groups_stay_apart_where_coordinates_are_negative():
    # moved by the largest coordinate alone, the second group's box would come to lie on the first's
    boxes = torch.tensor([[0., 0., 10., 10.], [-11., -11., -1., -1.]])
    assert batched_nms(boxes, torch.tensor([.9, .8]), torch.tensor([0, 1]), dict(iou_threshold=0.5))[0].tolist() == [0, 1]


def test_class_agnostic_suppresses_across_groups():
    groups = torch.tensor([0, 1, 2, 3])
    assert batched_nms(BOXES, SCORES, groups, dict(iou_threshold=0.5))[0].tolist() == [0, 1, 2, 3]
    assert batched_nms(BOXES, SCORES, groups, dict(iou_threshold=0.5, class_agnostic=True))[0].tolist() == [0, 2, 3]


def test_no_nms_sorts():
    keep, scores = batched_nms(BOXES, SCORES.flip(0), torch.zeros(4, dtype=torch.long), None)
    assert keep.tolist() == [3, 2, 1, 0]
    assert_close(scores, SCORES)


def test_no_boxes_give_no_boxes():
    for cfg in (None, dict(iou_threshold=0.5), dict(type='soft_nms')):
        keep, scores = batched_nms(BOXES[:0], SCORES[:0], torch.zeros(0, dtype=torch.long), cfg)
        assert (keep.tolist(), keep.dtype, scores.tolist()) == ([], torch.int64, [])
    assert [x.tolist() for x in soft_nms(BOXES[:0], SCORES[:0])] == [[], []]


def test_max_num_counts_over_all_groups():
    keep, scores = batched_nms(BOXES, SCORES, torch.tensor([0, 1, 0, 1]), dict(iou_threshold=0.5, max_num=2))
    assert keep.tolist() == [0, 1]
    assert len(scores) == 2


def test_soft_nms_by_hand():
    # linear, above 0.3: 0.8 * (1 - 0.8) = 0.16; 0.7 * (1 - 1/3) = 0.4667; then the third lowers the second: IoU(2, 1) = 40 / 140 < 0.3
    keep, scores = soft_nms(BOXES, SCORES)
    assert keep.tolist() == [0, 3, 2, 1]
    assert_close(scores, torch.tensor([.9, .6, .7 * 2 / 3, .16]))
    keep, scores = soft_nms(BOXES, SCORES, iou_threshold=0.5)
    assert keep.tolist() == [0, 2, 3, 1]
    assert_close(scores, torch.tensor([.9, .7, .6, .16]))
    assert soft_nms(BOXES, SCORES, iou_threshold=0.5, min_score=0.2)[0].tolist() == [0, 2, 3]
    assert soft_nms(BOXES, SCORES, max_num=2)[0].tolist() == [0, 3]


def test_gaussian_soft_nms_by_hand():
    keep, scores = soft_nms(BOXES[:2], SCORES[:2], method='gaussian', sigma=0.5)
    assert keep.tolist() == [0, 1]
    assert_close(scores, torch.tensor([.9, .8 * math.exp(-0.64 / 0.5)]))


@settings(max_examples=40, deadline=None)
@given(scored_boxes(), st.sampled_from([0.13, 0.31, 0.53]))
def test_naive_soft_nms_is_nms(drawn: tuple[Tensor, Tensor, Tensor], threshold: float):
    boxes, scores, _ = drawn
    assert soft_nms(boxes, scores, threshold, method='naive')[0].tolist() == nms(boxes, scores, threshold).tolist()


def test_soft_nms_leaves_the_scores_it_is_given():
    scores = SCORES.clone()
    soft_nms(BOXES, scores)
    assert torch.equal(scores, SCORES)


def test_half_precision_is_taken():
    assert nms(BOXES.bfloat16(), SCORES.bfloat16(), 0.5).tolist() == [0, 2, 3]


def test_the_old_name_of_the_threshold_is_read():
    assert batched_nms(BOXES, SCORES, torch.zeros(4, dtype=torch.long), dict(iou_thr=0.5))[0].tolist() == [0, 2, 3]


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(type='nsm', iou_threshold=.5), "nms type 'nsm' is unknown. Did you mean 'nms'? Known: nms, soft_nms."),
    (dict(type='nms', iou_treshold=.5), "nms type 'nms' has no 'iou_treshold'. Did you mean 'iou_threshold'"),
    (dict(type='nms', iou_threshold=.5, sigma=1), "nms type 'nms' has no 'sigma'."),
    (dict(type='soft_nms', score_threshold=1), "nms type 'soft_nms' has no 'score_threshold'"),
    (dict(type='nms'), "nms type 'nms' needs 'iou_threshold'."),
    (dict(type='soft_nms', method='cubic'), "soft_nms has no method 'cubic'. Known: linear, gaussian, naive.")])
def test_a_wrong_setting_is_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        batched_nms(BOXES, SCORES, torch.zeros(4, dtype=torch.long), cfg)
    assert said in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.lists(scored_boxes(), min_size=1, max_size=3), st.sampled_from([0.13, 0.31, 0.53]), st.sampled_from([1, 3, 50]))
def test_padded_nms_is_batched_nms_of_each_image(drawn: list[tuple[Tensor, Tensor, Tensor]], threshold: float, most: int):
    width = max(len(scores) for _, scores, _ in drawn)

    def stacked(parts: list[Tensor]) -> Tensor:
        return torch.stack([torch.cat([x, x.new_zeros(width - len(x), *x.shape[1:])]) for x in parts])
    boxes, scores, groups = (stacked([image[i] for image in drawn]) for i in range(3))
    cfg = dict(type='nms', iou_threshold=threshold)
    index, kept = padded_nms(boxes, scores, groups, cfg, most)
    assert index.shape == kept.shape == (len(drawn), most)
    for i, image in enumerate(drawn):
        expected, values = batched_nms(*image, cfg)
        found = int((kept[i] > 0).sum())
        assert index[i, :found].tolist() == expected[:most].tolist()
        assert_close(kept[i, :found], values[:most])
        assert not kept[i, found:].any() and not index[i, found:].any()


def test_padded_nms_without_nms_is_the_best_by_score():
    index, scores = padded_nms(BOXES[None], torch.tensor([[.1, .4, 0., .2]]), torch.zeros(1, 4, dtype=torch.long), None, 3)
    assert index.tolist() == [[1, 3, 0]]
    assert_close(scores, torch.tensor([[.4, .2, .1]]))
    index, scores = padded_nms(BOXES[None], torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.long), None, -1)
    assert index.tolist() == [[0, 0, 0, 0]] and not scores.any()


def test_padded_nms_keeps_classes_apart_unless_told_otherwise():
    groups = torch.tensor([[0, 1, 2, 3]])
    for agnostic, rows in ((False, [0, 1, 2, 3]), (True, [0, 2, 3])):
        index, scores = padded_nms(BOXES[None], SCORES[None], groups, dict(type='nms', iou_threshold=0.5, class_agnostic=agnostic), 4)
        assert index[0, :int((scores > 0).sum())].tolist() == rows


def test_soft_nms_cannot_be_exported_and_says_so():
    with pytest.raises(ConfigError, match="nms type 'soft_nms' cannot be exported. Use dict"):
        padded_nms(BOXES[None], SCORES[None], torch.zeros(1, 4, dtype=torch.long), dict(type='soft_nms'), 4)
