"""YOLOX's head (https://arxiv.org/abs/2107.08430)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.classification import one_hot
from detkit.losses.weighting import mean_over_processes
from detkit.models.dense_heads.outputs import (
    DenseOutputs,
    DenseTargets,
    chosen_rows,
    dense_targets,
    flatten_level,
    prior_set,
    refuse_background_score,
)
from detkit.models.settings import DenseTraining, plain_nms, settings
from detkit.nn.conv import ConvModule, DepthwiseSeparableConvModule, bias_for_probability
from detkit.ops.nms import batched_nms, padded_nms
from detkit.registry import MODELS, TASK_UTILS
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections
from detkit.tasks.samplers import PseudoSampler

CERTAIN = 100.      # clamp of logits; PyTorch's binary cross entropy of a score of exactly 0 or 1 is at most 100
LARGEST = 20.       # max log of a size in strides; areas of larger boxes overflow early in training
LEAST_SIZE = 1e-8   # added to a size in strides before its logarithm


@dataclass(frozen=True)
class YOLOXTraining:
    assigner: dict


@dataclass(frozen=True)
class YOLOXPostprocess:
    nms: dict | None = None
    score_thr: float = 0.       # in [0, 1]; objectness times class score; candidates below it are dropped before NMS
    max_per_img: int = -1       # max detections per image; -1: all

    def __post_init__(self) -> None:
        object.__setattr__(self, 'nms', plain_nms(self.nms))


@MODELS.register_module()
class YOLOXHead(BaseModule):
    """Two towers per level; predicts a class, a box and objectness per cell (Sec. 2.1: decoupled head, anchor-free).

    ``use_l1`` adds an L1 loss on the encoded boxes; YOLOXModeSwitchHook sets it for the last epochs, which use weak augmentation.

    Args:
        strides: strides of the levels, in pixels.
        dcn_on_last_conv: the last convolution of each tower is deformable.
        conv_bias: bias of the convolutions in the towers; 'auto': only without a norm.
    """

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256, stacked_convs: int = 2,
                 strides: Sequence[int] = (8, 16, 32), use_depthwise: bool = False, dcn_on_last_conv: bool = False,
                 conv_bias: bool | Literal['auto'] = 'auto', conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001), act_cfg: dict = dict(type='Swish'),
                 loss_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=1.0),
                 loss_bbox: dict = dict(type='IoULoss', mode='square', eps=1e-16, reduction='sum', loss_weight=5.0),
                 loss_obj: dict = dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=1.0),
                 loss_l1: dict = dict(type='L1Loss', reduction='sum', loss_weight=1.0), train_cfg: dict | None = None,
                 test_cfg: dict | None = None,
                 init_cfg: dict | None = dict(type='Kaiming', layer='Conv2d', a=5**0.5, distribution='uniform', mode='fan_in',
                                              nonlinearity='leaky_relu')) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.use_l1 = num_classes, False
        self.prior_generator = TASK_UTILS.build(dict(type='MlvlPointGenerator', strides=list(strides), offset=0))    # corners of cells
        self.strides = tuple(map(min, self.prior_generator.strides))
        self.loss_cls, self.loss_bbox, self.loss_obj, self.loss_l1 = map(MODELS.build, (loss_cls, loss_bbox, loss_obj, loss_l1))
        refuse_background_score(self.loss_cls, 'YOLOXHead')
        self.training_cfg = settings(YOLOXTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(YOLOXPostprocess, test_cfg, 'model.test_cfg')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
        conv = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        options = dict(padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg, bias=conv_bias)

        def tower() -> nn.Sequential:
            kinds = [conv_cfg] * stacked_convs
            if dcn_on_last_conv:
                kinds[-1] = dict(type='DCNv2')
            return nn.Sequential(*(conv(feat_channels if i else in_channels, feat_channels, 3, conv_cfg=kind, **options)
                                   for i, kind in enumerate(kinds)))

        self.multi_level_cls_convs, self.multi_level_reg_convs = (nn.ModuleList(tower() for _ in strides) for _ in range(2))
        self.multi_level_conv_cls, self.multi_level_conv_reg, self.multi_level_conv_obj = (
            nn.ModuleList(nn.Conv2d(feat_channels, outputs, 1) for _ in strides) for outputs in (num_classes, 4, 1))

    def init_weights(self) -> None:
        super().init_weights()
        for conv in (*self.multi_level_conv_cls, *self.multi_level_conv_obj):
            nn.init.constant_(conv.bias, bias_for_probability(0.01))

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        """Predict class logits, boxes and objectness; ``reg``: offset of the centre from the cell's corner and log of the size, in strides;
        ``quality``: objectness."""
        cls, reg, objectness = [], [], []
        for i, x in enumerate(feats):
            c, r = self.multi_level_cls_convs[i](x), self.multi_level_reg_convs[i](x)
            cls.append(flatten_level(self.multi_level_conv_cls[i](c), self.num_classes))
            reg.append(flatten_level(self.multi_level_conv_reg[i](r), 4))
            objectness.append(flatten_level(self.multi_level_conv_obj[i](r), 1).squeeze(-1))
        return DenseOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats], quality=objectness)

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls, reg, objectness = torch.cat(out.cls, 1), torch.cat(out.reg, 1), torch.cat(out.quality, 1)
        t = self.targets(out, samples)
        corners = torch.cat(self.prior_generator(out.sizes, cls.device))
        at, raw, target = corners.expand(len(samples), -1, -1)[t.positive], reg[t.positive], t.boxes[t.positive]
        num_pos = mean_over_processes(t.positive.sum().float()).clamp(min=1)
        quality = one_hot(t.labels[t.positive], self.num_classes) * t.quality[t.positive][:, None]
        losses = dict(loss_cls=self.loss_cls(cls[t.positive], quality) / num_pos,
                      loss_bbox=self.loss_bbox(boxes_of(at, raw), target) / num_pos,
                      loss_obj=self.loss_obj(objectness.reshape(-1, 1), t.positive.reshape(-1, 1).to(objectness)) / num_pos)
        return losses | dict(loss_l1=self.loss_l1(raw, encoded(at, target)) / num_pos) if self.use_l1 else losses

    @torch.no_grad()
    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        """Return the targets. Assignment uses the centre of a cell; boxes are encoded relative to its corner.

        The scores passed to the assigner are the geometric mean of class score and objectness.
        """
        cells = prior_set(self.prior_generator, out, samples)
        corners, scores = cells.priors, (torch.cat(out.cls, 1).sigmoid() * torch.cat(out.quality, 1).sigmoid()[..., None]).sqrt()
        middles = torch.cat([corners[:, :2] + corners[:, 2:] / 2, corners[:, 2:]], 1)
        everywhere = replace(cells, priors=middles, valid=torch.ones_like(cells.valid))     # cells in the padding are candidates too
        return dense_targets(everywhere, samples, self.num_classes, self.assigner, PseudoSampler(),
                             DenseTraining(self.training_cfg.assigner), scores.logit().clamp(-CERTAIN, CERTAIN),
                             boxes_of(corners, torch.cat(out.reg, 1)))

    def candidates(self, out: DenseOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return the box (N, A, 4) of each cell, and the score and label (N, A) of its best class."""
        logits, labels = torch.cat(out.cls, 1).detach().max(-1)
        scores = logits.sigmoid() * torch.cat(out.quality, 1).detach().sigmoid()
        corners = torch.cat(self.prior_generator(out.sizes, logits.device))
        return boxes_of(corners, torch.cat(out.reg, 1).detach()), scores, labels

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        """Return detections, best first; boxes may extend outside the image."""
        results = []
        for boxes, scores, labels in zip(*self.candidates(out)):
            above = scores >= self.postprocess.score_thr
            boxes, labels = boxes[above], labels[above]
            keep, scores = batched_nms(boxes, scores[above], labels, self.postprocess.nms)
            if self.postprocess.max_per_img > 0:
                keep, scores = keep[:self.postprocess.max_per_img], scores[:self.postprocess.max_per_img]
            results.append(InstanceData(bboxes=boxes[keep], scores=scores, labels=labels[keep]))
        return results

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        boxes, scores, labels = self.candidates(out)
        scores = torch.where(scores >= self.postprocess.score_thr, scores, 0.)
        keep, scores = padded_nms(boxes, scores, labels, self.postprocess.nms, self.postprocess.max_per_img)
        return chosen_rows(boxes, labels, keep, scores)


def boxes_of(corners: Tensor, raw: Tensor) -> Tensor:
    """Decode boxes (..., 4) xyxy in pixels, from cell corners and strides (..., 4), and (..., 4) centre offsets and logs of the size, in
    strides."""
    center = corners[..., :2] + raw[..., :2] * corners[..., 2:]
    half = raw[..., 2:].clamp(max=LARGEST).exp() * corners[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def encoded(corners: Tensor, boxes: Tensor) -> Tensor:
    """Encode boxes (n, 4) relative to cell corners (n, 4): the inverse of ``boxes_of``. Returns (n, 4)."""
    shift = ((boxes[:, :2] + boxes[:, 2:]) / 2 - corners[:, :2]) / corners[:, 2:]
    return torch.cat([shift, ((boxes[:, 2:] - boxes[:, :2]) / corners[:, 2:] + LEAST_SIZE).log()], 1)
