"""Region proposal network (Faster R-CNN, https://arxiv.org/abs/1506.01497, Sec. 3.1)."""
from __future__ import annotations

from dataclasses import replace

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
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections


@MODELS.register_module()
class RPNHead(BaseModule):
    """3x3 convolutions, then objectness and box deltas per anchor; trained on sampled anchors.

    Args:
        num_convs: number of 3x3 convolutions before the predictions. num_classes: 1; accepted because MMDetection's configs set it.
        proposal_cfg: ``train_cfg.rpn_proposal``: postprocessing of the proposals that train the second stage.
        reg_decoded_bbox: compute the box loss on decoded boxes (for IoU losses) instead of encoded deltas.
    """

    def __init__(self, in_channels: int, anchor_generator: dict, num_classes: int = 1, feat_channels: int = 256,
                 num_convs: int = 1, bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder'),
                 loss_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=True),
                 loss_bbox: dict = dict(type='SmoothL1Loss', beta=1 / 9), reg_decoded_bbox: bool = False,
                 train_cfg: dict | None = None, proposal_cfg: dict | None = None, test_cfg: dict | None = None,
                 init_cfg: dict | None = dict(type='Normal', layer='Conv2d', std=0.01)) -> None:
        if num_classes != 1:
            raise ConfigError(f'RPNHead num_classes={num_classes}: proposals have one class. Set it to 1 or leave it out.')
        super().__init__(init_cfg)
        self.reg_decoded_bbox = reg_decoded_bbox
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        self.strides = tuple(map(min, self.prior_generator.strides))
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        refuse_background_score(self.loss_cls, 'RPNHead')
        self.training_cfg = settings(DenseTraining, train_cfg, 'model.train_cfg.rpn')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg.rpn')
        self.proposals_for_training = settings(DensePostprocess, proposal_cfg, 'model.train_cfg.rpn_proposal')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
            self.sampler = TASK_UTILS.build(self.training_cfg.sampler)

        A = self.prior_generator.num_base_priors
        self.several = num_convs > 1      # checkpoints: rpn_conv for one conv, rpn_conv.0.conv, ... for several
        self.rpn_conv = nn.Sequential(*conv_tower(num_convs, in_channels, feat_channels, inplace=False)) if self.several \
            else nn.Conv2d(in_channels, feat_channels, 3, padding=1)
        self.rpn_relu = nn.ReLU()
        self.rpn_cls = nn.Conv2d(feat_channels, A, 1)
        self.rpn_reg = nn.Conv2d(feat_channels, A * 4, 1)

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        hidden = [self.rpn_relu(self.rpn_conv(x)) for x in feats]
        return DenseOutputs(cls=[flatten_level(self.rpn_cls(x), 1) for x in hidden],
                            reg=[flatten_level(self.rpn_reg(x), 4) for x in hidden],
                            sizes=[tuple(x.shape[-2:]) for x in feats])

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        """Return the targets; label 0 is an object of any class, label 1 is background."""
        t = dense_targets(prior_set(self.prior_generator, out, samples), samples, 1, self.assigner, self.sampler, self.training_cfg)
        return replace(t, labels=(~t.positive).long())

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls, reg = torch.cat(out.cls, 1), torch.cat(out.reg, 1)                     # (N, A, 1), (N, A, 4)
        t = self.targets(out, samples)
        at, pred, target = t.priors[t.positive], reg[t.positive], t.boxes[t.positive]
        if self.reg_decoded_bbox:
            pred = self.coder.decode(at, pred)
        else:
            target = self.coder.encode(at, target)
        return dict(
            loss_rpn_cls=self.loss_cls(cls.flatten(0, 1), t.labels.flatten(), t.label_weights.flatten(), t.avg_factor),
            loss_rpn_bbox=self.loss_bbox(pred, target, avg_factor=t.avg_factor))

    def predict(self, out: DenseOutputs, samples: list[DetDataSample], for_training: bool = False) -> list[InstanceData]:
        """Return proposals: boxes with objectness, NMS within each level. ``for_training``: use ``proposal_cfg`` if it is set."""
        cfg = self.proposals_for_training if for_training and self.proposals_for_training else self.postprocess
        priors = self.prior_generator(out.sizes, out.device)
        return detections(out, sigmoid_scores, priors, self.coder.decode, cfg, samples, group_by='level')

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        priors = self.prior_generator(out.sizes, out.device)
        return padded_detections(out, sigmoid_scores, priors, self.coder.decode, self.postprocess, sizes, group_by='level')
