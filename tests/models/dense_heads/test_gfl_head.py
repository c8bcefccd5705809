"""GFLHead: distributions and losses worked out by hand."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from detkit.models.dense_heads.gfl_head import GFLHead, Integral
from detkit.registry import MODELS, ConfigError


def head(**cfg: object) -> GFLHead:
    """One level of stride 8, three bins: distances spread evenly over 0, 1, 2 strides, so 8 pixels each; class scores 0.5."""
    built = MODELS.build(dict(dict(
        type='GFLHead', num_classes=2, in_channels=4, stacked_convs=1, feat_channels=4, reg_max=2, norm_cfg=None,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.], octave_base_scale=1, scales_per_octave=1, strides=[8], center_offset=.5),
        train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=4)), test_cfg=dict(nms=dict(type='nms', iou_threshold=.5))), **cfg))
    for conv in (built.gfl_cls, built.gfl_reg):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    return built


FEATS = (torch.zeros(1, 4, 2, 3),)
BACKGROUND = .25 * math.log(2)                           # quality focal loss of p = 0.5 towards 0


def losses(h: GFLHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 4, 2, 3),)), list(samples)).items()}


def test_the_integral_is_the_expectation():
    logits = torch.tensor([[0., 0, 0, -99, 0, 0, 99, 0, 0, 0, -99, -99]])
    assert Integral(2)(logits)[0].tolist() == pytest.approx([1, 1.5, 0, 0])


def test_an_image_without_objects_is_all_background(sample: Callable):
    assert losses(head(), sample([], size=(16, 24))) == pytest.approx(dict(loss_cls=12 * BACKGROUND, loss_bbox=0, loss_dfl=0), rel=1e-5)


def test_an_object_by_hand(sample: Callable):
    found = losses(head(), sample([[8, 0, 16, 8]], [1], size=(16, 24)))      # an anchor of its own; the predicted box is 16 x 16 around it
    iou = 64 / 256
    own = abs(iou - .5)**2 * math.log(2)
    weight = .5                                                              # the class score
    assert found['loss_cls'] == pytest.approx(11 * BACKGROUND + own, rel=1e-5)
    assert found['loss_bbox'] == pytest.approx(2 * (1 - iou) * weight, rel=1e-4)        # divided by the sum of weights, at least 1
    assert found['loss_dfl'] == pytest.approx(.25 * math.log(3) * weight, rel=1e-4)     # each side half-way between bins 0 and 1


def test_predictions_are_the_expected_sides(sample: Callable):
    found = head().predict(head()((torch.zeros(1, 4, 1, 1),)), [sample([], size=(64, 64))])[0]
    assert found.bboxes[0].tolist() == [0, 0, 12, 12] and found.scores.tolist() == [.5, .5]     # around (4, 4), cut at the border


def test_every_parameter_learns_even_without_objects(sample: Callable):
    h = head()
    sum(h.loss(h(FEATS), [sample([], size=(16, 24))]).values()).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_softmax_scores_are_refused():
    with pytest.raises(ConfigError, match='GFLHead loss_cls'):
        head(loss_cls=dict(type='CrossEntropyLoss'))
