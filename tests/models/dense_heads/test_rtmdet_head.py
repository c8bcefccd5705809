"""RTMDetSepBNHead: shared convolutions, losses by hand, its options."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.models.dense_heads.rtmdet_head import RTMDetSepBNHead, geometric_mean_logits
from detkit.registry import MODELS, ConfigError

POINTS = dict(type='MlvlPointGenerator', offset=0, strides=[8])
TRAINING = dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13))


def head(distance: float = .5, **cfg: object) -> RTMDetSepBNHead:
    """Whose predictions are its biases: 0.25 for every class, ``distance`` strides to every side."""
    built = MODELS.build(dict(dict(
        type='RTMDetSepBNHead', num_classes=2, in_channels=4, feat_channels=4, stacked_convs=1, with_objectness=False,
        anchor_generator=POINTS, train_cfg=TRAINING, test_cfg=dict(nms=dict(type='nms', iou_threshold=.6))), **cfg))
    for convs, bias in ((built.rtm_cls, -math.log(3)), (built.rtm_reg, distance), (built.rtm_obj, 0.)):
        for conv in convs:
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.bias, bias)
    return built.eval()


def losses(h: RTMDetSepBNHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 4, 2, 3),)), list(samples)).items()}


NEGATIVE = .25**2 * -math.log(.75)


def towards(quality: float) -> float:
    """Quality focal loss of a score of 0.25."""
    return abs(quality - .25)**2 * -(quality * math.log(.25) + (1 - quality) * math.log(.75))


def test_an_image_without_objects_is_all_background(sample: Callable):
    assert losses(head(), sample([], size=(16, 24))) == pytest.approx(dict(loss_cls=12 * NEGATIVE, loss_bbox=0.), rel=1e-5)


def test_an_object_by_hand(sample: Callable):
    # around the point (8, 8): predicted 4..12; the object 4..12 x 4..10 has IoU .75 and GIoU .75; factor: at least 1
    found = losses(head(), sample([[4, 4, 12, 10]], [1], size=(16, 24)))
    assert found['loss_cls'] == pytest.approx(11 * NEGATIVE + towards(.75), rel=1e-5)
    assert found['loss_bbox'] == pytest.approx(2 * .25 * .75, rel=1e-5)


def test_losses_are_divided_by_the_summed_quality_of_the_batch(sample: Callable):
    one = sample([[4, 4, 12, 10]], [1], size=(16, 24))
    found = losses(head(), one, one)
    assert found['loss_cls'] == pytest.approx((22 * NEGATIVE + 2 * towards(.75)) / 1.5, rel=1e-5)
    assert found['loss_bbox'] == pytest.approx(2 * 2 * .25 * .75 / 1.5, rel=1e-5)


def test_cells_in_the_padding_cost_nothing(sample: Callable):
    assert losses(head(), sample([], size=(16, 16)))['loss_cls'] == pytest.approx(8 * NEGATIVE, rel=1e-5)


def test_every_parameter_learns_even_without_objects(sample: Callable):
    for objectness in (False, True):
        h = head(with_objectness=objectness).train()
        sum(h.loss(h((torch.randn(2, 4, 2, 3),)), [sample([], size=(16, 24))] * 2).values()).backward()
        assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_distances_are_strides_or_their_exponential(sample: Callable):
    assert_close(head(.5)((torch.zeros(1, 4, 1, 1),)).reg[0], torch.full((1, 1, 4), 4.))
    assert_close(head(.5, exp_on_reg=True)((torch.zeros(1, 4, 1, 1),)).reg[0], torch.full((1, 1, 4), 8 * math.exp(.5)))
    found = head(.5).predict(head(.5)((torch.zeros(1, 4, 1, 2),)), [sample([])])[0]
    assert sorted({tuple(b) for b in found.bboxes.tolist()}) == [(0, 0, 4, 4), (4, 0, 12, 4)]      # clipped to the image


def test_objectness_joins_by_the_geometric_mean():
    out = head(with_objectness=True)((torch.zeros(1, 4, 1, 1),))
    assert_close(out.cls[0].sigmoid(), torch.full((1, 1, 2), math.sqrt(.25 * .5)))
    assert_close(geometric_mean_logits(torch.tensor([2.]), torch.tensor([2.])), torch.tensor([2.]))
    extremes = geometric_mean_logits(torch.tensor([-200., 200.]), torch.tensor([-200., 200.]))
    assert torch.isfinite(extremes).all()


def two_levels(share: bool) -> RTMDetSepBNHead:
    return head(anchor_generator=dict(POINTS, strides=[8, 16]), share_conv=share, stacked_convs=2)


def test_levels_share_convolutions_and_not_norms():
    for share in (True, False):
        h = two_levels(share)
        for towers in (h.cls_convs, h.reg_convs):
            for first, second in zip(*towers):
                assert (first.conv is second.conv) is share
                assert first.bn is not second.bn
        assert h.rtm_cls[0] is not h.rtm_cls[1]
        assert {'cls_convs.1.1.conv.weight', 'reg_convs.0.0.bn.weight', 'rtm_cls.1.weight', 'rtm_reg.0.bias'} <= set(h.state_dict())


def test_shared_convolutions_survive_a_checkpoint():
    h, again = two_levels(True), two_levels(True)
    nn.init.uniform_(h.cls_convs[0][0].conv.weight)
    again.load_state_dict(h.state_dict())
    assert again.cls_convs[1][0].conv is again.cls_convs[0][0].conv
    x = torch.randn(1, 4, 2, 2)
    assert_close(again((x, x)).cls[1], h((x, x)).cls[1])


def test_initial_scores_are_one_percent():
    h = head(with_objectness=True)
    h.init_weights()
    for layer in (*h.rtm_cls, *h.rtm_obj):
        assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, .01))
    assert h.rtm_reg[0].bias.abs().max() == 0


def test_the_predicting_kernel_keeps_the_size():
    assert head(pred_kernel_size=3)((torch.zeros(1, 4, 2, 3),)).cls[0].shape == (1, 6, 2)


def test_wrong_settings_are_refused(sample: Callable):
    with pytest.raises(ConfigError, match='RTMDetSepBNHead loss_cls is a softmax loss'):
        head(loss_cls=dict(type='CrossEntropyLoss'))
    with pytest.raises(ConfigError, match="model.test_cfg has no 'nms_pree'. Did you mean 'nms_pre'"):
        head(test_cfg=dict(nms_pree=3))
    h = two_levels(True)
    with pytest.raises(ConfigError, match='MlvlPointGenerator has strides for 2 levels; the head was given 1 feature maps'):
        h.loss(h((torch.zeros(1, 4, 2, 3),)), [sample([])])
