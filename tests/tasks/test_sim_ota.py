"""YOLOX's assigner: how many priors an object takes, its costs by hand, and who competes."""
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor
from torch.testing import assert_close

from detkit.registry import TASK_UTILS
from detkit.tasks.matching import NEGATIVE, Candidates
from detkit.tasks.sim_ota import SimOTAAssigner, classification_cost, dynamic_k

ASSIGN = SimOTAAssigner()


def instances(boxes: list[list[float]], labels: list[int]) -> InstanceData:
    return InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long))


def candidates(points: list[list[float]], boxes: Tensor, logits: Tensor | None = None, stride: float = 8.) -> Candidates:
    priors = torch.tensor([[x, y, stride, stride] for x, y in points]).reshape(-1, 4)
    return Candidates(priors, logits=torch.zeros(len(points), 2) if logits is None else logits, boxes=boxes)


# -------------------------------------------------------------------------------------------------------- dynamic k
@pytest.mark.parametrize(('iou', 'taken'), [([.9, .9, .9, .1], 2), ([.1, .1, .1, .1], 1), ([1., 1., 1., .5], 3)])
def test_an_object_takes_as_many_as_its_overlaps_sum_to_and_the_cheapest(iou: list[float], taken: int):
    cost = torch.tensor([3., 1., 2., 0.])[:, None]
    chosen = dynamic_k(cost, torch.tensor(iou)[:, None], topk=13)
    assert sorted((chosen >= 0).nonzero().flatten().tolist()) == sorted(cost[:, 0].argsort()[:taken].tolist())


def test_topk_bounds_the_sum():
    overlaps, cost = torch.full((6, 1), .9), torch.arange(6.)[:, None]
    for topk, taken in ((6, 5), (3, 2), (1, 1)):
        assert dynamic_k(cost, overlaps, topk).tolist() == [0] * taken + [NEGATIVE] * (6 - taken)


def test_a_prior_that_several_take_learns_the_cheapest():
    cost = torch.tensor([[1., 2.], [9., 9.]])
    assert dynamic_k(cost, torch.full((2, 2), .1), 10).tolist() == [0, NEGATIVE]
    # two objects take the first prior, and a third, that it costs least, takes another: the cheapest of all counts
    cost = torch.tensor([[2., 3., 1.], [5., 5., 5.], [9., 9., .5]])
    assert dynamic_k(cost, torch.full((3, 3), .1), 10).tolist() == [2, NEGATIVE, 2]


# ------------------------------------------------------------------------------------------------------------ costs
def test_the_classification_cost_is_the_cross_entropy_of_the_pair():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([2, 0])
    for g, label in enumerate(labels.tolist()):
        target = F.one_hot(torch.full((5,), label), 3).float()
        assert_close(classification_cost(logits, labels)[:, g], F.binary_cross_entropy(logits.sigmoid(), target, reduction='none').sum(1))


def test_scores_that_are_surely_right_or_wrong_cost_nothing_or_much():
    sure = torch.tensor([[100., -100.]])
    assert classification_cost(sure, torch.tensor([0, 1])).tolist() == [[0., 200.]]


def test_class_and_overlap_are_weighed_against_each_other():
    """One place for two candidates with IoU .5 and .4: the sum of both is below 2, so one is taken."""
    gt = instances([[0., 0., 16., 16.]], [1])
    boxes, points = torch.tensor([[0., 0., 16., 8.], [0., 0., 16., 6.4]]), [[8., 8.], [8., 8.]]
    assert ASSIGN(candidates(points, boxes), gt).index.tolist() == [0, NEGATIVE]
    sure = torch.tensor([[0., -1.], [0., 1.]])                                     # the second scores the object's class better
    costs = classification_cost(sure, gt.labels)[:, 0]
    assert (costs[0] - costs[1]).item() > 3 * math.log(.5 / .4)
    assert ASSIGN(candidates(points, boxes, sure), gt).index.tolist() == [NEGATIVE, 0]
    assert SimOTAAssigner(iou_weight=100.)(candidates(points, boxes, sure), gt).index.tolist() == [0, NEGATIVE]
    assert SimOTAAssigner(cls_weight=0.)(candidates(points, boxes, sure), gt).index.tolist() == [0, NEGATIVE]


# ------------------------------------------------------------------------------------------------------ who competes
def test_priors_in_the_object_and_near_its_centre_come_first():
    gt = instances([[0., 0., 100., 100.]], [0])
    points = [[50., 50.], [69., 50.], [71., 50.], [5., 5.], [120., 50.]]           # 2.5 strides of 8 pixels reach from 30 to 70
    near = ASSIGN.near_center(candidates(points, torch.zeros(5, 4)).priors, gt.bboxes)
    assert near.squeeze(1).tolist() == [True, True, False, False, False]
    right, wrong = [0., 0., 100., 100.], [0., 0., 100., 30.]
    # the two that are central are taken although those in the object alone fit better; the last one never competes
    match = ASSIGN(candidates(points, torch.tensor([wrong, wrong, right, [0., 0., 100., 40.], right])), gt)
    assert match.index.tolist() == [0, 0, NEGATIVE, NEGATIVE, NEGATIVE]            # IoUs .3 + .3 + 1 + .4 make two
    assert_close(match.quality, torch.tensor([.3, .3, 0., 0., 0.]))


def test_a_small_object_between_the_points_takes_one_near_its_centre():
    gt = instances([[9., 9., 11., 11.]], [0])                                       # holds none of the points
    boxes = torch.tensor([[0., 0., 8., 8.], [8., 8., 12., 12.], [9., 9., 11., 11.]])
    match = ASSIGN(candidates([[4., 4.], [12., 12.], [60., 60.]], boxes), gt)
    assert match.index.tolist() == [NEGATIVE, 0, NEGATIVE]


def test_nothing_to_assign():
    points, boxes = [[5., 5.]], torch.tensor([[0., 0., 9., 9.]])
    none = ASSIGN(candidates(points, boxes), instances([], []))
    outside = ASSIGN(candidates(points, boxes), instances([[50., 50., 60., 60.]], [0]))
    for match in (none, outside):
        assert (match.index.tolist(), match.quality.tolist()) == ([NEGATIVE], [0])
    empty = ASSIGN(candidates([], torch.zeros(0, 4)), instances([[0., 0., 9., 9.]], [0]))
    assert (len(empty.index), len(empty.quality)) == (0, 0)


def test_a_config_builds_it():
    built = TASK_UTILS.build(dict(type='mmdet.SimOTAAssigner', center_radius=1.5, iou_calculator=dict(type='BboxOverlaps2D')))
    assert (built.center_radius, built.candidate_topk, built.looks_at_predictions) == (1.5, 10, True)
