"""TOOD's head (https://arxiv.org/abs/2108.07755)."""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.dense_heads.fcos_head import centerness_of
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
from detkit.models.settings import DensePostprocess, TaskAlignedTraining, settings
from detkit.nn.conv import ConvModule, Scale, bias_for_probability
from detkit.nn.deform_conv import DeformConv2d
from detkit.nn.operators import Concat
from detkit.ops.deform_conv import deform_conv
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections
from detkit.structures.train_state import TrainState
from detkit.tasks.atss import middle

INIT = dict(type='Normal', layer='Conv2d', std=0.01, override=dict(type='Normal', name='tood_cls', std=0.01, bias_prob=0.01))


class TaskDecomposition(nn.Module):
    """The features for one task: weight each layer by its attention, then apply a 1x1 convolution over all layers (eq. 2 to 4).

    Attention and convolution are multiplied into one matrix per image, so the weighted features are never stored.
    """

    def __init__(self, channels: int, layers: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.layers = layers
        self.layer_attention = nn.Sequential(nn.Conv2d(layers * channels, channels // 8, 1), nn.ReLU(inplace=True),
                                             nn.Conv2d(channels // 8, layers, 1), nn.Sigmoid())
        self.reduction_conv = ConvModule(layers * channels, channels, 1, norm_cfg=norm_cfg)

    def forward(self, feats: Tensor, mean: Tensor) -> Tensor:
        """Return features (N, C, H, W) from (N, layers * C, H, W) and its mean (N, layers * C, 1, 1)."""
        count, _, height, width = feats.shape
        module, attention = self.reduction_conv, self.layer_attention(mean)
        matrix = module.conv.weight.reshape(1, -1, self.layers, module.conv.out_channels) * attention.reshape(count, 1, self.layers, 1)
        x = (matrix.flatten(2) @ feats.reshape(count, feats.shape[1], height * width)).reshape(count, -1, height, width)
        if module.conv.bias is not None:
            x = x + module.conv.bias[:, None, None]
        return module.activate(getattr(module, module.norm_name)(x) if module.norm_name else x)


@MODELS.register_module()
class TOODHead(BaseModule):
    """One tower for both tasks, followed by task-specific features and an alignment of scores and boxes (Sec. 3.1).

    In the first ``initial_epoch`` epochs (``train_state``), anchors are assigned by ``train_cfg.initial_assigner`` and classified with
    ``initial_loss_cls``; later, they are assigned by the alignment metric of the predictions and classified with ``loss_cls``.

    Args:
        num_dcn: number of deformable convolutions at the start of the tower.
        anchor_type: ``anchor_free``: boxes are distances from the anchor centres, in strides; ``anchor_based``: the coder decodes them from
            the anchors.
    """

    train_state = TrainState()

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4, feat_channels: int = 256, num_dcn: int = 0,
                 anchor_type: str = 'anchor_free', conv_cfg: dict | None = None,
                 norm_cfg: dict | None = dict(type='GN', num_groups=32, requires_grad=True),
                 anchor_generator: dict = dict(type='AnchorGenerator', octave_base_scale=8, scales_per_octave=1, ratios=[1.0],
                                               strides=[8, 16, 32, 64, 128]),
                 bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder'),
                 initial_loss_cls: dict = dict(type='FocalLoss', activated=True),
                 loss_cls: dict = dict(type='QualityFocalLoss', activated=True),
                 loss_bbox: dict = dict(type='GIoULoss', loss_weight=2.0), train_cfg: dict | None = None, test_cfg: dict | None = None,
                 init_cfg: dict | list | None = INIT) -> None:
        super().__init__(init_cfg)
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        self.strides = tuple(map(min, self.prior_generator.strides))
        per_cell = self.prior_generator.num_base_priors
        if anchor_type not in ('anchor_free', 'anchor_based') or per_cell != 1 or not 0 <= num_dcn <= stacked_convs:
            raise ConfigError(f"TOODHead anchor_type='{anchor_type}' must be anchor_free or anchor_based, a cell have one anchor, not "
                              f'{per_cell}, and num_dcn={num_dcn} lie between 0 and stacked_convs={stacked_convs}.')
        self.num_classes, self.anchor_free = num_classes, anchor_type == 'anchor_free'
        self.coder = TASK_UTILS.build(bbox_coder)
        self.initial_loss_cls, self.loss_cls, self.loss_bbox = (MODELS.build(c) for c in (initial_loss_cls, loss_cls, loss_bbox))
        for loss in (self.initial_loss_cls, self.loss_cls):
            refuse_background_score(loss, 'TOODHead')
        cfg = self.training_cfg = settings(TaskAlignedTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(DensePostprocess, test_cfg, 'model.test_cfg')
        if cfg:
            self.initial_assigner = TASK_UTILS.build(cfg.initial_assigner)
            self.assigner = TASK_UTILS.build(cfg.assigner, default_args=dict(alpha=cfg.alpha, beta=cfg.beta))
            self.sampler = TASK_UTILS.build(cfg.sampler)
        self.inter_convs = nn.ModuleList(
            ConvModule(in_channels if i == 0 else feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg,
                       conv_cfg=dict(type='DCNv2', deform_groups=4) if i < num_dcn else conv_cfg) for i in range(stacked_convs))
        self.concat = Concat()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.cls_decomp = TaskDecomposition(feat_channels, stacked_convs, norm_cfg)
        self.reg_decomp = TaskDecomposition(feat_channels, stacked_convs, norm_cfg)
        self.tood_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.tood_reg = nn.Conv2d(feat_channels, 4, 3, padding=1)

        def small_tower(outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(feat_channels * stacked_convs, feat_channels // 4, 1), nn.ReLU(inplace=True),
                                 nn.Conv2d(feat_channels // 4, outputs, 3, padding=1))
        self.cls_prob_module, self.reg_offset_module = small_tower(1), small_tower(4 * 2)
        self.scales = nn.ModuleList(Scale() for _ in self.strides)

    def init_weights(self) -> None:
        super().init_weights()
        for module in self.modules():
            if isinstance(module, DeformConv2d):
                nn.init.normal_(module.weight, std=0.01)
                module.reset_offsets()
        for tower in (self.reg_offset_module, self.cls_decomp.layer_attention, self.reg_decomp.layer_attention):
            for conv in (tower[0], tower[2]):
                nn.init.normal_(conv.weight, std=0.001)
        nn.init.constant_(self.cls_prob_module[2].bias, bias_for_probability(0.01))

    def at_start(self) -> bool:
        """Return whether training is in its first ``initial_epoch`` epochs."""
        return self.train_state.epoch < self.training_cfg.initial_epoch

    def forward(self, feats: tuple[Tensor, ...]) -> DenseOutputs:
        """Predict aligned scores and boxes; ``cls``: logits of the aligned scores; ``reg``: boxes xyxy in pixels of the network input."""
        cls, reg, sizes = [], [], [tuple(x.shape[-2:]) for x in feats]
        levels = zip(feats, self.scales, self.prior_generator(sizes, feats[0].device), self.prior_generator.strides)
        for x, scale, anchors, (stride, _) in levels:
            layers = []
            for conv in self.inter_convs:
                x = conv(x)
                layers.append(x)
            x = self.concat(*layers)
            mean = self.pool(x)
            logits = geometric_mean(self.tood_cls(self.cls_decomp(x, mean)).float(), self.cls_prob_module(x).float())
            boxes = self.boxes_of(anchors / stride, self.tood_reg(self.reg_decomp(x, mean)).float(), scale)
            cls.append(flatten_level(logits, self.num_classes))
            reg.append(flatten_level(moved(boxes, self.reg_offset_module(x).float()) * stride, 4))
        return DenseOutputs(cls, reg, sizes)

    def boxes_of(self, anchors: Tensor, reg: Tensor, scale: Scale) -> Tensor:
        """Return boxes (N, 4, H, W) xyxy in strides, from anchors (H * W, 4) in strides and predictions (N, 4, H, W)."""
        reg = scale(reg.exp() if self.anchor_free else reg)
        if self.anchor_free:
            center = middle(anchors).t().reshape(2, *reg.shape[2:])
            return torch.cat([center - reg[:, :2], center + reg[:, 2:]], 1)
        boxes = self.coder.decode(anchors, flatten_level(reg, 4))
        return boxes.transpose(1, 2).reshape(reg.shape)

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        return dense_targets(prior_set(self.prior_generator, out, samples), samples, self.num_classes,
                             self.initial_assigner if self.at_start() else self.assigner, self.sampler, self.training_cfg,
                             torch.cat(out.cls, 1), torch.cat(out.reg, 1))

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls, boxes, at_start, t = torch.cat(out.cls, 1), torch.cat(out.reg, 1), self.at_start(), self.targets(out, samples)
        strides = torch.cat([x.new_full((x.shape[1], 1), s[0]) for x, s in zip(out.reg, self.prior_generator.strides)])
        at, stride = t.priors[t.positive], strides.expand(len(samples), -1, -1)[t.positive]
        target = t.boxes[t.positive]
        if at_start:
            loss, labels, total = self.initial_loss_cls, t.labels.flatten(), t.positive.sum().float()
            weight = centerness_of(torch.cat([middle(at) - target[:, :2], target[:, 2:] - middle(at)], 1))
        else:
            loss, labels, total = self.loss_cls, (t.labels.flatten(), t.quality.flatten()), t.quality.sum()
            weight = t.quality[t.positive]
        scores = cls.flatten(0, 1).sigmoid() if getattr(loss, 'activated', False) else cls.flatten(0, 1)
        return dict(loss_cls=loss(scores, labels, t.label_weights.flatten(), mean_over_processes(total).clamp(min=1)),
                    loss_bbox=self.loss_bbox(boxes[t.positive] / stride, target / stride, weight,
                                             mean_over_processes(weight.sum()).clamp(min=1)))

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), as_they_are, self.postprocess, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        return padded_detections(out, sigmoid_scores, self.prior_generator(out.sizes, out.device), as_they_are, self.postprocess, sizes)


def geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    """Return the logits of the geometric mean of two probabilities, given as logits (eq. 5). The mean is clamped to 1 - 1e-6, so that its
    logit is finite."""
    log = ((F.logsigmoid(a) + F.logsigmoid(b)) / 2).clamp(max=-1e-6)
    return log - (-torch.expm1(log)).log()


def moved(boxes: Tensor, offset: Tensor) -> Tensor:
    """Return boxes (N, 4, H, W) with each side sampled bilinearly at the position that ``offset`` (N, 8, H, W) points to (eq. 6). Offsets
    are pairs (dy, dx) in cells. If the result is an empty box, the original box is kept."""
    found = deform_conv(boxes, offset, boxes.new_ones(4, 1, 1, 1))
    void = (found[:, :2] > found[:, 2:]).any(1, keepdim=True)
    return torch.where(void, boxes, found)


def as_they_are(anchors: Tensor, boxes: Tensor, max_shape: tuple[int, int] | None = None) -> Tensor:
    """Return the boxes of the head's outputs unchanged; they may extend outside the image."""
    return boxes
