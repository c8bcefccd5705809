"""FCOSHead: targets and losses worked out by hand."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from detkit.models.dense_heads.fcos_head import FCOSHead, centerness_of
from detkit.nn.deform_conv import ModulatedDeformConv2d
from detkit.registry import MODELS, ConfigError


def head(**cfg: object) -> FCOSHead:
    """One level of stride 8; class scores and centerness 0.5, all distances 4 pixels."""
    built = MODELS.build(dict(dict(type='FCOSHead', num_classes=2, in_channels=4, stacked_convs=1, feat_channels=4, norm_cfg=None,
                                   strides=[8], regress_ranges=((-1, 64),), test_cfg=dict(nms=dict(type='nms', iou_threshold=.5))), **cfg))
    for conv in (built.conv_cls, built.conv_reg, built.conv_centerness):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    nn.init.constant_(built.conv_reg.bias, .5 if built.norm_on_bbox else math.log(4))
    return built


FEATS = (torch.zeros(1, 4, 2, 3),)                      # points at 4, 12, 20 x 4, 12
NEGATIVE, POSITIVE = .75 * .25 * math.log(2), .25 * .25 * math.log(2)        # focal loss at p = 0.5


def losses(h: FCOSHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 4, 2, 3),)), list(samples)).items()}


def test_centerness_is_one_in_the_middle_and_zero_on_a_side():
    found = centerness_of(torch.tensor([[4., 4, 4, 4], [1., 4, 4, 4], [0., 1, 5, 1]]))
    assert found.tolist() == pytest.approx([1, .5, 0])


def test_a_point_learns_the_smallest_object_around_it(sample: Callable):
    h = head()
    gt = sample([[0, 0, 16, 8], [0, 0, 8, 8]], [0, 1], size=(16, 24)).gt_instances
    labels, distances, which = h.targets_of_image(h.prior_generator([(2, 3)])[0], torch.tensor([[-1., 64.]]).expand(6, 2), gt)
    assert labels.tolist() == [1, 0, 2, 2, 2, 2] and which.tolist() == [1, 0, -1, -1, -1, -1]
    assert distances[:2].tolist() == [[4, 4, 4, 4], [12, 4, 4, 4]]


def test_a_level_learns_its_range_alone(sample: Callable):
    h = head(strides=[8, 16], regress_ranges=((-1, 8), (8, 64)))
    levels = h.prior_generator([(2, 3), (1, 2)])
    ranges = torch.cat([p.new_tensor(r).expand(len(p), 2) for p, r in zip(levels, h.regress_ranges)])
    labels, _, _ = h.targets_of_image(torch.cat(levels), ranges, sample([[0, 0, 16, 16]], [0], size=(16, 24)).gt_instances)
    assert labels.tolist() == [2, 2, 2, 2, 2, 2, 0, 2]        # 12 pixels to the far side; the coarse level's point sits in the middle


def test_center_sampling_keeps_the_middle(sample: Callable):
    gt = sample([[0, 0, 24, 16]], [0], size=(16, 24)).gt_instances
    ranges = torch.tensor([[-1., 64.]]).expand(6, 2)
    for radius, expected in ((0.6, [2, 0, 2, 2, 0, 2]), (1.5, [0] * 6)):
        h = head(center_sampling=True, center_sample_radius=radius)
        assert h.targets_of_image(h.prior_generator([(2, 3)])[0], ranges, gt)[0].tolist() == expected


def test_losses_by_hand(sample: Callable):
    found = losses(head(loss_bbox=dict(type='GIoULoss')), sample([[0, 0, 8, 8]], [1], size=(16, 24)))
    assert found == pytest.approx(dict(loss_cls=11 * NEGATIVE + POSITIVE, loss_bbox=0, loss_centerness=math.log(2)), abs=1e-5)
    empty = losses(head(), sample([], size=(16, 24)))
    assert empty == pytest.approx(dict(loss_cls=12 * NEGATIVE, loss_bbox=0, loss_centerness=0), abs=1e-5)


def test_distances_in_strides_are_cut_at_zero():
    h = head(norm_on_bbox=True)
    assert (h(FEATS).reg[0] == 4).all()
    nn.init.constant_(h.conv_reg.bias, -1.)
    assert (h(FEATS).reg[0] == 0).all()


def test_centerness_lowers_the_score_of_a_detection(sample: Callable):
    found = head().predict(head()(FEATS), [sample([], size=(16, 24))])[0]
    assert found.scores.tolist() == pytest.approx([.25] * 12) and found.bboxes[0].tolist() == [0, 0, 8, 8]


def test_every_parameter_learns_even_without_objects(sample: Callable):
    h = head()
    sum(h.loss(h(FEATS), [sample([], size=(16, 24))]).values()).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_the_last_convolution_of_both_towers_may_be_deformable():
    h = head(stacked_convs=2, dcn_on_last_conv=True, conv_bias=True)
    for tower in (h.cls_convs, h.reg_convs):
        assert [isinstance(m.conv, ModulatedDeformConv2d) for m in tower] == [False, True] and tower[1].conv.bias is not None
    assert h(FEATS).cls[0].shape == (1, 6, 2)


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ConfigError, match='train_cfg'):
        head(train_cfg=dict(assigner=dict(type='MaxIoUAssigner')))
    with pytest.raises(ConfigError, match='regress_ranges has 1 entries, strides has 2'):
        head(strides=[8, 16])
