"""RTMDet-Ins head: RTMDet's head plus masks from dynamic convolutions (https://arxiv.org/abs/2212.07784, Sec. 3.4; CondInst,
https://arxiv.org/abs/2003.05664)."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
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
from detkit.models.dense_heads.rtmdet_head import geometric_mean_logits, quality_losses
from detkit.models.settings import DensePostprocess, DenseTraining, settings
from detkit.nn.conv import bias_for_probability, conv_tower
from detkit.nn.operators import Concat, Resize
from detkit.ops.masks import resize_masks
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections
from detkit.structures.random_streams import RandomStream
from detkit.structures.rle_masks import RLEMasks
from detkit.structures.sample import generator_of
from detkit.tasks.priors import grid_points
from detkit.tasks.samplers import pick

REACH = 8             # offsets from a prior to a pixel are divided by this many strides
NOWHERE = -100.       # logit of all pixels in an empty row
CHUNK = 2**24         # max numbers in the output of one dynamic convolution during prediction


@dataclass(frozen=True)
class InstancePostprocess(DensePostprocess):
    mask_thr_binary: float = 0.5     # in (0, 1); a pixel whose score exceeds it belongs to the object

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_thr_binary < 1:
            raise ConfigError(f'model.test_cfg.mask_thr_binary={self.mask_thr_binary} must lie between 0 and 1.')


@dataclass(frozen=True, kw_only=True)
class InstanceOutputs(DenseOutputs):
    kernels: list[Tensor]    # L x (N, A_l, P) parameters of each prior's dynamic convolutions
    prototypes: Tensor       # (N, C, h, w) input of the dynamic convolutions, at the finest level's stride


class MaskFeatModule(nn.Module):
    """Resize all levels to the finest, concatenate them and apply a tower: the input maps of the dynamic convolutions."""

    def __init__(self, in_channels: int, feat_channels: int, stacked_convs: int, num_levels: int, num_prototypes: int,
                 **options: object) -> None:
        super().__init__()
        self.resizes = nn.ModuleList(Resize(mode='bilinear') for _ in range(num_levels - 1))
        self.concat = Concat()
        self.fusion_conv = nn.Conv2d(num_levels * in_channels, in_channels, 1)
        self.stacked_convs = nn.Sequential(*conv_tower(stacked_convs, in_channels, feat_channels, **options))
        self.projection = nn.Conv2d(feat_channels, num_prototypes, 1)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        size = feats[0].shape[-2:]
        joined = self.concat(feats[0], *(resize(x, size) for resize, x in zip(self.resizes, feats[1:])))
        return self.projection(self.stacked_convs(self.fusion_conv(joined)))


@MODELS.register_module()
class RTMDetInsSepBNHead(BaseModule):
    """Each level has one tower for classes and boxes and one for mask kernels, with separate norms; all levels share one mask branch.

    Args:
        share_conv: share the convolutions of the first tower between levels (those of the kernel tower are never shared).
        with_objectness: also predict objectness; the class score is the geometric mean of objectness and class probability.
        pred_kernel_size: kernel size of the prediction layers.
        num_prototypes: number of input maps of the dynamic convolutions, in addition to two maps of offsets from the prior.
        dyconv_channels, num_dyconvs: width and number of the dynamic convolutions; the last one outputs one mask.
        mask_loss_stride: stride in pixels at which the mask loss is computed; it must divide the finest level's stride.
        max_masks_to_train: max positives per image in the mask loss, drawn with the sample's seed; -1: all positives.
    """

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256, stacked_convs: int = 4,
                 share_conv: bool = True, with_objectness: bool = False, pred_kernel_size: int = 1, num_prototypes: int = 8,
                 dyconv_channels: int = 8, num_dyconvs: int = 3, mask_loss_stride: int = 4, max_masks_to_train: int = -1,
                 anchor_generator: dict = dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
                 bbox_coder: dict = dict(type='DistancePointBBoxCoder'),
                 loss_cls: dict = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
                 loss_bbox: dict = dict(type='GIoULoss', loss_weight=2.0),
                 loss_mask: dict = dict(type='DiceLoss', loss_weight=2.0, eps=5e-6, reduction='mean'), conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN', requires_grad=True), act_cfg: dict = dict(type='SiLU', inplace=True),
                 train_cfg: dict | None = None, test_cfg: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.with_objectness, self.max_masks_to_train = num_classes, with_objectness, max_masks_to_train
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        self.strides = tuple(map(min, self.prior_generator.strides))
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls, self.loss_bbox, self.loss_mask = (MODELS.build(c) for c in (loss_cls, loss_bbox, loss_mask))
        refuse_background_score(self.loss_cls, 'RTMDetInsSepBNHead')
        self.training_cfg = settings(DenseTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(InstancePostprocess, test_cfg, 'model.test_cfg')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
            self.sampler = TASK_UTILS.build(self.training_cfg.sampler)
        self.stride, self.mask_loss_stride = self.prior_generator.strides[0][0], mask_loss_stride
        if num_dyconvs < 2 or self.stride % mask_loss_stride:
            raise ConfigError(f'RTMDetInsSepBNHead num_dyconvs={num_dyconvs} must be at least 2, and mask_loss_stride={mask_loss_stride} '
                              f'divide the stride {self.stride} of the finest level.')
        widths = [num_prototypes + 2, *[dyconv_channels] * (num_dyconvs - 1), 1]
        self.dynamic_layers = list(zip(widths[1:], widths[:-1]))                       # (outputs, inputs) of each convolution
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.mask_head = MaskFeatModule(in_channels, feat_channels, 4, self.prior_generator.num_levels, num_prototypes, norm_cfg=norm_cfg,
                                        act_cfg=act_cfg)
        self.build_layers(in_channels, feat_channels, stacked_convs, share_conv, pred_kernel_size, options)

    def build_layers(self, in_channels: int, channels: int, depth: int, share_conv: bool, kernel: int, options: dict) -> None:
        levels = range(self.prior_generator.num_levels)

        def predictor(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2) for _ in levels)

        self.cls_convs, self.kernel_convs = (nn.ModuleList(conv_tower(depth, in_channels, channels, **options) for _ in levels)
                                             for _ in range(2))
        self.reg_convs = self.cls_convs              # the same tower; checkpoints hold it under both names
        self.rtm_cls, self.rtm_reg = predictor(self.num_classes), predictor(4)
        self.rtm_kernel = predictor(sum(outputs * inputs + outputs for outputs, inputs in self.dynamic_layers))
        self.rtm_obj = predictor(1) if self.with_objectness else nn.ModuleList()
        if share_conv:
            for tower in self.cls_convs[1:]:
                for own, first in zip(tower, self.cls_convs[0]):
                    own.conv = first.conv

    def init_weights(self) -> None:
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        for layers, bias in ((self.rtm_cls, bias_for_probability(0.01)), (self.rtm_obj, bias_for_probability(0.01)), (self.rtm_reg, 1.)):
            for layer in layers:
                nn.init.constant_(layer.bias, bias)

    def forward(self, feats: tuple[Tensor, ...]) -> InstanceOutputs:
        """Predict class logits, distances, kernels and prototypes; ``reg``: left, top, right, bottom in pixels of the network input."""
        cls, reg, kernels = [], [], []
        for i, (x, (stride, _)) in enumerate(zip(feats, self.prior_generator.strides)):
            c = k = x
            for conv in self.cls_convs[i]:
                c = conv(c)
            for conv in self.kernel_convs[i]:
                k = conv(k)
            logits = self.rtm_cls[i](c)
            if self.with_objectness:
                logits = geometric_mean_logits(logits.float(), self.rtm_obj[i](c).float())
            cls.append(flatten_level(logits, self.num_classes))
            reg.append(flatten_level(self.rtm_reg[i](c).float().relu() * stride, 4))
            kernels.append(flatten_level(self.rtm_kernel[i](k), self.rtm_kernel[i].out_channels))
        return InstanceOutputs(cls, reg, sizes=[tuple(x.shape[-2:]) for x in feats], kernels=kernels, prototypes=self.mask_head(feats))

    def targets(self, out: InstanceOutputs, samples: list[DetDataSample]) -> DenseTargets:
        priors, cls = prior_set(self.prior_generator, out, samples), torch.cat(out.cls, 1)
        boxes = self.coder.decode(priors.priors, torch.cat(out.reg, 1).detach())
        samples = [with_bitmaps(s, cls.device) for s in samples]
        return dense_targets(priors, samples, self.num_classes, self.assigner, self.sampler, self.training_cfg, cls, boxes)

    def loss(self, out: InstanceOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        cls = torch.cat(out.cls, 1)
        samples = [with_bitmaps(s, cls.device) for s in samples]
        t = self.targets(out, samples)
        boxes = self.coder.decode(t.priors, torch.cat(out.reg, 1))                        # (N, A, 4)
        return quality_losses(self.loss_cls, self.loss_bbox, cls, boxes, t) | dict(loss_mask=self.mask_loss(out, t, samples))

    def mask_loss(self, out: InstanceOutputs, t: DenseTargets, samples: list[DetDataSample]) -> Tensor:
        kernels, predicted, wanted = torch.cat(out.kernels, 1), [], []
        for i, sample in enumerate(samples):
            positive = t.positive[i].nonzero().squeeze(1)
            if self.max_masks_to_train > 0:
                positive = pick(positive, self.max_masks_to_train, generator_of(sample, RandomStream.MASK_PRIORS))
            logits = self.dynamic_masks(out.prototypes[i, None], kernels[i, None, positive], t.priors[i, None, positive])[0]
            predicted.append(F.interpolate(logits[:, None], scale_factor=self.stride // self.mask_loss_stride, mode='bilinear').squeeze(1))
            half, step = self.mask_loss_stride // 2, self.mask_loss_stride
            masks = sample.gt_instances.masks[:, half::step, half::step]
            below, right = (a - b for a, b in zip(predicted[-1].shape[1:], masks.shape[1:]))
            wanted.append(F.pad(masks, (0, right, 0, below))[t.matched[i, positive]])
        predicted = torch.cat(predicted)
        total = mean_over_processes(predicted.new_tensor(float(len(predicted)))).clamp(min=1)
        return self.loss_mask(predicted, torch.cat(wanted), avg_factor=total)

    def dynamic_masks(self, prototypes: Tensor, kernels: Tensor, priors: Tensor) -> Tensor:
        """Return mask logits (N, n, h, w) of n priors (N, n, 4) per image, from their kernels (N, n, P) and the maps (N, C, h, w).

        The first convolution also reads the offset from each pixel to the prior. This convolution is linear, so the prior's position is
        added to its bias, and the pixel positions are two maps that all masks share. No copy of the maps per mask is needed, and each layer
        is one batched matrix product.
        """
        height, width = prototypes.shape[2:]
        grid = self.prior_generator
        places = grid_points((height, width), grid.strides[0], grid.offset, prototypes.device)       # (h * w, 2)
        ones = torch.cat([-places, torch.ones_like(places[:, :1])], 1).T                             # -x, -y, 1
        maps = torch.cat([ones.expand(prototypes.shape[0], -1, -1), prototypes.flatten(2)], 1)           # (N, 3 + C, h * w)
        sizes = [o * i for o, i in self.dynamic_layers] + [o for o, _ in self.dynamic_layers]
        parts = kernels.split(sizes, -1)
        weights = [w.unflatten(-1, layer) for w, layer in zip(parts, self.dynamic_layers)]           # (N, n, outputs, inputs)
        biases = [b[..., None] for b in parts[len(weights):]]                                        # (N, n, outputs, 1)
        offsets = weights[0][..., :2] / (REACH * priors[..., None, 2:])
        place = (offsets * priors[..., None, :2]).sum(-1, keepdim=True)
        first = torch.cat([offsets, biases[0] + place, weights[0][..., 2:]], -1)                     # (N, n, outputs, 3 + C)
        x = (first.flatten(1, 2) @ maps).unflatten(1, first.shape[1:3])
        for weight, bias in zip(weights[1:], biases[1:]):
            x = weight @ x.relu() + bias
        return x.squeeze(2).unflatten(-1, (height, width))

    def masks_of(self, out: InstanceOutputs, images: slice, index: Tensor) -> Tensor:
        """Return mask logits (k, n, h, w) at the finest level's stride, for ``detections``."""
        kernels, priors = torch.cat(out.kernels, 1)[images], torch.cat(self.prior_generator(out.sizes, index.device))
        kernels = kernels.gather(1, index[..., None].expand(-1, -1, kernels.shape[2]))
        return self.dynamic_masks(out.prototypes[images], kernels, priors[index])

    def masks_in_parts(self, out: InstanceOutputs, images: slice, index: Tensor) -> Tensor:
        """Call ``masks_of`` on a few masks at a time, which limits the memory of intermediate layers."""
        count = max(CHUNK // (self.dynamic_layers[0][0] * out.prototypes[0, 0].numel()), 1)
        return torch.cat([self.masks_of(out, images, part) for part in index.split(count, 1)], 1)

    def predict(self, out: InstanceOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        """Return detections; ``masks``: logits (n, h, w) of the whole padded input, at the finest level's stride."""
        priors = self.prior_generator(out.sizes, out.device)
        return detections(out, sigmoid_scores, priors, self.coder.decode, self.postprocess, samples,
                          masks_of=partial(self.masks_in_parts, out))

    def full_masks(self, instances: InstanceData, sample: DetDataSample, size: tuple[int, int], factor: tuple[float, float]) -> RLEMasks:
        """Return full-size masks as MMDetection does: resize bilinearly to the network input, then by ``factor``, then crop to ``size``."""
        height, width = (side * self.stride for side in instances.masks.shape[1:])
        scaled = math.ceil(height * factor[1]), math.ceil(width * factor[0])
        threshold = math.log(self.postprocess.mask_thr_binary / (1 - self.postprocess.mask_thr_binary))
        return RLEMasks(resize_masks(instances.masks, [((height, width), (height, width)), (scaled, size)], threshold), *size)

    def decode(self, out: InstanceOutputs, sizes: Tensor) -> Detections:
        """Return detections in tensors of fixed shape. ``masks`` are logits at the finest level's stride, as in ``predict``: enlarging
        logits is more precise than enlarging scores."""
        priors = self.prior_generator(out.sizes, out.device)
        found = padded_detections(out, sigmoid_scores, priors, self.coder.decode, self.postprocess, sizes,
                                  masks_of=partial(self.masks_of, out))
        return found._replace(masks=found.masks.masked_fill((found.scores <= 0)[..., None, None], NOWHERE))


def with_bitmaps(sample: DetDataSample, device: torch.device) -> DetDataSample:
    """Return a copy of ``sample`` with its ground-truth masks as a bool tensor (G, height, width), rendered once for assigner and loss.

    Raises:
        ConfigError: the sample has no masks.
    """
    gt = sample.gt_instances
    if 'masks' not in gt:
        raise ConfigError('RTMDetInsSepBNHead learns masks, and the training data has none. Set with_mask=True in LoadAnnotations.')
    copy = sample.new()
    masks = gt.masks.to_tensor(torch.bool, device) if hasattr(gt.masks, 'to_tensor') else gt.masks.bool()
    copy.gt_instances = InstanceData(bboxes=gt.bboxes, labels=gt.labels, masks=masks)
    return copy
