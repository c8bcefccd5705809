from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData

from detkit.registry import ConfigError
from detkit.tasks.atss import ATSSAssigner
from detkit.tasks.matching import IGNORED, NEGATIVE, Candidates


def row(count: int, side: float, step: float) -> torch.Tensor:
    """Square anchors side by side, the first centred at half a step."""
    x = (torch.arange(count) + .5) * step
    y = torch.full((count,), 16.)
    return torch.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], 1)


def objects(*boxes) -> InstanceData:
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long))


ANCHORS = torch.cat([row(8, 8, 8), row(4, 16, 16), row(2, 32, 32)])      # three levels over 64 pixels


def assign(gt: InstanceData, topk: int = 3, **options) -> list[int]:
    return ATSSAssigner(topk, **options)(Candidates(ANCHORS, levels=[8, 4, 2]), gt, options.get('ignored')).index.tolist()


def test_the_anchor_that_fits_is_positive():
    found = assign(objects([16, 8, 32, 24]))                              # the second of the middle level, IoU 1
    assert [i for i, m in enumerate(found) if m == 0] == [9] and set(found) == {0, NEGATIVE}


def test_the_threshold_is_mean_plus_deviation_of_the_nearest():
    gt = objects([16, 8, 32, 24])
    candidates = [2, 3, 1, 9, 8, 10, 12, 13]                              # 3 of each level but the last, which has 2
    from detkit.tasks.overlaps import BboxOverlaps2D
    iou = BboxOverlaps2D()(ANCHORS[candidates], gt.bboxes)[:, 0]
    assert (iou >= iou.mean() + iou.std()).tolist() == [False, False, False, True, False, False, False, False]


def test_an_anchor_that_two_take_learns_the_one_it_overlaps_more():
    found = assign(objects([16, 8, 32, 24], [17, 8, 33, 24]), topk=1)
    assert found[9] == 0


def test_centres_outside_the_object_are_negative():
    assert set(assign(objects([30, 10, 34, 14]))) == {NEGATIVE}


def test_no_object_no_anchor_and_a_head_without_levels():
    assert assign(objects()) == [NEGATIVE] * 14
    assert ATSSAssigner(9)(Candidates(torch.zeros(0, 4), levels=[0]), objects([0, 0, 4, 4])).index.tolist() == []
    with pytest.raises(ConfigError, match='how many anchors lie on each level'):
        ATSSAssigner(9)(Candidates(ANCHORS), objects([0, 0, 4, 4]))


def test_anchors_in_an_ignored_region_are_ignored():
    """Recorded from MMDetection 3.3.0, whose -1 (ignored) and 0 (negative) are IGNORED and NEGATIVE here."""
    found = ATSSAssigner(1, ignore_iof_thr=0.5)(Candidates(ANCHORS, levels=[8, 4, 2]), objects([16, 8, 32, 24]), objects([40, 0, 64, 32]))
    assert found.index.tolist() == [NEGATIVE] * 5 + [IGNORED] * 3 + [NEGATIVE, 0, NEGATIVE, IGNORED, NEGATIVE, IGNORED]
