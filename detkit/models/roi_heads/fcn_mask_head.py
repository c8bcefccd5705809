"""The mask head of Mask R-CNN (https://arxiv.org/abs/1703.06870, Fig. 4)."""
from __future__ import annotations

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.nn.conv import ConvModule, build_conv, build_upsample
from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks, PolygonMasks


@MODELS.register_module()
class FCNMaskHead(BaseModule):
    """Convolutions, upsampling, then the logits of one mask per class.

    Args:
        num_convs, conv_kernel_size, conv_out_channels, conv_cfg, norm_cfg: settings of the convolutions before the upsampling.
        roi_feat_size: size of the input features; accepted because configs set it, but the head takes any size.
        upsample_cfg: see ``detkit.nn.conv.build_upsample``; a ReLU follows a 'deconv'.
        class_agnostic: predict one mask for all classes.
        predictor_cfg: ``type`` of the last convolution.
        loss_mask: CrossEntropyLoss with ``use_mask``.
    """

    def __init__(self, num_convs: int = 4, roi_feat_size: int | tuple[int, int] = 14, in_channels: int = 256, conv_kernel_size: int = 3,
                 conv_out_channels: int = 256, num_classes: int = 80, class_agnostic: bool = False,
                 upsample_cfg: dict = dict(type='deconv', scale_factor=2), conv_cfg: dict | None = None, norm_cfg: dict | None = None,
                 predictor_cfg: dict = dict(type='Conv'), loss_mask: dict = dict(type='CrossEntropyLoss', use_mask=True),
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg or dict(type='Kaiming', layer=['Conv2d', 'ConvTranspose2d']))
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.loss_mask = MODELS.build(loss_mask)
        if not getattr(self.loss_mask, 'use_mask', False):
            raise ConfigError(f'FCNMaskHead loss_mask is {type(self.loss_mask).__name__}; it takes CrossEntropyLoss with use_mask=True.',
                              loss_mask)
        inputs = [in_channels] + [conv_out_channels] * num_convs
        self.convs = nn.ModuleList(ConvModule(i, conv_out_channels, conv_kernel_size, padding=(conv_kernel_size - 1) // 2,
                                              conv_cfg=conv_cfg, norm_cfg=norm_cfg) for i in inputs[:-1])
        self.upsample, width = build_upsample(upsample_cfg, inputs[-1], conv_out_channels)
        self.relu = nn.ReLU() if upsample_cfg.get('type') == 'deconv' else None
        self.conv_logits = build_conv(predictor_cfg, width, 1 if class_agnostic else num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return mask logits (n, K or 1, h, w) from features (n, C, S, S)."""
        for conv in self.convs:
            x = conv(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return self.conv_logits(x if self.relu is None else self.relu(x))

    def of_class(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Select the mask of the label's class: (n, K or 1, h, w) and labels (n,) -> (n, h, w)."""
        return logits[:, 0] if self.class_agnostic else logits[torch.arange(labels.shape[0], device=labels.device), labels]

    def loss(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross entropy of the mask of the label's class. ``labels`` (n,); ``targets`` (n, h, w) in [0, 1].

        Raises:
            ConfigError: the targets differ in size from the predictions.
        """
        if logits.shape[2:] != targets.shape[1:]:
            raise ConfigError('train_cfg.rcnn.mask_size is {}x{}, and the mask head predicts {}x{}: they must be equal.'.format(
                *targets.shape[1:], *logits.shape[2:]))
        count = logits.new_tensor(float(len(labels)))
        share = count / mean_over_processes(count).clamp(min=1)      # the loss is a mean per process; scale by its number of masks
        return share * self.loss_mask(logits, targets, torch.zeros_like(labels) if self.class_agnostic else labels)


def mask_targets(boxes: Tensor, matched: Tensor, masks: BitmapMasks | PolygonMasks, size: tuple[int, int], soft: bool = False) -> Tensor:
    """Return the mask targets of one image's positives: the object's mask cropped to each box and resized to ``size``.

    ``boxes`` (n, 4), ``matched`` (n,): index of the object of each box. Returns (n, *size) float32: 0 or 1, or the covered fraction of each
    cell if ``soft``.
    """
    boxes = boxes.detach().cpu()
    inside = torch.stack([boxes[:, 0::2].clamp(0, masks.width), boxes[:, 1::2].clamp(0, masks.height)], 2).flatten(1)
    targets = masks.crop_and_resize(inside.numpy(), size, matched.cpu().numpy(), device=matched.device, binarize=not soft)
    return torch.from_numpy(targets.to_ndarray()).to(matched.device, torch.float32)
