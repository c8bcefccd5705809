import pytest
import torch
from mmengine.structures import InstanceData

from detkit.registry import ConfigError
from detkit.tasks.hungarian import HungarianAssigner
from detkit.tasks.matching import NEGATIVE, Candidates

L1 = dict(type='BBoxL1Cost')


def boxes_at(*x: float) -> torch.Tensor:
    return torch.tensor([[v, 0., v + 10., 10.] for v in x])


def truth(*x: float) -> InstanceData:
    return InstanceData(bboxes=boxes_at(*x), labels=torch.zeros(len(x), dtype=torch.long))


def candidates(boxes: torch.Tensor) -> Candidates:
    return Candidates(None, logits=torch.zeros(*boxes.shape[:-1], 1), boxes=boxes, size=(100, 100), name='street.jpg')


def test_the_total_counts_not_each_ones_nearest():
    """Both objects are nearest to the query at 10; the sum is least when the one at 0 leaves it: 2 + 8 < 8 + 12."""
    match = HungarianAssigner(L1)(candidates(boxes_at(10., 20., 90.)), truth(2., 12.))
    assert match.index.tolist() == [0, 1, NEGATIVE]


def test_no_objects_and_more_objects_than_queries():
    assign = HungarianAssigner([L1])
    assert assign(candidates(boxes_at(1., 2.)), truth()).index.tolist() == [NEGATIVE, NEGATIVE]
    assert assign(candidates(boxes_at(50.)), truth(0., 51., 90.)).index.tolist() == [1]


def test_decoder_layers_are_matched_apart():
    layers = torch.stack([boxes_at(0., 50.), boxes_at(50., 0.)])
    assert HungarianAssigner(L1)(candidates(layers), truth(1., 49.)).index.tolist() == [[0, 1], [1, 0]]


def test_a_cost_that_is_not_finite_names_image_and_term():
    boxes = boxes_at(0., 50.)
    boxes[1, 2] = float('nan')
    assign = HungarianAssigner([dict(type='FocalLossCost'), L1])
    with pytest.raises(ValueError, match='street.jpg: BBoxL1Cost is not finite for 1 of 2 pairs'):
        assign(candidates(boxes), truth(3.))


def test_a_sum_that_is_not_finite_is_told_too():
    huge = dict(type='BBoxL1Cost', weight=3e38)
    with pytest.raises(ValueError, match='street.jpg: the matching costs are finite, but their sum is not: BBoxL1Cost, BBoxL1Cost'):
        HungarianAssigner([huge, huge])(candidates(boxes_at(0.)), truth(40.))


def test_costs_there_must_be():
    with pytest.raises(ConfigError, match='match_costs is empty'):
        HungarianAssigner([])
