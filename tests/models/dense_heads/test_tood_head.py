"""TOODHead: boxes, assignments by epoch and losses worked out by hand."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.engine.hooks.replay import set_train_state
from detkit.models.dense_heads.tood_head import TaskDecomposition, TOODHead, geometric_mean, moved
from detkit.nn.deform_conv import ModulatedDeformConv2d
from detkit.registry import MODELS, ConfigError
from detkit.structures.train_state import TrainState


def head(**cfg: object) -> TOODHead:
    """One level of stride 8 with an anchor of 8 x 8 in each cell; scores 0.5, boxes of one stride to each side, no offsets."""
    built = MODELS.build(dict(dict(
        type='TOODHead', num_classes=2, in_channels=8, stacked_convs=1, feat_channels=8, norm_cfg=None,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.], octave_base_scale=1, scales_per_octave=1, strides=[8], center_offset=.5),
        train_cfg=dict(initial_epoch=4, initial_assigner=dict(type='ATSSAssigner', topk=4),
                       assigner=dict(type='TaskAlignedAssigner', topk=13), alpha=1, beta=2),
        test_cfg=dict(nms=dict(type='nms', iou_threshold=.5))), **cfg))
    for conv in (built.tood_cls, built.tood_reg, built.cls_prob_module[2], built.reg_offset_module[2]):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    return built


FEATS = (torch.zeros(1, 8, 2, 3),)                      # anchors around 4, 12, 20 x 4, 12


def losses(h: TOODHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 8, 2, 3),)), list(samples)).items()}


def test_boxes_are_a_stride_to_each_side_of_the_centre_or_the_anchors_themselves():
    assert head()(FEATS).reg[0][0, :2].tolist() == [[-4, -4, 12, 12], [4, -4, 20, 12]]
    assert head(anchor_type='anchor_based')(FEATS).reg[0][0, 1].tolist() == [8, 0, 16, 8]


def test_the_first_epochs_learn_by_place(sample: Callable):
    found = losses(head(), sample([[8, 0, 16, 8]], [1], size=(16, 24)))      # the second anchor; its predicted box is 16 x 16 around it
    negative, positive = .75 * .25 * math.log(2), .25 * .25 * math.log(2)    # focal loss at p = 0.5
    assert found == pytest.approx(dict(loss_cls=11 * negative + positive, loss_bbox=2 * (1 - 64 / 256)), rel=1e-4)


def test_later_epochs_learn_by_alignment(sample: Callable):
    h = head()
    h.train_state = TrainState(epoch=4)
    found = losses(h, sample([[8, 0, 16, 8]], [1], size=(16, 24)))
    iou = 64 / 256                                                           # of the only anchor inside, so its target as well
    own = math.log(2) * (.5 - iou)**2
    assert found == pytest.approx(dict(loss_cls=11 * .25 * math.log(2) + own, loss_bbox=2 * (1 - iou) * iou), rel=1e-3)


def test_the_epoch_comes_from_the_state_of_the_training():
    h = head()
    assert h.at_start()
    set_train_state(nn.Sequential(h), TrainState(epoch=3))
    assert h.at_start()
    set_train_state(nn.Sequential(h), TrainState(epoch=4))
    assert not h.at_start() and head().at_start()


@pytest.mark.parametrize('epoch', [0, 4])
def test_every_parameter_learns_even_without_objects(sample: Callable, epoch: int):
    h = head()
    h.train_state = TrainState(epoch=epoch)
    sum(h.loss(h(FEATS), [sample([], size=(16, 24))]).values()).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('epoch', [0, 4])
def test_a_batch_is_the_mean_of_its_images_where_positives_are_alike(sample: Callable, epoch: int):
    h = head()
    h.train_state = TrainState(epoch=epoch)
    samples = [sample([[0, 0, 8, 8]], [0], size=(16, 24)), sample([[16, 8, 24, 16]], [1], size=(16, 24))]
    both, alone = losses(h, *samples), [losses(h, s) for s in samples]
    factor = 2 if epoch == 0 else 1                                          # alignments sum up to less than 1: divided by 1
    for name in both:
        assert both[name] == pytest.approx(sum(a[name] for a in alone) / factor, rel=1e-3)


def test_predictions(sample: Callable):
    h = head()
    nn.init.constant_(h.tood_cls.bias, 2.)
    found = h.predict(h((torch.zeros(1, 8, 1, 1),)), [sample([], size=(64, 64))])[0]
    assert found.bboxes.tolist() == [[-4, -4, 12, 12]] * 2                   # sampled boxes are not cut
    assert found.scores.tolist() == pytest.approx([math.sqrt(.5 / (1 + math.exp(-2)))] * 2)


def test_a_side_is_taken_from_where_its_offset_points():
    boxes = torch.tensor([[0., 0, 2, 2], [1, 1, 5, 5]]).t().reshape(1, 4, 1, 2)
    offset = torch.zeros(1, 8, 1, 2)
    offset[0, 2 * 2 + 1, 0, 0] = .5                                          # right side of the first: dx
    assert moved(boxes, offset)[0, :, 0, 0].tolist() == [0, 0, 3.5, 2]
    boxes[0, 0, 0, 1] = 3.
    offset[0, 1, 0, 0], offset[0, 5, 0, 0] = 1., 0.                          # left side of the first from the second: right of its right
    assert moved(boxes, offset)[0, :, 0, 0].tolist() == [0, 0, 2, 2]


def test_the_geometric_mean_of_two_scores():
    a, b = torch.tensor([-4., 0., 3.]), torch.tensor([1., 0., 2.])
    assert_close(geometric_mean(a, b).sigmoid(), (a.sigmoid() * b.sigmoid()).sqrt())
    extreme = torch.tensor([-1e4, 1e4], requires_grad=True)
    out = geometric_mean(extreme, extreme)
    assert torch.isfinite(out).all() and torch.isfinite(torch.autograd.grad(out.sum(), extreme)[0]).all()


def test_decomposition_is_a_convolution_of_attended_layers():
    torch.manual_seed(0)
    module = TaskDecomposition(8, 3, dict(type='GN', num_groups=2))
    feats = torch.randn(2, 24, 4, 5)
    mean = feats.mean((2, 3), keepdim=True)
    attended = feats * module.layer_attention(mean).repeat_interleave(8, 1)
    assert_close(module(feats, mean), module.reduction_conv(attended))


def test_initial_weights():
    h = head(num_dcn=1, stacked_convs=2, feat_channels=64)
    h.init_weights()
    assert isinstance(h.inter_convs[0].conv, ModulatedDeformConv2d) and isinstance(h.inter_convs[1].conv, nn.Conv2d)
    assert (h.inter_convs[0].conv.conv_offset.weight == 0).all()
    for weight, std in ((h.inter_convs[0].conv.weight, .01), (h.inter_convs[1].conv.weight, .01),
                        (h.reg_decomp.layer_attention[0].weight, .001), (h.reg_decomp.reduction_conv.conv.weight, .01),
                        (h.reg_offset_module[0].weight, .001), (h.tood_reg.weight, .01)):
        assert weight.std().item() == pytest.approx(std, rel=.1)
    for bias in (h.tood_cls.bias, h.cls_prob_module[2].bias):
        assert bias.sigmoid().tolist() == pytest.approx([.01] * len(bias))


def test_settings_that_cannot_be_are_named():
    for cfg, said in ((dict(anchor_type='free'), "anchor_type='free'"), (dict(num_dcn=2), 'num_dcn=2 lie between 0 and stacked_convs=1'),
                      (dict(anchor_generator=dict(type='AnchorGenerator', ratios=[1.], scales=[1, 2], strides=[8])), 'one anchor, not 2'),
                      (dict(loss_cls=dict(type='CrossEntropyLoss')), 'TOODHead loss_cls'),
                      (dict(initial_loss_cls=dict(type='CrossEntropyLoss')), 'TOODHead loss_cls'),
                      (dict(train_cfg=dict(assigner=dict(type='TaskAlignedAssigner', topk=1), gamma=2)), "model.train_cfg has no 'gamma'")):
        with pytest.raises(ConfigError, match=said):
            head(**cfg)
