"""The head of CenterNet2's first stage, used as a detector (https://arxiv.org/abs/2103.07461, Sec. 5 "CenterNet*")."""
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

INF = 1e9
LEAST_HEAT, LEAST_PROBABILITY = 1e-4, 1e-4      # smaller targets become 0; the loss clamps scores to [eps, 1 - eps]
INIT = dict(type='Normal', layer='Conv2d', std=0.01, override=dict(type='Normal', name='conv_cls', std=0.01, bias_prob=0.01))


@dataclass(frozen=True)
class PyramidHeatmapTargets:
    """Targets of every cell, over all levels."""

    heat: Tensor         # (N, A, K) in [0, 1]
    distances: Tensor    # (N, A, 4) distances in pixels to the sides of the matched object, for positives
    matched: Tensor      # (N, A) int64: index of the matched object; -1: none
    priors: Tensor       # (N, A, 4) x, y, stride, stride
    assigned_by: AssignedBy = 'geometry'

    @property
    def matched_objects(self) -> list[Tensor]:
        return [which[which >= 0].unique() for which in self.matched]


@MODELS.register_module()
class CenterNetUpdateHead(BaseModule):
    """Predict a heatmap and the distances to the four box sides on every level of a pyramid.

    Box regression: on the levels whose range contains the object's size, the 3x3 cells around its centre learn its box. Heatmap: every
    object is a Gaussian on every level. Positives of the heatmap are the object's centre cells on the levels of its range, and those of the
    3x3 cells around its centre, on all levels, whose predicted boxes are good.

    Args:
        regress_ranges: (min, max) of half the diagonal of an object, in pixels, for each level.
        hm_min_radius, hm_min_overlap: min radius of a Gaussian in pixels, and the IoU that a shift by the radius leaves.
        more_pos_thresh, more_pos_topk: a neighbouring cell is positive if its box loss is below ``more_pos_thresh`` and among the
            ``more_pos_topk - 1`` smallest.
        soft_weight_on_reg: weight the box loss of a cell by its heatmap target.
        conv_bias: bias of the convolutions in the towers: 'auto' (only without a norm), True or False. ``dcn_on_last_conv``: the last
            convolution of each tower is deformable.
    """

    def __init__(self, num_classes: int, in_channels: int,
                 regress_ranges: Sequence[tuple[float, float]] = ((0, 80), (64, 160), (128, 320), (256, 640), (512, INF)),
                 hm_min_radius: int = 4, hm_min_overlap: float = 0.8, more_pos_thresh: float = 0.2, more_pos_topk: int = 9,
                 soft_weight_on_reg: bool = False, stacked_convs: int = 4, feat_channels: int = 256,
                 strides: Sequence[int] = (4, 8, 16, 32, 64), dcn_on_last_conv: bool = False, conv_bias: bool | Literal['auto'] = 'auto',
                 conv_cfg: dict | None = None, norm_cfg: dict | None = dict(type='GN', num_groups=32, requires_grad=True),
                 bbox_coder: dict = dict(type='DistancePointBBoxCoder'),
                 loss_cls: dict = dict(type='GaussianFocalLoss', pos_weight=0.25, neg_weight=0.75, loss_weight=1.0),
                 loss_bbox: dict = dict(type='GIoULoss', loss_weight=2.0), train_cfg: dict | None = None, test_cfg: dict | None = None,
                 init_cfg: dict | list | None = INIT) -> None:
        super().__init__(init_cfg)
        if len(regress_ranges) != len(strides):
            raise ConfigError(f'CenterNetUpdateHead regress_ranges has {len(regress_ranges)} entries, strides has {len(strides)}.')
        if train_cfg:
            raise ConfigError('CenterNetUpdateHead train_cfg is not offered; leave it out.', train_cfg)
        if not 1 <= more_pos_topk <= 9 * len(strides):
            raise ConfigError(f'CenterNetUpdateHead more_pos_topk={more_pos_topk} must lie between 1 and 9 cells on each of {len(strides)} '
                              f'levels.')
        self.num_classes, self.strides, self.regress_ranges = num_classes, tuple(strides), tuple(regress_ranges)
        self.least_radius, self.delta = hm_min_radius, (1 - hm_min_overlap) / (1 + hm_min_overlap)
        self.more_pos_thresh, self.more_pos_topk, self.soft_weight_on_reg = more_pos_thresh, more_pos_topk, soft_weight_on_reg
        self.prior_generator = TASK_UTILS.build(dict(type='MlvlPointGenerator', strides=list(strides)))
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls, self.loss_bbox = MODELS.build(loss_cls), MODELS.build(loss_bbox)
        refuse_background_score(self.loss_cls, 'CenterNetUpdateHead')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg')
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=conv_bias, dcn_on_last=dcn_on_last_conv)
        self.cls_convs = conv_tower(stacked_convs, in_channels, feat_channels, **options)
        self.reg_convs = conv_tower(stacked_convs, in_channels, feat_channels, **options)
        self.conv_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.conv_reg = nn.Conv2d(feat_channels, 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        """Predict heatmap logits and distances; ``reg``: left, top, right, bottom in pixels of the network input."""
        cls, reg = [], []
        for x, scale, stride in zip(feats, self.scales, self.strides):
            c = r = x
            for conv in self.cls_convs:
                c = conv(c)
            for conv in self.reg_convs:
                r = conv(r)
            cls.append(flatten_level(self.conv_cls(c), self.num_classes))
            reg.append(flatten_level(scale(self.conv_reg(r)).float().clamp(min=0) * stride, 4))
        return DenseOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats])

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls, reg, t = torch.cat(out.cls, 1), torch.cat(out.reg, 1), self.targets(out, samples)
        places = [self.good_places(t.priors[i], reg[i].detach(), out.sizes, s.gt_instances) for i, s in enumerate(samples)]
        image = torch.cat([torch.full_like(at, i) for i, (at, _) in enumerate(places)])
        at, labels = map(torch.cat, zip(*places))
        num_pos = mean_over_processes(torch.tensor(float(len(at)), device=cls.device)).clamp(min=1)
        scores = cls.sigmoid().clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        positive = t.matched >= 0
        weight = t.heat.amax(-1)[positive] if self.soft_weight_on_reg else t.heat.new_ones(int(positive.sum()))
        return dict(loss_cls=self.loss_cls(scores, t.heat, positives=(image, at, labels), avg_factor=num_pos),
                    loss_bbox=self.loss_bbox(*self.in_strides(t.priors[positive], reg[positive], t.distances[positive]), weight,
                                             mean_over_processes(weight.sum()).clamp(min=1)))

    def in_strides(self, points: Tensor, *distances: Tensor) -> list[Tensor]:
        """Return boxes for the loss, from points and strides (P, 4) and distances (P, 4) in pixels: the distances are divided by the
        stride."""
        return [self.coder.decode(points, d / points[:, 2:].repeat(1, 2)) for d in distances]

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> PyramidHeatmapTargets:
        priors, ranges = priors_and_ranges(self.prior_generator, self.regress_ranges, out)
        parts = zip(*[self.targets_of_image(priors, ranges, s.gt_instances) for s in samples])
        return PyramidHeatmapTargets(*map(torch.stack, parts), priors.expand(len(samples), -1, -1))

    def targets_of_image(self, priors: Tensor, ranges: Tensor, gt: InstanceData) -> tuple[Tensor, Tensor, Tensor]:
        """Return the heatmap (A, K), the distances (A, 4) in pixels to the sides of each cell's object, and the object's index (A,); -1:
        none.

        ``priors`` (A, 4) x, y, stride, stride; ``ranges`` (A, 2) pixels.
        """
        heat = priors.new_zeros(len(priors), self.num_classes)
        if len(gt) == 0:
            return heat, priors.new_zeros(len(priors), 4), priors.new_full((len(priors),), -1, dtype=torch.long)
        points, strides = priors[:, None, :2], priors[:, None, 2:]
        centers, size = (gt.bboxes[:, :2] + gt.bboxes[:, 2:]) / 2, gt.bboxes[:, 2:] - gt.bboxes[:, :2]
        d = torch.cat([points - gt.bboxes[:, :2], gt.bboxes[:, 2:] - points], -1)                                   # (A, G, 4)
        from_cell = points - ((centers / strides).int() * strides + strides / 2)                                    # (A, G, 2)
        reach = half_diagonal(gt.bboxes)
        learns = (d.amin(-1) > 0) & (from_cell.abs() <= strides).all(-1) & (reach >= ranges[:, :1]) & (reach <= ranges[:, 1:])
        distance = ((points - centers)**2).sum(-1).masked_fill((from_cell == 0).all(-1), 0)
        distance = distance / (self.delta**2 * 2 * size.prod(-1)).clamp(min=self.least_radius**2)
        nearest, which = distance.masked_fill(~learns, INF).min(1)
        for label in gt.labels.unique().tolist():
            heat[:, label] = torch.exp(-distance[:, gt.labels == label].amin(1))
        distances = d[torch.arange(len(d), device=d.device), which]
        return heat.masked_fill(heat < LEAST_HEAT, 0), distances, which.masked_fill(nearest == INF, -1)

    @torch.no_grad()
    def good_places(self, priors: Tensor, reg: Tensor, sizes: list[tuple[int, int]], gt: InstanceData) -> tuple[Tensor, Tensor]:
        """Return the heatmap's positives of one image: cell indices (P,) and labels (P,). A cell appears once for each object that selects
        it."""
        sizes = torch.tensor(sizes, device=reg.device)
        first = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])                                       # (L,)
        strides, ranges = reg.new_tensor(self.strides)[:, None], reg.new_tensor(self.regress_ranges)
        centers = (gt.bboxes[:, None, :2] + gt.bboxes[:, None, 2:]) / 2
        cell = (centers / strides).long()                                                                           # (G, L, 2)
        around = torch.tensor([[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)], device=reg.device)
        cells = cell[:, :, None] + around                                                                           # (G, L, 9, 2)
        inside = ((cells >= 0) & (cells < sizes.flip(1)[:, None])).all(-1)
        middle = cell * strides + strides // 2
        at = first[:, None] + cells[..., 1] * sizes[:, None, 1] + cells[..., 0]
        distances = torch.cat([middle - gt.bboxes[:, None, :2], gt.bboxes[:, None, 2:] - middle], -1)              # (G, L, 4)
        shift = torch.cat([around, -around], -1) * strides[:, :, None]                                              # (L, 9, 4)
        target = distances[:, :, None] + shift
        valid = inside & (target.amin(-1) >= 0)
        at = at.where(valid, 0)
        boxes = self.in_strides(priors[at].flatten(0, 2), reg[at].flatten(0, 2), target.clamp(min=0).flatten(0, 2))
        loss = self.loss_bbox(*boxes, reduction_override='none').reshape(valid.shape) / self.loss_bbox.loss_weight
        loss = loss.masked_fill(~valid, INF)
        reach = half_diagonal(gt.bboxes)[:, None]
        own = valid[..., 4] & (reach >= ranges[:, 0]) & (reach <= ranges[:, 1])                                      # (G, L)
        loss[..., 4] = loss[..., 4].masked_fill(own, 0)  # its own cell is always positive
        loss = loss.flatten(1)
        limit = loss.topk(self.more_pos_topk, 1, largest=False).values[:, -1:].clamp(max=self.more_pos_thresh)
        chosen = loss < limit
        return at.flatten(1)[chosen], gt.labels[:, None].expand_as(chosen)[chosen]

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), self.coder.decode, self.postprocess, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        priors = self.prior_generator(out.sizes, out.device)
        return padded_detections(out, sigmoid_scores, priors, self.coder.decode, self.postprocess, sizes)


def half_diagonal(boxes: Tensor) -> Tensor:
    """Return half the diagonal of boxes (G, 4): (G,) pixels."""
    return (boxes[:, 2:] - boxes[:, :2]).square().sum(-1).sqrt() / 2
