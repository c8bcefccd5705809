"""Generalized Focal Loss's head (https://arxiv.org/abs/2006.04388)."""
from __future__ import annotations

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.dense_heads.outputs import (
    DenseOutputs,
    DenseTargets,
    dense_targets,
    detections,
    flatten_level,
    padded_detections,
    prior_set,
    refuse_background_score,
    sigmoid_scores,
)
from detkit.models.settings import DensePostprocess, DenseTraining, settings
from detkit.nn.conv import Scale, conv_tower
from detkit.ops.boxes import aligned_iou
from detkit.registry import MODELS, TASK_UTILS
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections

INIT = dict(type='Normal', layer='Conv2d', std=0.01, override=dict(type='Normal', name='gfl_cls', std=0.01, bias_prob=0.01))


class Integral(nn.Module):
    """The expected value of a distribution over 0, 1, ..., ``reg_max`` (eq. 5)."""

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.register_buffer('project', torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, logits: Tensor) -> Tensor:
        """(..., 4 * (reg_max + 1)) -> (..., 4)."""
        return logits.unflatten(-1, (4, -1)).softmax(-1) @ self.project.to(logits)


@MODELS.register_module()
class GFLHead(BaseModule):
    """Class scores that also predict the quality (IoU) of the box, and box sides predicted as distributions over distances.

    Each cell has one square anchor, which is used only for assignment. Distances are measured from its centre, in strides, up to
    ``reg_max``.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4, feat_channels: int = 256, reg_max: int = 16,
                 anchor_generator: dict = dict(type='AnchorGenerator', octave_base_scale=8, scales_per_octave=1, ratios=[1.0],
                                               strides=[8, 16, 32, 64, 128]),
                 bbox_coder: dict = dict(type='DistancePointBBoxCoder'), loss_cls: dict = dict(type='QualityFocalLoss'),
                 loss_dfl: dict = dict(type='DistributionFocalLoss', loss_weight=0.25),
                 loss_bbox: dict = dict(type='GIoULoss', loss_weight=2.0), conv_cfg: dict | None = None,
                 norm_cfg: dict | None = dict(type='GN', num_groups=32, requires_grad=True), train_cfg: dict | None = None,
                 test_cfg: dict | None = None, init_cfg: dict | None = INIT) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.reg_max = num_classes, reg_max
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        self.strides = tuple(map(min, self.prior_generator.strides))
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls, self.loss_dfl, self.loss_bbox = (MODELS.build(c) for c in (loss_cls, loss_dfl, loss_bbox))
        refuse_background_score(self.loss_cls, 'GFLHead')
        self.training_cfg = settings(DenseTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
            self.sampler = TASK_UTILS.build(self.training_cfg.sampler)
        self.cls_convs = conv_tower(stacked_convs, in_channels, feat_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.reg_convs = conv_tower(stacked_convs, in_channels, feat_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.gfl_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.gfl_reg = nn.Conv2d(feat_channels, 4 * (reg_max + 1), 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in self.strides)
        self.integral = Integral(reg_max)

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        """Predict class logits and distributions; ``reg`` (N, A_l, 4 * (reg_max + 1)): logits over the distances left, top, right, bottom,
        in strides."""
        cls, reg = [], []
        for x, scale in zip(feats, self.scales):
            c = r = x
            for conv in self.cls_convs:
                c = conv(c)
            for conv in self.reg_convs:
                r = conv(r)
            cls.append(flatten_level(self.gfl_cls(c), self.num_classes))
            reg.append(flatten_level(scale(self.gfl_reg(r)).float(), 4 * (self.reg_max + 1)))
        return DenseOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats])

    def points(self, out: DenseOutputs) -> list[Tensor]:
        """Return L x (A_l, 3): x, y of the anchor centres and the stride of their level, in pixels."""
        anchors, strides = self.prior_generator(out.sizes, out.device), self.prior_generator.strides
        return [torch.cat([(a[:, :2] + a[:, 2:]) / 2, a.new_full((a.shape[0], 1), s[0])], 1) for a, s in zip(anchors, strides)]

    def boxes_of(self, points: Tensor, logits: Tensor, max_shape: tuple[int, int] | None = None) -> Tensor:
        """Return boxes (..., 4) xyxy in pixels from points (..., 3) and logits (..., 4 * (reg_max + 1))."""
        return self.coder.decode(points, self.integral(logits) * points[..., 2:], max_shape)

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        return dense_targets(prior_set(self.prior_generator, out, samples), samples, self.num_classes, self.assigner, self.sampler,
                             self.training_cfg)

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls, reg = torch.cat(out.cls, 1), torch.cat(out.reg, 1)
        t = self.targets(out, samples)
        points = torch.cat(self.points(out)).expand(len(samples), -1, -1)[t.positive]
        logits, target = reg[t.positive], t.boxes[t.positive]
        boxes = self.boxes_of(points, logits)
        quality = cls.new_zeros(cls.shape[:2])
        quality[t.positive] = aligned_iou(boxes.detach(), target)
        weight = cls.detach()[t.positive].sigmoid().amax(1) if len(target) else target.new_zeros(0)      # (P,), weight of a box in eq. 8
        total = mean_over_processes(weight.sum()).clamp(min=1)
        loss_cls = self.loss_cls(cls.flatten(0, 1), (t.labels.flatten(), quality.flatten()), t.label_weights.flatten(), t.avg_factor)
        if len(target) == 0:
            return dict(loss_cls=loss_cls, loss_bbox=reg.sum() * 0, loss_dfl=reg.sum() * 0)
        stride = points[:, 2:]
        sides = self.coder.encode(points[:, :2] / stride, target / stride, self.reg_max)
        return dict(loss_cls=loss_cls, loss_bbox=self.loss_bbox(boxes, target, weight, total),
                    loss_dfl=self.loss_dfl(logits.reshape(-1, self.reg_max + 1), sides.flatten(), weight.repeat_interleave(4), 4 * total))

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, sigmoid_scores, self.points(out), self.boxes_of, self.postprocess, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        return padded_detections(out, sigmoid_scores, self.points(out), self.boxes_of, self.postprocess, sizes)
