"""RPNHead: sampled anchors, proposals by level."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.models.dense_heads.rpn_head import RPNHead
from detkit.registry import MODELS, ConfigError

ANCHORS = dict(type='AnchorGenerator', strides=[8], ratios=[1.], scales=[1.], center_offset=0.5)
TRAINING = dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=.7, neg_iou_thr=.3, min_pos_iou=.3),
                sampler=dict(type='RandomSampler', num=100, pos_fraction=.5, add_gt_as_proposals=False))
NMS = dict(type='nms', iou_threshold=.7)


def head(**cfg: object) -> RPNHead:
    """Whose predictions are its biases: objectness 0.25, no shift of any box."""
    built = MODELS.build(dict(dict(type='RPNHead', in_channels=4, feat_channels=4, anchor_generator=ANCHORS, train_cfg=TRAINING,
                                   test_cfg=dict(nms=NMS)), **cfg))
    for conv in (built.rpn_cls, built.rpn_reg):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    nn.init.constant_(built.rpn_cls.bias, -math.log(3))
    return built


def losses(h: RPNHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 4, 2, 3),)), list(samples)).items()}


BACKGROUND, OBJECT = -math.log(.75), -math.log(.25)


def test_an_image_without_objects(sample: Callable):
    # six negatives; the factor counts a positive at least, as MMDetection's sampler does
    assert losses(head(), sample([], size=(16, 24))) == pytest.approx(dict(loss_rpn_cls=6 * BACKGROUND / 7, loss_rpn_bbox=0.), rel=1e-5)


def test_an_object_by_hand(sample: Callable):
    # IoU 1 with one anchor, 0 with the others; of whatever class, it is an object
    found = losses(head(), sample([[8, 0, 16, 8]], [2], size=(16, 24)))
    assert found == pytest.approx(dict(loss_rpn_cls=(5 * BACKGROUND + OBJECT) / 6, loss_rpn_bbox=0.), rel=1e-5)
    # moved by 2 pixels: IoU .6, still its best. L = smooth L1 with beta 1/9 of 2 / 8: .25 - 1 / 18
    moved = losses(head(), sample([[10, 0, 18, 8]], [2], size=(16, 24)))
    assert moved == pytest.approx(dict(loss_rpn_cls=(5 * BACKGROUND + OBJECT) / 6, loss_rpn_bbox=(.25 - 1 / 18) / 6), rel=1e-5)


def test_of_many_anchors_a_sample_is_taken(sample: Callable):
    h = head(train_cfg=dict(TRAINING, sampler=dict(type='RandomSampler', num=4, pos_fraction=.5)))
    found = losses(h, sample([[8, 0, 16, 8]], [2], size=(16, 24)))
    assert found['loss_rpn_cls'] == pytest.approx((3 * BACKGROUND + OBJECT) / 4, rel=1e-5)


def test_a_box_loss_may_see_boxes(sample: Callable):
    h = head(reg_decoded_bbox=True, loss_bbox=dict(type='IoULoss', mode='linear'))
    assert losses(h, sample([[10, 0, 18, 8]], size=(16, 24)))['loss_rpn_bbox'] == pytest.approx(.4 / 6, rel=1e-5)


def test_every_parameter_learns_even_without_objects(sample: Callable):
    h = head()
    sum(h.loss(h((torch.randn(1, 4, 2, 3),)), [sample([], size=(16, 24))]).values()).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_proposals_of_different_levels_leave_each_other_alone(sample: Callable):
    same_boxes = dict(ANCHORS, strides=[8, 8])
    h = head(anchor_generator=same_boxes)
    found = h.predict(h((torch.zeros(1, 4, 1, 1),) * 2), [sample([])])[0]
    assert found.bboxes.tolist() == [[0, 0, 8, 8]] * 2
    assert_close(found.scores, torch.full((2,), .25))
    assert found.labels.tolist() == [0, 0]


def test_training_has_settings_of_its_own_if_given(sample: Callable):
    feats = (torch.zeros(1, 4, 2, 3),)
    h = head(test_cfg=dict(nms=NMS, max_per_img=2), proposal_cfg=dict(nms=NMS, max_per_img=5))
    out, samples = h(feats), [sample([])]
    assert len(h.predict(out, samples)[0]) == 2
    assert len(h.predict(out, samples, for_training=True)[0]) == 5
    without = head(test_cfg=dict(nms=NMS, max_per_img=2))
    assert len(without.predict(without(feats), samples, for_training=True)[0]) == 2


def test_proposals_carry_no_gradient(sample: Callable):
    h = head()
    found = h.predict(h((torch.randn(1, 4, 2, 3),)), [sample([])])[0]
    assert not found.bboxes.requires_grad
    assert not found.scores.requires_grad


def test_one_convolution_or_several():
    assert 'rpn_conv.weight' in head().state_dict()
    several = head(num_convs=2)
    assert {'rpn_conv.0.conv.weight', 'rpn_conv.1.conv.weight'} <= set(several.state_dict())
    assert several((torch.randn(1, 4, 2, 3),)).cls[0].shape == (1, 6, 1)


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(num_classes=80), 'RPNHead num_classes=80: proposals have one class. Set it to 1 or leave it out.'),
    (dict(loss_cls=dict(type='CrossEntropyLoss')), 'RPNHead loss_cls is a softmax loss'),
    (dict(proposal_cfg=dict(nms=NMS, max_num=5)), "model.train_cfg.rpn_proposal has no 'max_num'.")])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        head(**cfg)
    assert said in str(caught.value)
