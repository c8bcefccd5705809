"""Side-aware boundary localisation with one anchor per cell (SABL, https://arxiv.org/abs/1912.04260, Sec. 4.1)."""
from __future__ import annotations

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

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
from detkit.models.dense_heads.retina_head import INIT
from detkit.models.settings import DensePostprocess, DenseTraining, settings
from detkit.nn.conv import conv_tower
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections


@MODELS.register_module()
class SABLRetinaHead(BaseModule):
    """RetinaNet's towers; each box side is predicted as a bucket and an offset from it.

    Args:
        approx_anchor_generator: the anchors used for assignment.
        square_anchor_generator: the one anchor per cell that is refined; it has the same strides.
        bbox_coder: a BucketingBBoxCoder.
        loss_bbox_cls, loss_bbox_reg: loss of the bucket logits, loss of the offsets.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4, feat_channels: int = 256,
                 approx_anchor_generator: dict = dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
                                                      ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
                 square_anchor_generator: dict = dict(type='AnchorGenerator', ratios=[1.0], scales=[4], strides=[8, 16, 32, 64, 128]),
                 conv_cfg: dict | None = None, norm_cfg: dict | None = None,
                 bbox_coder: dict = dict(type='BucketingBBoxCoder', num_buckets=14, scale_factor=3.0),
                 loss_cls: dict = dict(type='FocalLoss'),
                 loss_bbox_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.5),
                 loss_bbox_reg: dict = dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.5), train_cfg: dict | None = None,
                 test_cfg: dict | None = None, init_cfg: dict | None = INIT) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.approximations = TASK_UTILS.build(approx_anchor_generator)
        self.prior_generator = TASK_UTILS.build(square_anchor_generator)
        self.strides = tuple(map(min, self.prior_generator.strides))
        if self.prior_generator.strides != self.approximations.strides or self.prior_generator.num_base_priors != 1:
            raise ConfigError("SABLRetinaHead square_anchor_generator needs one scale, one ratio, and approx_anchor_generator's strides.",
                              square_anchor_generator)
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox_cls = MODELS.build(loss_bbox_cls)
        self.loss_bbox_reg = MODELS.build(loss_bbox_reg)
        refuse_background_score(self.loss_cls, 'SABLRetinaHead')
        self.training_cfg = settings(DenseTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
            self.sampler = TASK_UTILS.build(self.training_cfg.sampler)

        self.cls_convs = conv_tower(stacked_convs, in_channels, feat_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.reg_convs = conv_tower(stacked_convs, in_channels, feat_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.retina_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.retina_bbox_reg = nn.Conv2d(feat_channels, self.coder.encode_size, 3, padding=1)
        self.retina_bbox_cls = nn.Conv2d(feat_channels, self.coder.encode_size, 3, padding=1)

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        """Predict class logits, buckets and offsets; ``reg``: bucket logits, then offsets, 4 x S numbers each."""
        cls, reg = [], []
        for x in feats:
            c = r = x
            for conv in self.cls_convs:
                c = conv(c)
            for conv in self.reg_convs:
                r = conv(r)
            cls.append(flatten_level(self.retina_cls(c), self.num_classes))
            reg.append(torch.cat([flatten_level(conv(r), self.coder.encode_size)
                                  for conv in (self.retina_bbox_cls, self.retina_bbox_reg)], -1))
        return DenseOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats])

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        approximations = torch.cat(self.approximations(out.sizes, out.device))
        per_prior = self.approximations.num_base_priors
        priors = prior_set(self.prior_generator, out, samples, approximations.unflatten(0, (-1, per_prior)))
        return dense_targets(priors, samples, self.num_classes, self.assigner, self.sampler, self.training_cfg)

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls, reg = torch.cat(out.cls, 1), torch.cat(out.reg, 1)                     # (N, A, K), (N, A, 8S)
        t = self.targets(out, samples)
        right, right_weights, offsets, offset_weights = self.coder.encode(t.priors[t.positive], t.boxes[t.positive])
        logits, found = self.sides(reg[t.positive])
        return dict(
            loss_cls=self.loss_cls(cls.flatten(0, 1), t.labels.flatten(), t.label_weights.flatten(), t.avg_factor),
            loss_bbox_cls=self.loss_bbox_cls(logits.flatten(1), right.long().flatten(1), right_weights.flatten(1),
                                             t.avg_factor * self.coder.encode_size),
            loss_bbox_reg=self.loss_bbox_reg(found, offsets, offset_weights, t.avg_factor * 4 * self.coder.offset_topk))

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), self.boxes_of, self.postprocess, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        return padded_detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), self.boxes_of, self.postprocess, sizes)

    def boxes_of(self, priors: Tensor, reg: Tensor, max_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self.coder.decode(priors, self.sides(reg), max_shape)

    def sides(self, reg: Tensor) -> tuple[Tensor, Tensor]:
        """Split (n, 8S) into bucket logits and offsets, each (n, 4, S)."""
        logits, offsets = reg.unflatten(-1, (2, 4, self.coder.side_num)).unbind(-3)
        return logits, offsets
