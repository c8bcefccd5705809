"""YOLOXHead: losses by hand, what is a candidate, its options."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.models.dense_heads.yolox_head import YOLOXHead, boxes_of, encoded
from detkit.registry import MODELS, ConfigError

QUARTER = -math.log(3)                                 # logit of 0.25
NO = -math.log(.75)                                    # cross entropy of a score of 0.25 that should be 0
NMS = dict(type='nms', iou_threshold=.65)


def head(score: tuple[float, float] = (QUARTER, QUARTER), box: tuple = (.5, .5, 0., 0.), **cfg: object) -> YOLOXHead:
    """Whose predictions are its biases: by default each cell predicts itself, 0.25 for both classes, objectness 0.5."""
    built = MODELS.build(dict(dict(
        type='YOLOXHead', num_classes=2, in_channels=4, feat_channels=4, stacked_convs=1, strides=[8],
        train_cfg=dict(assigner=dict(type='SimOTAAssigner')), test_cfg=dict(nms=NMS)), **cfg))
    for convs, bias in ((built.multi_level_conv_cls, score), (built.multi_level_conv_reg, box), (built.multi_level_conv_obj, (0.,))):
        for conv in convs:
            nn.init.zeros_(conv.weight)
            conv.bias.data.copy_(torch.tensor(bias))
    return built.eval()


def losses(h: YOLOXHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 4, 2, 3),)), list(samples)).items()}


def towards(quality: float) -> float:
    """Cross entropy of a score of 0.25."""
    return -(quality * math.log(.25) + (1 - quality) * math.log(.75))


def test_an_image_without_objects_is_all_background(sample: Callable):
    assert losses(head(), sample([], size=(16, 24))) == pytest.approx(dict(loss_cls=0., loss_bbox=0., loss_obj=6 * math.log(2)))


def test_an_object_by_hand(sample: Callable):
    # six cells; the first predicts 0..8 x 0..8: IoU .75 with the object, which holds no other's middle
    found = losses(head(), sample([[0, 0, 8, 6]], [1], size=(16, 24)))
    assert found == pytest.approx(dict(loss_cls=towards(.75) + NO, loss_bbox=5 * (1 - .75**2), loss_obj=6 * math.log(2)), rel=1e-5)


def test_the_middle_of_a_cell_decides_and_its_corner_is_where_the_box_counts_from(sample: Callable):
    # the object holds the middle (4, 4) of the first cell and no corner
    found = losses(head(), sample([[1, 1, 7, 7]], [0], size=(16, 24)))
    assert found['loss_bbox'] == pytest.approx(5 * (1 - (36 / 64)**2), rel=1e-5)
    shifted = head(box=(.25, .25, math.log(.5), math.log(.5)))             # 0..4 x 0..4
    found = losses(shifted, sample([[0, 0, 4.5, 4.5]], [0], size=(16, 24)))
    assert found['loss_bbox'] == pytest.approx(5 * (1 - (16 / 20.25)**2), rel=1e-5)


def test_losses_are_divided_by_the_positives_of_the_batch(sample: Callable):
    one, none = sample([[0, 0, 8, 6]], [1], size=(16, 24)), sample([], size=(16, 24))
    found = losses(head(), one, one, none)
    assert found == pytest.approx(dict(loss_cls=towards(.75) + NO, loss_bbox=5 * (1 - .75**2), loss_obj=9 * math.log(2)), rel=1e-5)


def test_l1_on_raw_boxes_when_it_is_switched_on(sample: Callable):
    h, one = head(), sample([[0, 0, 8, 6]], [1], size=(16, 24))
    assert set(losses(h, one)) == {'loss_cls', 'loss_bbox', 'loss_obj'}
    h.use_l1 = True
    assert losses(h, one)['loss_l1'] == pytest.approx(.5 - .375 - math.log(.75), rel=1e-5)      # y of the centre, log of the height
    assert losses(h, sample([], size=(16, 24)))['loss_l1'] == 0


def test_raw_numbers_and_boxes_are_each_others_inverse():
    corners = torch.tensor([[8., 16., 8., 8.], [32., 0., 32., 32.]])
    raw = torch.tensor([[.5, -1., .3, -.7], [2., 0., 0., 1.]])
    boxes = boxes_of(corners, raw)
    assert_close(boxes[0, :2] + boxes[0, 2:], torch.tensor([24., 16.]))
    assert_close(encoded(corners, boxes), raw)


def test_no_size_overflows():
    assert torch.isfinite(boxes_of(torch.tensor([[8., 16., 8., 8.]]), torch.tensor([[.5, .5, 1000., 1000.]]))).all()


def test_every_parameter_learns_even_without_objects(sample: Callable):
    h = head(use_depthwise=True).train()
    h.use_l1 = True
    sum(h.loss(h((torch.randn(2, 4, 2, 3),)), [sample([], size=(16, 24))] * 2).values()).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_sizes_that_overflow_leave_no_trace_in_the_gradient(sample: Callable):
    h = head(box=(.5, .5, 200., 0.))
    h.loss(h((torch.zeros(1, 4, 2, 3),)), [sample([], size=(16, 24))])['loss_bbox'].backward()
    assert h.multi_level_conv_reg[0].bias.grad.tolist() == [0, 0, 0, 0]


def test_a_cell_detects_its_best_class_if_objectness_times_score_reaches_the_threshold(sample: Callable):
    h = head(score=(QUARTER, 0.), test_cfg=dict(score_thr=.2, nms=NMS))
    found = h.predict(h((torch.zeros(1, 4, 2, 3),)), [sample([], size=(16, 24))])[0]
    assert len(found) == 6 and found.labels.tolist() == [1] * 6
    assert_close(found.scores, torch.full((6,), .25))
    h = head(score=(QUARTER, 0.), test_cfg=dict(score_thr=.3, nms=NMS))
    assert len(h.predict(h((torch.zeros(1, 4, 2, 3),)), [sample([])])[0]) == 0


def test_detections_overlap_little_and_may_be_bounded(sample: Callable):
    wide = (.5, .5, math.log(20.), math.log(20.))                          # 160 pixels: all overlap by more than .65
    h = head(box=wide)
    out = h((torch.zeros(1, 4, 2, 3),))
    assert len(h.predict(out, [sample([])])[0]) == 1
    assert len(head(box=wide, test_cfg=dict(nms=dict(type='nms', iou_threshold=.99))).predict(out, [sample([])])[0]) == 6
    assert len(head(test_cfg=dict(nms=NMS, max_per_img=4)).predict(head()((torch.zeros(1, 4, 2, 3),)), [sample([])])[0]) == 4


def test_initial_scores_are_one_percent():
    h = MODELS.build(dict(type='YOLOXHead', num_classes=2, in_channels=4, feat_channels=4))
    h.init_weights()
    for conv in (*h.multi_level_conv_cls, *h.multi_level_conv_obj):
        assert_close(conv.bias.sigmoid(), torch.full_like(conv.bias, .01))
    assert len(h.multi_level_conv_obj) == 3 and h.multi_level_conv_cls[0].weight.abs().max() <= 4**-.5


def test_options_reach_the_layers():
    deformable = head(dcn_on_last_conv=True, stacked_convs=2).state_dict()
    assert {k.split('.')[2] for k in deformable if 'conv_offset' in k} == {'1'}
    assert 'multi_level_reg_convs.0.0.conv.bias' in head(conv_bias=True).state_dict()
    assert 'multi_level_reg_convs.0.0.conv.bias' not in head().state_dict()
    assert 'multi_level_cls_convs.0.0.depthwise_conv.bn.weight' in head(use_depthwise=True).state_dict()


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(loss_cls=dict(type='CrossEntropyLoss')), 'YOLOXHead loss_cls is a softmax loss'),
    (dict(train_cfg=dict(assigner=dict(type='SimOTAAssigner'), sampler=dict(type='PseudoSampler'))), "model.train_cfg has no 'sampler'"),
    (dict(test_cfg=dict(nms=NMS, score_threshold=.1)), "model.test_cfg has no 'score_threshold'. Did you mean 'score_thr'"),
    (dict(test_cfg=dict(nms=dict(type='nms'))), "needs 'iou_threshold'")])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        head(**cfg)
    assert said in str(caught.value)


def test_another_number_of_maps_than_of_strides_is_refused(sample: Callable):
    h = MODELS.build(dict(type='YOLOXHead', num_classes=2, in_channels=4, feat_channels=4, test_cfg=dict(nms=NMS)))
    with pytest.raises(ConfigError, match='strides for 3 levels; the head was given 1 feature maps'):
        h.predict(h((torch.zeros(1, 4, 2, 3),)), [sample([])])
