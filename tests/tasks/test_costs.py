import math

import pytest
import torch
from mmengine.structures import InstanceData

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import Candidates

GT = InstanceData(bboxes=torch.tensor([[0., 0., 10., 10.]]), labels=torch.tensor([1]))


def cost(candidates: Candidates, gt: InstanceData = GT, **cfg: object) -> list:
    return TASK_UTILS.build(cfg)(candidates, gt).tolist()


def test_classification_costs_minus_the_softmax_score():
    logits = torch.tensor([[0., math.log(3.)], [0., 0.]])
    assert cost(Candidates(None, logits=logits), type='ClassificationCost', weight=2.) == [[pytest.approx(-1.5)], [pytest.approx(-1.)]]


def test_focal_cost_of_an_even_score():
    """Positive: 0.25 * 0.5^2 * ln 2; negative: 0.75 * 0.5^2 * ln 2; their difference is -0.125 ln 2."""
    got = cost(Candidates(None, logits=torch.zeros(1, 2)), type='FocalLossCost', weight=8.)
    assert got == [[pytest.approx(-math.log(2.))]]


def test_box_distance_is_in_shares_of_the_image():
    candidates = Candidates(None, boxes=torch.tensor([[10., 0., 20., 20.]]), size=(20, 40))
    assert cost(candidates, type='BBoxL1Cost') == [[pytest.approx(10 / 40 + 10 / 40 + 10 / 20)]]
    assert cost(candidates, type='BBoxL1Cost', box_format='xywh') == [[pytest.approx(10 / 40 + 5 / 20 + 0 + 10 / 20)]]


def test_overlap_costs():
    candidates = Candidates(None, boxes=torch.tensor([[0., 0., 10., 5.], [10., 10., 20., 20.]]))
    assert cost(candidates, type='IoUCost', iou_mode='iou') == [[-0.5], [0.]]
    assert cost(candidates, type='IoUCost', weight=2.) == [[-1.], [pytest.approx(1.)]]      # giou of the second: 0 - 200 / 400


def test_costs_of_masks_at_points():
    """One prediction, sure of the first of two points; objects of the first and of both."""
    candidates = Candidates(None, masks=torch.tensor([[20., -20.]]))
    gt = InstanceData(labels=torch.tensor([0, 0]), masks=torch.tensor([[1., 0.], [1., 1.]]))
    assert cost(candidates, gt, type='CrossEntropyLossCost') == [[pytest.approx(0., abs=1e-6), pytest.approx(10.)]]
    assert cost(candidates, gt, type='DiceCost', pred_act=True, eps=1.) == [[pytest.approx(0.), pytest.approx(1 - 3 / 4)]]
    assert cost(candidates, gt, type='DiceCost', pred_act=True, eps=1., naive_dice=False) == [[pytest.approx(0.), pytest.approx(1 - 3 / 4)]]
    assert cost(candidates, gt, type='FocalLossCost', binary_input=True) == [[pytest.approx(0., abs=1e-6), pytest.approx(2.5, abs=1e-3)]]


def test_text_cost_looks_at_the_tokens_that_are_there():
    gt = InstanceData(labels=torch.tensor([0]), text_token_mask=torch.tensor([[True, True, False]]),
                      positive_maps=torch.tensor([[1., 0., 1.]]))
    got = cost(Candidates(None, logits=torch.tensor([[0., 0., 50.]])), gt, type='BinaryFocalLossCost')
    assert got == [[pytest.approx((0.25 + 0.75) * 0.25 * math.log(2.), abs=1e-6)]]


def test_layers_of_predictions_are_costed_at_once():
    boxes, logits = torch.rand(3, 5, 4) * 10, torch.randn(3, 5, 2)
    boxes[..., 2:] += boxes[..., :2]
    for cfg in (dict(type='BBoxL1Cost', box_format='xywh'), dict(type='IoUCost'), dict(type='FocalLossCost'),
                dict(type='ClassificationCost')):
        term = TASK_UTILS.build(cfg)
        together = term(Candidates(None, logits=logits, boxes=boxes, size=(20, 30)), GT)
        for i in range(3):
            torch.testing.assert_close(together[i], term(Candidates(None, logits=logits[i], boxes=boxes[i], size=(20, 30)), GT))


@pytest.mark.parametrize('cfg, message', [
    (dict(type='BBoxL1Cost', box_format='cxcywh'), "box_format='cxcywh' is unknown. Known: xyxy, xywh"),
    (dict(type='IoUCost', iou_mode='diou'), "iou_mode='diou' is unknown. Known: iou, giou"),
    (dict(type='CrossEntropyLossCost', use_sigmoid=False), 'use_sigmoid=False'),
])
def test_settings_that_no_cost_has(cfg: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        TASK_UTILS.build(cfg)
