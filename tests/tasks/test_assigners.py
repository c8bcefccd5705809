"""MaxIoUAssigner by hand. Overlaps are those of boxes within one column, so they are ratios of heights."""
from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import IGNORED, NEGATIVE, Candidates


def assigner(**cfg: object) -> object:
    return TASK_UTILS.build(dict(dict(type='MaxIoUAssigner', pos_iou_thr=.7, neg_iou_thr=.3), **cfg))


def column(*heights: float, x: float = 0.) -> Tensor:
    """Boxes of width 10 that start at (x, 0)."""
    return torch.tensor([[x, 0., x + 10., h] for h in heights]).reshape(-1, 4)


def instances(boxes: Tensor) -> InstanceData:
    return InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))


def assign(a: object, priors: Tensor, gt: Tensor, ignored: Tensor | None = None) -> list[int]:
    return a(Candidates(priors), instances(gt), None if ignored is None else instances(ignored)).index.tolist()


GT = column(10)


def test_thresholds_without_low_quality_matches():
    # IoU 1, 0.7 (reaches the threshold), 0.5 between, 0.3 (not below), 0.2, 0
    priors = torch.cat([column(10, 7, 5, 3, 2), column(10, x=50)])
    assert assign(assigner(match_low_quality=False), priors, GT) == [0, 0, IGNORED, IGNORED, NEGATIVE, NEGATIVE]


def test_a_range_of_negatives():
    priors = column(10, 2.5, 1.5, .5)
    assert assign(assigner(neg_iou_thr=(.1, .3), match_low_quality=False), priors, GT) == [0, NEGATIVE, NEGATIVE, IGNORED]


def test_every_object_takes_its_best_prior_however_poor():
    priors = torch.cat([column(4), column(10, x=50)])
    assert assign(assigner(match_low_quality=False), priors, GT) == [IGNORED, NEGATIVE]
    assert assign(assigner(), priors, GT) == [0, NEGATIVE]
    assert assign(assigner(min_pos_iou=.41), priors, GT) == [IGNORED, NEGATIVE]


@pytest.mark.parametrize('height', [5, 6, 7])
def test_an_overlap_of_exactly_the_least_is_enough(height: int):
    """In float32, as overlaps are: 0.7 there is less than Python's."""
    assert assign(assigner(pos_iou_thr=.9, min_pos_iou=height / 10), column(height), GT) == [0]


def test_all_that_tie_or_the_first_alone():
    priors = torch.cat([column(4), torch.tensor([[0., 6., 10., 10.]]), column(3.5)])
    assert assign(assigner(), priors, GT) == [0, 0, IGNORED]
    assert assign(assigner(gt_max_assign_all=False), priors, GT) == [0, IGNORED, IGNORED]


def test_of_several_objects_a_prior_learns_the_nearest_and_the_last_that_claims_it():
    priors = column(8)
    assert assign(assigner(match_low_quality=False), priors, torch.cat([column(6), column(8), column(7)])) == [1]
    assert assign(assigner(), priors, torch.cat([column(6), column(8), column(7)])) == [2]    # each one's best is this prior


def test_priors_in_ignored_regions_neither_learn_nor_count():
    priors = torch.cat([column(10), column(10, x=50), column(10, x=55), column(10, x=90)])
    crowd = torch.tensor([[50., 0., 60., 100.]])      # holds the second wholly, half of the third
    assert assign(assigner(ignore_iof_thr=.4), priors, GT, crowd) == [0, IGNORED, IGNORED, NEGATIVE]
    assert assign(assigner(ignore_iof_thr=.6), priors, GT, crowd) == [0, IGNORED, NEGATIVE, NEGATIVE]
    assert assign(assigner(), priors, GT, crowd) == [0, NEGATIVE, NEGATIVE, NEGATIVE]
    # of the region's own area (1000) the second covers a tenth, the third a twentieth
    assert assign(assigner(ignore_iof_thr=.08, ignore_wrt_candidates=False), priors, GT, crowd) == [0, IGNORED, NEGATIVE, NEGATIVE]


def test_ignored_regions_count_in_an_image_without_objects():
    priors = torch.cat([column(10), column(10, x=50)])
    assert assign(assigner(ignore_iof_thr=.5), priors, GT[:0], column(10)) == [IGNORED, NEGATIVE]
    assert assign(assigner(ignore_iof_thr=.5), priors, GT[:0], GT[:0]) == [NEGATIVE, NEGATIVE]


def test_without_objects_or_priors():
    assert assign(assigner(), column(10, 5), GT[:0]) == [NEGATIVE, NEGATIVE]
    assert assign(assigner(), column(), GT) == []
    assert assign(assigner(), column(), GT[:0]) == []


@pytest.mark.parametrize('limit', [-1, 0, 1, 5])
def test_where_it_is_computed_changes_nothing(limit: int):
    priors, gt = column(10, 7, 5, 2), torch.cat([column(10), column(6)])
    assert assign(assigner(gpu_assign_thr=limit), priors, gt) == assign(assigner(), priors, gt)


def test_the_match_has_no_quality_and_whole_numbers():
    match = assigner()(Candidates(column(10)), instances(GT))
    assert (match.quality, match.index.dtype, assigner().looks_at_predictions) == (None, torch.int64, False)


def test_the_ground_truth_is_left_as_it_was():
    gt, priors = column(10, 6), column(10, 7)
    assign(assigner(ignore_iof_thr=.5), priors, gt, column(7))
    assert torch.equal(gt, column(10, 6))
    assert torch.equal(priors, column(10, 7))


def test_the_overlap_is_told_to_samplers():
    priors = torch.cat([column(10, 7, 5), column(10, x=50)])
    assert assigner()(Candidates(priors), instances(GT)).overlap.tolist() == pytest.approx([1, .7, .5, 0])
    assert assigner()(Candidates(priors), instances(GT[:0])).overlap.tolist() == [0] * 4


def test_a_prior_overlaps_as_much_as_the_best_anchor_it_stands_for():
    approx = assigner(type='ApproxMaxIoUAssigner', match_low_quality=False)
    priors = column(1, 1, 1)
    anchors = torch.stack([column(2, 2, 10), column(8, 1, 3)], 1)                      # best IoU 0.8, 0.2, 1
    match = approx(Candidates(priors, approximations=anchors), instances(GT))
    assert match.index.tolist() == [0, NEGATIVE, 0]
    assert match.overlap.tolist() == pytest.approx([.8, .2, 1])
    with pytest.raises(ConfigError, match='needs a head with an approx_anchor_generator'):
        approx(Candidates(priors), instances(GT))
