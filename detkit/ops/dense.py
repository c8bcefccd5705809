"""Operators on feature maps and dense predictions."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


def roi_align(feature: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float,
              sampling_ratio: int = 0, aligned: bool = True) -> Tensor:
    """RoIAlign (https://arxiv.org/abs/1703.06870, Sec. 3).

    Args:
        feature: (N, C, H, W). rois: (n, 5) image index, x1, y1, x2, y2 in pixels of the network input.
        spatial_scale: 1 / stride of the feature map. sampling_ratio: samples a bin and axis; 0: as many as fit.
        aligned: shift by half a pixel, so that a pixel's centre is at (0.5, 0.5).

    Returns: (n, C, *output_size), float32: the CPU kernel knows no bfloat16.
    """
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    feature, rois, samples = feature.float().contiguous(), rois.float(), sampling_ratio if sampling_ratio > 0 else -1
    with torch.autocast(feature.device.type, enabled=False):
        if feature.device.type == 'cpu' and feature.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return RoIAlignOnAllCores.apply(feature, rois, size, spatial_scale, samples, aligned)
        return torchvision.ops.roi_align(feature, rois, size, spatial_scale, samples, aligned)


class RoIAlignOnAllCores(torch.autograd.Function):
    """torchvision's kernels; its gradient, which runs on one core of a CPU and takes a third of Faster R-CNN's training step, is split by
    channels over torch's threads. Channels do not meet in it, so the numbers are the same."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int, aligned: bool) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.settings = feature.shape, (size, scale, samples, aligned)
        return torch.ops.torchvision.roi_align(feature, rois, scale, *size, samples, aligned)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (rois,), (size, scale, samples, aligned) = ctx.saved_tensors, ctx.settings
        count, _, height, width = ctx.shape

        def of(part: Tensor) -> Tensor:
            return torch.ops.torchvision._roi_align_backward(part.contiguous(), rois, scale, *size, count, part.shape[1], height, width,
                                                             samples, aligned)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return torch.cat(list(pool.map(of, grad.chunk(torch.get_num_threads(), 1))), 1), None, None, None, None, None


def deform_conv(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0,
                dilation: int = 1, mask: Tensor | None = None) -> Tensor:
    """Deformable convolution, v1, or v2 with a ``mask`` (https://arxiv.org/abs/1811.11168, eq. 1).

    ``x`` (N, C, H, W); ``offset`` (N, 2 * groups * kh * kw, H', W'), pairs (dy, dx) in pixels; ``mask`` (N, groups * kh * kw, H', W')
    in [0, 1]. Computed in float32. Returns (N, C_out, H', W').
    """
    with torch.autocast(x.device.type, enabled=False):
        return torchvision.ops.deform_conv2d(x.float(), offset.float(), weight.float(),
                                             None if bias is None else bias.float(), stride, padding, dilation,
                                             None if mask is None else mask.float())


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2., alpha: float = .25) -> Tensor:
    """Focal loss per element (https://arxiv.org/abs/1708.02002, eq. 5).

    ``logits`` (n, K); ``labels`` (n,) int64 in [0, K], K = background, all of whose elements are negatives. Returns (n, K).

    Positives are few, so every element is first a negative and the positive ones are then written over: that needs
    neither a one-hot target nor a weight of the size of the logits.
    """
    loss = (1 - alpha) * logits.sigmoid().pow(gamma) * F.softplus(logits)
    positive = (labels < logits.shape[1]).nonzero().squeeze(1)
    column = labels[positive]
    chosen = logits[positive, column]
    return loss.index_put((positive, column), alpha * (-chosen).sigmoid().pow(gamma) * F.softplus(-chosen))
