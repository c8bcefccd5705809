"""SABLRetinaHead: losses worked out by hand, boxes and scores from its buckets."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from detkit.registry import MODELS, ConfigError

SQUARES = dict(type='AnchorGenerator', strides=[8], ratios=[1.], scales=[1.], center_offset=0.5)
BOTH = dict(type='AnchorGenerator', strides=[8], ratios=[1., 2.], scales=[1.], center_offset=0.5)
ASSIGNER = dict(type='ApproxMaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.4, match_low_quality=False)


def head(**cfg: object) -> nn.Module:
    """Whose predictions are its biases: 0.25 for every class, every bucket at 0.5, no offset. Buckets are 4 pixels wide."""
    built = MODELS.build(dict(dict(
        type='SABLRetinaHead', num_classes=2, in_channels=4, stacked_convs=1, feat_channels=4, approx_anchor_generator=BOTH,
        square_anchor_generator=SQUARES, bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=4, scale_factor=2.),
        train_cfg=dict(assigner=ASSIGNER), test_cfg=dict(nms=dict(type='nms', iou_threshold=.5))), **cfg))
    for conv in (built.retina_cls, built.retina_bbox_cls, built.retina_bbox_reg):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    nn.init.constant_(built.retina_cls.bias, -math.log(3))
    return built


def test_an_object_on_an_anchor_by_hand(sample: Callable):
    # a square at (8, 0, 16, 8): buckets of the left side centred at 6 and 10, of the right at 18 and 14, alike in y
    h = head()
    out = h((torch.zeros(1, 4, 2, 3),))
    found = {k: v.item() for k, v in h.loss(out, [sample([[10, 0, 18, 8]], [1], size=(16, 24))]).items()}
    negative, positive = .75 * .25**2 * -math.log(.75), .25 * .75**2 * -math.log(.25)
    assert found['loss_cls'] == pytest.approx(11 * negative + positive, rel=1e-5)
    # x: offsets (-1, 0) and (0, -1): the other bucket is one width away and so counts; y: (-0.5, 0.5): left out
    assert found['loss_bbox_cls'] == pytest.approx(1.5 * math.log(2) * 6 / 8, rel=1e-5)
    # smooth L1 with beta = 1/9 of 0.5, twice a side in y; nothing in x; over 4 sides x 2 buckets
    assert found['loss_bbox_reg'] == pytest.approx(1.5 * 4 * (.5 - 1 / 18) / 8, rel=1e-5)


def test_an_image_without_objects_costs_only_its_classes(sample: Callable):
    h = head()
    found = h.loss(h((torch.zeros(1, 4, 2, 3),)), [sample([], size=(16, 24))])
    assert found['loss_cls'] > 0 and found['loss_bbox_cls'] == 0 and found['loss_bbox_reg'] == 0


@pytest.mark.parametrize(('shares', 'sure'), [((.6, .3, .1), .9), ((.6, .1, .3), .6)])
def test_scores_are_weighed_by_the_buckets(sample: Callable, shares: tuple, sure: float):
    h = head(bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=6, scale_factor=2.))
    with torch.no_grad():
        h.retina_bbox_cls.bias.copy_(torch.tensor(shares).log().repeat(4))
    found = h.predict(h((torch.zeros(1, 4, 1, 1),)), [sample([], size=(8, 8))])[0]
    assert found.bboxes[0].tolist() == [0, 0, 7, 7]                    # the outermost buckets lie outside the image; the last pixel
    assert found.scores.tolist() == pytest.approx([.25 * sure] * 2)


def test_the_two_generators_must_fit():
    with pytest.raises(ConfigError, match='needs one scale, one ratio, and approx'):
        head(square_anchor_generator=BOTH)
