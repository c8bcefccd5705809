"""RetinaHead: losses worked out by hand, and what MMDetection's configs may ask of it."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.models.dense_heads.retina_head import RetinaHead
from detkit.registry import MODELS, ConfigError

# one anchor of 8 x 8 pixels around each cell's corner
ANCHORS = dict(type='AnchorGenerator', strides=[8], ratios=[1.], scales=[1.], center_offset=0.5)
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.4, match_low_quality=False)


def head(**cfg: object) -> RetinaHead:
    """Whose predictions are its biases: 0.25 for every class, no shift of any box."""
    built = MODELS.build(dict(dict(
        type='RetinaHead', num_classes=2, in_channels=4, stacked_convs=1, feat_channels=4, anchor_generator=ANCHORS,
        train_cfg=dict(assigner=ASSIGNER), test_cfg=dict(nms=dict(type='nms', iou_threshold=.5))), **cfg))
    for conv in (built.retina_cls, built.retina_reg):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    nn.init.constant_(built.retina_cls.bias, -math.log(3))
    return built


FEATS = (torch.zeros(1, 4, 2, 3),)
NEGATIVE = .75 * .25**2 * -math.log(.75)          # alpha = .25, gamma = 2, p = .25
POSITIVE = .25 * .75**2 * -math.log(.25)


def losses(h: RetinaHead, *samples: object) -> dict[str, float]:
    feats = (torch.zeros(len(samples), 4, 2, 3),)
    return {k: v.item() for k, v in h.loss(h(feats), list(samples)).items()}


def test_an_image_without_objects_is_all_background(sample: Callable):
    found = losses(head(), sample([], size=(16, 24)))
    assert found == pytest.approx(dict(loss_cls=6 * 2 * NEGATIVE, loss_bbox=0.), rel=1e-5)


def test_an_object_on_an_anchor_by_hand(sample: Callable):
    # moved by 2 pixels: IoU 0.6; deltas 2 / 8 in x
    found = losses(head(), sample([[10, 0, 18, 8]], [1], size=(16, 24)))
    assert found == pytest.approx(dict(loss_cls=11 * NEGATIVE + POSITIVE, loss_bbox=.25), rel=1e-5)


def test_losses_are_divided_by_the_positives_of_the_batch(sample: Callable):
    two = sample([[0, 0, 8, 8], [10, 0, 18, 8]], [0, 1], size=(16, 24))
    one = sample([[10, 0, 18, 8]], [1], size=(16, 24))
    found = losses(head(), two, one)
    assert found == pytest.approx(dict(loss_cls=(21 * NEGATIVE + 3 * POSITIVE) / 3, loss_bbox=.5 / 3), rel=1e-5)


def test_cells_in_the_padding_cost_nothing(sample: Callable):
    found = losses(head(), sample([], size=(16, 16), pad_shape=(16, 16)))
    assert found['loss_cls'] == pytest.approx(4 * 2 * NEGATIVE, rel=1e-5)


def test_a_box_loss_may_see_boxes(sample: Callable):
    found = losses(head(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss')), sample([[10, 0, 18, 8]], [1], size=(16, 24)))
    assert found['loss_bbox'] == pytest.approx(1 - .6, rel=1e-5)
    empty = losses(head(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss')), sample([], size=(16, 24)))
    assert empty['loss_bbox'] == 0


def test_every_parameter_learns_even_without_objects(sample: Callable):
    h = head()
    sum(h.loss(h(FEATS), [sample([], size=(16, 24))]).values()).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_predictions_are_the_anchors(sample: Callable):
    h = head()
    found = h.predict(h((torch.zeros(1, 4, 1, 2),)), [sample([], size=(8, 16))])[0]
    assert len(found) == 4
    assert_close(found.scores, torch.full((4,), .25))
    assert sorted(map(tuple, found.bboxes.tolist())) == [(0, 0, 8, 8), (0, 0, 8, 8), (8, 0, 16, 8), (8, 0, 16, 8)]
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1]


def test_towers_are_shared_over_levels():
    h = head(anchor_generator=dict(ANCHORS, strides=[8, 16]))
    x = torch.randn(1, 4, 2, 2)
    out = h((x, x))
    assert_close(out.cls[0], out.cls[1])
    assert out.sizes == [(2, 2), (2, 2)]


def test_scores_start_at_one_percent():
    torch.manual_seed(0)
    h = head()
    h.init_weights()
    assert_close(h.retina_cls.bias.sigmoid(), torch.full((2,), .01))
    assert h.retina_reg.bias.abs().max() == 0
    assert h.cls_convs[0].conv.weight.std().item() == pytest.approx(.01, rel=.3)


def test_names_are_mmdetections():
    keys = head(norm_cfg=dict(type='BN')).state_dict()
    assert {'cls_convs.0.conv.weight', 'cls_convs.0.bn.weight', 'reg_convs.0.conv.weight', 'retina_cls.bias',
            'retina_reg.weight'} <= set(keys)


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(loss_cls=dict(type='CrossEntropyLoss')), 'RetinaHead loss_cls is a softmax loss (CrossEntropyLoss)'),
    (dict(train_cfg=dict(assigner=ASSIGNER, allowed_boarder=0)), "model.train_cfg has no 'allowed_boarder'. Did you mean 'allowed_border'"),
    (dict(test_cfg=dict(score_threshold=.1)), "model.test_cfg has no 'score_threshold'. Did you mean 'score_thr'")])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        head(**cfg)
    assert said in str(caught.value)


def test_another_number_of_levels_is_refused(sample: Callable):
    h = head(anchor_generator=dict(ANCHORS, strides=[8, 16]))
    with pytest.raises(ConfigError, match='AnchorGenerator has strides for 2 levels; the head was given 1 feature maps'):
        h.loss(h(FEATS), [sample([])])


def test_without_train_cfg_it_predicts(sample: Callable):
    h = head(train_cfg=None)
    assert len(h.predict(h(FEATS), [sample([])])[0]) > 0
