"""TaskAlignedAssigner on anchors whose alignment is known."""
from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData

from detkit.registry import ConfigError
from detkit.tasks.matching import NEGATIVE, Candidates, Match
from detkit.tasks.task_aligned import TaskAlignedAssigner

ANCHORS = torch.tensor([[0., 0., 16., 16.], [16., 0., 32., 16.], [32., 0., 48., 16.]])


def objects(*boxes: list[float], labels: list[int] | None = None) -> InstanceData:
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                        labels=torch.tensor(labels or [1] * len(boxes), dtype=torch.long))


def assign(boxes: list, gt: InstanceData, logits: list | None = None, topk: int = 3, beta: float = 2.) -> Match:
    logits = torch.zeros(len(boxes), 2) if logits is None else torch.tensor(logits)
    return TaskAlignedAssigner(topk, alpha=1., beta=beta)(Candidates(ANCHORS[:len(boxes)], logits=logits, boxes=torch.tensor(boxes)), gt)


WHOLE, HALF = [0., 0., 32., 16.], [0., 0., 16., 16.]       # IoU 1 and 0.5 with the object of the same corners as WHOLE


def test_alignment_is_scaled_to_the_best_overlap():
    match = assign([WHOLE, HALF, WHOLE], objects(WHOLE))
    assert match.index.tolist() == [0, 0, NEGATIVE]                      # the third anchor's centre lies outside
    assert match.quality.tolist() == pytest.approx([1., .25, 0.], abs=1e-5)        # 0.5 * IoU^2, over its largest, times the largest IoU
    match = assign([HALF, HALF], objects(WHOLE), [[0., 0.], [0., 2.]])
    score = torch.tensor(2.).sigmoid().item()
    assert match.quality.tolist() == pytest.approx([.5 * .5 / score, .5], abs=1e-5)


def test_a_place_among_the_best_is_used_up_by_an_anchor_outside():
    match = assign([HALF, WHOLE, WHOLE], objects(WHOLE), [[0., 0.], [0., 1.], [0., 2.]], topk=2)
    assert match.index.tolist() == [NEGATIVE, 0, NEGATIVE]


def test_the_score_is_that_of_the_objects_own_class():
    boxes = [WHOLE, WHOLE]
    for label, best in ((0, 0), (1, 1)):
        match = assign(boxes, objects(WHOLE, labels=[label]), [[3., -3.], [-3., 3.]], topk=1)
        assert (match.index == 0).nonzero().flatten().tolist() == [best]


def test_an_anchor_that_two_take_learns_the_one_it_overlaps_more():
    match = assign([HALF], objects(WHOLE, HALF))
    assert match.index.tolist() == [1] and match.quality.tolist() == pytest.approx([1.], abs=1e-5)


def test_predictions_that_overlap_nothing_are_negative():
    assert assign([[100., 0., 110., 10.]] * 3, objects(WHOLE)).index.tolist() == [NEGATIVE] * 3


def test_without_objects_or_anchors_nothing_is_positive():
    match = assign([WHOLE, HALF], objects())
    assert match.index.tolist() == [NEGATIVE] * 2 and match.quality.tolist() == [0, 0]
    empty = Candidates(ANCHORS[:0], logits=torch.zeros(0, 2), boxes=torch.zeros(0, 4))
    assert len(TaskAlignedAssigner(3)(empty, objects(WHOLE)).index) == 0


def test_no_anchor_an_object_is_refused():
    with pytest.raises(ConfigError, match='topk=0'):
        TaskAlignedAssigner(0)
