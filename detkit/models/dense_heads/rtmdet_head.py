"""RTMDet's head (https://arxiv.org/abs/2212.07784, Sec. 3.2 and 3.3)."""
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
from detkit.nn.conv import ConvModule, bias_for_probability, conv_tower
from detkit.registry import MODELS, TASK_UTILS
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections

PROBABILITY_EPS = 1e-12


@MODELS.register_module()
class RTMDetSepBNHead(BaseModule):
    """Two towers per level, with convolutions shared by all levels and separate norms; predicts a class and four distances per point.

    Args:
        share_conv: share the convolutions between levels; False: every level has its own convolutions.
        with_objectness: also predict objectness; the class score is the geometric mean of objectness and class probability.
        exp_on_reg: distances are the exponential of the convolution's output.
        pred_kernel_size: kernel size of the prediction layers.
    """

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256, stacked_convs: int = 4,
                 share_conv: bool = True, with_objectness: bool = True, exp_on_reg: bool = False, pred_kernel_size: int = 1,
                 anchor_generator: dict = dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
                 bbox_coder: dict = dict(type='DistancePointBBoxCoder'),
                 loss_cls: dict = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
                 loss_bbox: dict = dict(type='GIoULoss', loss_weight=2.0), conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001), act_cfg: dict = dict(type='SiLU'),
                 train_cfg: dict | None = None, test_cfg: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.with_objectness, self.exp_on_reg = num_classes, with_objectness, exp_on_reg
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        self.strides = tuple(map(min, self.prior_generator.strides))
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        refuse_background_score(self.loss_cls, 'RTMDetSepBNHead')
        self.training_cfg = settings(DenseTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
            self.sampler = TASK_UTILS.build(self.training_cfg.sampler)
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.build_layers(in_channels, feat_channels, stacked_convs, share_conv, pred_kernel_size, options)

    def build_layers(self, in_channels: int, channels: int, depth: int, share_conv: bool, kernel: int, options: dict) -> None:
        levels = range(self.prior_generator.num_levels)

        def predictor(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2) for _ in levels)

        self.cls_convs = nn.ModuleList(conv_tower(depth, in_channels, channels, **options) for _ in levels)
        self.reg_convs = nn.ModuleList(conv_tower(depth, in_channels, channels, **options) for _ in levels)
        self.rtm_cls, self.rtm_reg = predictor(self.num_classes), predictor(4)
        self.rtm_obj = predictor(1) if self.with_objectness else nn.ModuleList()
        if share_conv:
            for towers in (self.cls_convs, self.reg_convs):
                for tower in towers[1:]:
                    for own, first in zip(tower, towers[0]):
                        own.conv = first.conv

    def init_weights(self) -> None:
        super().init_weights()
        for module in self.modules():
            if isinstance(module, ConvModule):
                nn.init.normal_(module.conv.weight, std=0.01)
        for layers, probability in ((self.rtm_cls, 0.01), (self.rtm_obj, 0.01), (self.rtm_reg, None)):
            for layer in layers:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.constant_(layer.bias, 0. if probability is None else bias_for_probability(probability))

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        """Predict class logits and distances; ``reg``: left, top, right, bottom in pixels of the network input."""
        cls, reg = [], []
        for i, (x, (stride, _)) in enumerate(zip(feats, self.prior_generator.strides)):
            c = r = x
            for conv in self.cls_convs[i]:
                c = conv(c)
            for conv in self.reg_convs[i]:
                r = conv(r)
            logits, distances = self.rtm_cls[i](c), self.rtm_reg[i](r).float()
            if self.with_objectness:
                logits = geometric_mean_logits(logits.float(), self.rtm_obj[i](r).float())
            cls.append(flatten_level(logits, self.num_classes))
            reg.append(flatten_level((distances.exp() if self.exp_on_reg else distances) * stride, 4))
        return DenseOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats])

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        priors = prior_set(self.prior_generator, out, samples)
        return dense_targets(priors, samples, self.num_classes, self.assigner, self.sampler, self.training_cfg, torch.cat(out.cls, 1),
                             self.coder.decode(priors.priors, torch.cat(out.reg, 1).detach()))

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        t = self.targets(out, samples)
        boxes = self.coder.decode(t.priors, torch.cat(out.reg, 1))                        # (N, A, 4)
        return quality_losses(self.loss_cls, self.loss_bbox, torch.cat(out.cls, 1), boxes, t)

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), self.coder.decode, self.postprocess, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        priors = self.prior_generator(out.sizes, out.device)
        return padded_detections(out, sigmoid_scores, priors, self.coder.decode, self.postprocess, sizes)


def quality_losses(loss_cls: nn.Module, loss_bbox: nn.Module, cls: Tensor, boxes: Tensor, t: DenseTargets) -> dict[str, Tensor]:
    """Return the losses of logits (N, A, K) and boxes (N, A, 4). Box losses are weighted by the quality of the positives; both losses are
    divided by the sum of the qualities."""
    quality = t.quality[t.positive]
    total = mean_over_processes(quality.sum()).clamp(min=1)
    scores = loss_cls(cls.flatten(0, 1), (t.labels.flatten(), t.quality.flatten()), t.label_weights.flatten(), total)
    if len(quality) == 0:
        return dict(loss_cls=scores, loss_bbox=boxes.sum() * 0)
    return dict(loss_cls=scores, loss_bbox=loss_bbox(boxes[t.positive], t.boxes[t.positive], quality, total))


def geometric_mean_logits(cls: Tensor, objectness: Tensor) -> Tensor:
    """Return the logits of the geometric mean of two probabilities, given as logits."""
    p = (cls.sigmoid() * objectness.sigmoid()).clamp(min=PROBABILITY_EPS).sqrt().clamp(max=1 - 1e-6)
    return torch.log(p / (1 - p))
