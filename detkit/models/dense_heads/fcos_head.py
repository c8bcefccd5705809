"""FCOS's head (https://arxiv.org/abs/1904.01355)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.dense_heads.outputs import (
    DenseOutputs,
    detections,
    flatten_level,
    padded_detections,
    priors_and_ranges,
    refuse_background_score,
    sigmoid_scores,
)
from detkit.models.settings import DensePostprocess, settings
from detkit.models.targets import AssignedBy
from detkit.nn.conv import Scale, conv_tower
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections

INF = 1e8
INIT = dict(type='Normal', layer='Conv2d', std=0.01, override=dict(type='Normal', name='conv_cls', std=0.01, bias_prob=0.01))


@dataclass(frozen=True)
class PointTargets:
    """Targets of every point."""

    labels: Tensor       # (N, A) int64; num_classes is background
    distances: Tensor    # (N, A, 4) distances in pixels to the sides of the matched object, for positives
    matched: Tensor      # (N, A) int64: index of the matched object; -1: none
    priors: Tensor       # (N, A, 4) x, y, stride, stride
    assigned_by: AssignedBy = 'geometry'

    @property
    def matched_objects(self) -> list[Tensor]:
        return [which[which >= 0].unique() for which in self.matched]


@MODELS.register_module()
class FCOSHead(BaseModule):
    """Predict class, distances to the four box sides and centerness at each point. A point is matched to the smallest object that contains
    it.

    Args:
        regress_ranges: (min, max) of max(l, t, r, b) in pixels, for each level.
        center_sampling: only points within ``center_sample_radius`` strides of an object's centre are matched to it.
        norm_on_bbox: distances are predicted in strides and clamped at 0; otherwise the prediction is the log of the distance.
        centerness_on_reg: predict centerness from the regression tower instead of the classification tower.
        conv_bias: bias of the convolutions in the towers: 'auto' (only without a norm), True or False.
        dcn_on_last_conv: the last convolution of each tower is deformable.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4, feat_channels: int = 256,
                 strides: Sequence[int] = (4, 8, 16, 32, 64),
                 regress_ranges: Sequence[tuple[float, float]] = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, INF)),
                 center_sampling: bool = False, center_sample_radius: float = 1.5, norm_on_bbox: bool = False,
                 centerness_on_reg: bool = False, conv_bias: bool | Literal['auto'] = 'auto', dcn_on_last_conv: bool = False,
                 conv_cfg: dict | None = None, norm_cfg: dict | None = dict(type='GN', num_groups=32, requires_grad=True),
                 bbox_coder: dict = dict(type='DistancePointBBoxCoder'), loss_cls: dict = dict(type='FocalLoss'),
                 loss_bbox: dict = dict(type='IoULoss', loss_weight=1.0),
                 loss_centerness: dict = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0), train_cfg: dict | None = None,
                 test_cfg: dict | None = None, init_cfg: dict | None = INIT) -> None:
        super().__init__(init_cfg)
        if len(regress_ranges) != len(strides):
            raise ConfigError(f'FCOSHead regress_ranges has {len(regress_ranges)} entries, strides has {len(strides)}.')
        if train_cfg:
            raise ConfigError('FCOSHead train_cfg is not offered; leave it out.', train_cfg)
        self.num_classes, self.strides, self.regress_ranges = num_classes, tuple(strides), tuple(regress_ranges)
        self.radius = center_sample_radius if center_sampling else None
        self.norm_on_bbox, self.centerness_on_reg = norm_on_bbox, centerness_on_reg
        self.prior_generator = TASK_UTILS.build(dict(type='MlvlPointGenerator', strides=list(strides)))
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls, self.loss_bbox, self.loss_centerness = (MODELS.build(c) for c in (loss_cls, loss_bbox, loss_centerness))
        refuse_background_score(self.loss_cls, 'FCOSHead')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg')
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=conv_bias, dcn_on_last=dcn_on_last_conv)
        self.cls_convs = conv_tower(stacked_convs, in_channels, feat_channels, **options)
        self.reg_convs = conv_tower(stacked_convs, in_channels, feat_channels, **options)
        self.conv_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.conv_reg = nn.Conv2d(feat_channels, 4, 3, padding=1)
        self.conv_centerness = nn.Conv2d(feat_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        """Predict logits, distances and centerness; ``reg``: left, top, right, bottom in pixels of the network input; ``quality``:
        centerness."""
        cls, reg, centerness = [], [], []
        for x, scale, stride in zip(feats, self.scales, self.strides):
            c = r = x
            for conv in self.cls_convs:
                c = conv(c)
            for conv in self.reg_convs:
                r = conv(r)
            distances = scale(self.conv_reg(r)).float()
            cls.append(flatten_level(self.conv_cls(c), self.num_classes))
            reg.append(flatten_level(distances.clamp(min=0) * stride if self.norm_on_bbox else distances.exp(), 4))
            centerness.append(flatten_level(self.conv_centerness(r if self.centerness_on_reg else c), 1).squeeze(-1))
        return DenseOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats], quality=centerness)

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        t = self.targets(out, samples)
        positive = t.matched >= 0                                                                   # (N, A)
        cls, reg, quality = torch.cat(out.cls, 1), torch.cat(out.reg, 1)[positive], torch.cat(out.quality, 1)[positive]
        num_pos = mean_over_processes(positive.sum().float()).clamp(min=1)
        at, target = t.priors[positive], t.distances[positive]
        centerness = centerness_of(target)
        total = mean_over_processes(centerness.sum()).clamp(min=1e-6)
        loss_cls = self.loss_cls(cls.flatten(0, 1), t.labels.flatten(), avg_factor=num_pos)
        if len(target) == 0:
            return dict(loss_cls=loss_cls, loss_bbox=reg.sum(), loss_centerness=quality.sum())
        return dict(loss_cls=loss_cls,
                    loss_bbox=self.loss_bbox(self.coder.decode(at, reg), self.coder.decode(at, target), centerness, total),
                    loss_centerness=self.loss_centerness(quality, centerness, avg_factor=num_pos))

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> PointTargets:
        priors, ranges = priors_and_ranges(self.prior_generator, self.regress_ranges, out)
        parts = zip(*[self.targets_of_image(priors, ranges, s.gt_instances) for s in samples])
        return PointTargets(*map(torch.stack, parts), priors.expand(len(samples), -1, -1))

    def targets_of_image(self, priors: Tensor, ranges: Tensor, gt: InstanceData) -> tuple[Tensor, Tensor, Tensor]:
        """Return labels (A,), background = K; distances (A, 4) to the sides of each point's object (Sec. 3.2); and its index (A,), -1:
        none.

        ``priors`` (A, 4) x, y, stride, stride; ``ranges`` (A, 2) pixels.
        """
        if len(gt) == 0:
            nothing = priors.new_full((len(priors),), -1, dtype=torch.long)
            return torch.full_like(nothing, self.num_classes), priors.new_zeros(len(priors), 4), nothing
        points = priors[:, None, :2]
        d = torch.cat([points - gt.bboxes[:, :2], gt.bboxes[:, 2:] - points], -1)                   # (A, G, 4)
        inside = d.amin(-1) > 0 if self.radius is None else self.near_center(points, priors[:, None, 2:], gt.bboxes)
        longest = d.amax(-1)
        candidate = inside & (longest >= ranges[:, :1]) & (longest <= ranges[:, 1:])
        area = (gt.bboxes[:, 2:] - gt.bboxes[:, :2]).prod(-1).expand(len(priors), -1).masked_fill(~candidate, INF)
        smallest, which = area.min(1)
        background = smallest == INF
        return (gt.labels[which].masked_fill(background, self.num_classes), d[torch.arange(len(d), device=d.device), which],
                which.masked_fill(background, -1))

    def near_center(self, points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
        """Return a mask (A, G): points inside a box and within ``radius`` strides of its centre. Shapes: (A, 1, 2), (A, 1, 2), (G, 4)."""
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        low, high = (centers - strides * self.radius).maximum(boxes[:, :2]), (centers + strides * self.radius).minimum(boxes[:, 2:])
        return torch.cat([points - low, high - points], -1).amin(-1) > 0

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), self.coder.decode, self.postprocess, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        priors = self.prior_generator(out.sizes, out.device)
        return padded_detections(out, sigmoid_scores, priors, self.coder.decode, self.postprocess, sizes)


def centerness_of(distances: Tensor) -> Tensor:
    """Return the centerness of points: 1 at the centre of the box, 0 on a side (eq. 3). (n, 4) -> (n,)."""
    x, y = distances[:, [0, 2]], distances[:, [1, 3]]
    return (x.amin(1) / x.amax(1) * (y.amin(1) / y.amax(1))).sqrt()
