"""RetinaNet's head (https://arxiv.org/abs/1708.02002)."""
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
from detkit.models.settings import DensePostprocess, DenseTraining, settings
from detkit.nn.conv import conv_tower
from detkit.registry import MODELS, TASK_UTILS
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections

INIT = dict(type='Normal', layer='Conv2d', std=0.01,
            override=dict(type='Normal', name='retina_cls', std=0.01, bias_prob=0.01))


@MODELS.register_module()
class RetinaHead(BaseModule):
    """Two towers of 3x3 convolutions, shared by all levels, with anchors; trained with focal loss, without sampling.

    Args:
        loss_cls: a loss on sigmoid scores, one score per class.
        reg_decoded_bbox: compute the box loss on decoded boxes (for IoU losses) instead of encoded deltas.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4, feat_channels: int = 256,
                 conv_cfg: dict | None = None, norm_cfg: dict | None = None,
                 anchor_generator: dict = dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
                                               ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
                 bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder'), loss_cls: dict = dict(type='FocalLoss'),
                 loss_bbox: dict = dict(type='L1Loss'), reg_decoded_bbox: bool = False, train_cfg: dict | None = None,
                 test_cfg: dict | None = None, init_cfg: dict | None = INIT) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.reg_decoded_bbox = num_classes, reg_decoded_bbox
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        self.strides = tuple(map(min, self.prior_generator.strides))
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        refuse_background_score(self.loss_cls, 'RetinaHead')
        self.training_cfg = settings(DenseTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
            self.sampler = TASK_UTILS.build(self.training_cfg.sampler)

        A = self.prior_generator.num_base_priors
        self.cls_convs = conv_tower(stacked_convs, in_channels, feat_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.reg_convs = conv_tower(stacked_convs, in_channels, feat_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.retina_cls = nn.Conv2d(feat_channels, A * num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(feat_channels, A * 4, 3, padding=1)

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        cls, reg = [], []
        for x in feats:
            c = r = x
            for conv in self.cls_convs:
                c = conv(c)
            for conv in self.reg_convs:
                r = conv(r)
            cls.append(flatten_level(self.retina_cls(c), self.num_classes))
            reg.append(flatten_level(self.retina_reg(r), 4))
        return DenseOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats])

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        return dense_targets(prior_set(self.prior_generator, out, samples), samples, self.num_classes, self.assigner, self.sampler,
                             self.training_cfg)

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls, reg = torch.cat(out.cls, 1), torch.cat(out.reg, 1)                     # (N, A, K), (N, A, 4)
        t = self.targets(out, samples)
        at, pred, target = t.priors[t.positive], reg[t.positive], t.boxes[t.positive]
        if self.reg_decoded_bbox:
            pred = self.coder.decode(at, pred)
        else:
            target = self.coder.encode(at, target)
        return dict(loss_cls=self.loss_cls(cls.flatten(0, 1), t.labels.flatten(), t.label_weights.flatten(), t.avg_factor),
                    loss_bbox=self.loss_bbox(pred, target, avg_factor=t.avg_factor))

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), self.coder.decode, self.postprocess, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        priors = self.prior_generator(out.sizes, out.device)
        return padded_detections(out, sigmoid_scores, priors, self.coder.decode, self.postprocess, sizes)
