"""RTMDet's assigner: costs by hand, and which priors compete."""
from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor
from torch.testing import assert_close

from detkit.registry import TASK_UTILS
from detkit.structures import BitmapMasks
from detkit.tasks.dynamic_soft_label import DynamicSoftLabelAssigner, centers, soft_classification_cost
from detkit.tasks.matching import NEGATIVE, Candidates

ASSIGN = DynamicSoftLabelAssigner()


def instances(boxes: list[list[float]], labels: list[int]) -> InstanceData:
    return InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long))


def candidates(points: list[list[float]], boxes: Tensor, logits: Tensor | None = None, stride: float = 8.) -> Candidates:
    priors = torch.tensor([[x, y, stride, stride] for x, y in points]).reshape(-1, 4)
    return Candidates(priors, logits=torch.zeros(len(points), 2) if logits is None else logits, boxes=boxes)


def test_the_classification_cost_is_the_quality_focal_loss_of_the_pair():
    torch.manual_seed(0)
    logits, labels, iou = torch.randn(5, 3), torch.tensor([2, 0]), torch.rand(5, 2)
    for g, label in enumerate(labels.tolist()):
        target = F.one_hot(torch.full((5,), label), 3) * iou[:, g, None]
        expected = (F.binary_cross_entropy_with_logits(logits, target, reduction='none') * (target - logits.sigmoid())**2).sum(1)
        assert_close(soft_classification_cost(logits, labels, iou)[:, g], expected)


def test_the_centre_cost_is_tenfold_a_stride():
    priors = torch.tensor([[0., 0., 8., 8.], [24., 0., 8., 8.], [0., 32., 8., 8.], [0., 32., 16., 16.]])
    cost = DynamicSoftLabelAssigner(soft_center_radius=3.).center_cost(priors, torch.zeros(1, 2))
    assert_close(cost[:, 0], torch.tensor([1e-3, 1., 10., .1]))


def test_the_centre_of_a_mask_is_its_centre_of_mass():
    gt = instances([[0, 0, 4, 4]], [0])
    assert centers(gt).tolist() == [[2, 2]]
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, 1, 2:4] = 1                                    # pixels (2, 1) and (3, 1)
    gt.masks = BitmapMasks(mask, 4, 4)
    assert centers(gt).tolist() == [[2.5, 1.]]
    gt.masks = torch.from_numpy(mask).bool()
    assert centers(gt).tolist() == [[2.5, 1.]]


def test_only_points_strictly_inside_an_object_compete():
    gt = instances([[10., 10., 30., 30.]], [0])
    points = [[20., 20.], [10., 20.], [5., 5.], [29., 29.]]
    boxes = gt.bboxes.expand(4, 4)                          # each predicts the object exactly: four IoUs of 1
    match = ASSIGN(candidates(points, boxes), gt)
    assert match.index.tolist() == [0, NEGATIVE, NEGATIVE, 0]
    assert_close(match.quality, torch.tensor([1., 0., 0., 1.]))


def test_the_quality_is_the_predictions_overlap():
    gt = instances([[0., 0., 10., 10.], [50., 50., 60., 60.]], [0, 1])
    boxes = torch.tensor([[0., 0., 10., 5.], [50., 50., 60., 58.]])
    match = ASSIGN(candidates([[5., 5.], [55., 55.]], boxes), gt)
    assert match.index.tolist() == [0, 1]
    assert_close(match.quality, torch.tensor([.5, .8]))


def test_the_whole_cost_decides_between_two_priors():
    """One place for two candidates with IoU .5 and .4: the sum of both is below 2, so one is taken."""
    gt = instances([[0., 0., 16., 16.]], [1])
    boxes = torch.tensor([[0., 0., 16., 8.], [0., 0., 16., 6.4]])
    points, level = [[8., 8.], [8., 8.]], torch.zeros(2, 2)
    assert ASSIGN(candidates(points, boxes, level), gt).index.tolist() == [0, NEGATIVE]
    sure = torch.tensor([[0., -6.], [-6., 0.]])             # the second scores the object's class better
    gap = 3 * math.log(.5 / .4)
    costs = soft_classification_cost(sure, gt.labels, torch.tensor([[.5], [.4]]))[:, 0]
    assert (costs[0] - costs[1]).item() > gap
    assert ASSIGN(candidates(points, boxes, sure), gt).index.tolist() == [NEGATIVE, 0]
    assert DynamicSoftLabelAssigner(iou_weight=100.)(candidates(points, boxes, sure), gt).index.tolist() == [0, NEGATIVE]


def test_nothing_to_assign():
    points, boxes = [[5., 5.]], torch.tensor([[0., 0., 9., 9.]])
    none = ASSIGN(candidates(points, boxes), instances([], []))
    outside = ASSIGN(candidates(points, boxes), instances([[50., 50., 60., 60.]], [0]))
    for match in (none, outside):
        assert (match.index.tolist(), match.quality.tolist()) == ([NEGATIVE], [0])
    empty = ASSIGN(candidates([], torch.zeros(0, 4)), instances([[0., 0., 9., 9.]], [0]))
    assert (len(empty.index), len(empty.quality)) == (0, 0)


def test_a_config_builds_it():
    built = TASK_UTILS.build(dict(type='DynamicSoftLabelAssigner', topk=7, iou_calculator=dict(type='mmdet.BboxOverlaps2D')))
    assert (built.topk, built.looks_at_predictions) == (7, True)
