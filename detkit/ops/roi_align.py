"""RoIAlign (https://arxiv.org/abs/1703.06870)."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torchvision
from torch import Tensor


def roi_align(feature: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float,
              sampling_ratio: int = 0, aligned: bool = True) -> Tensor:
    """Return RoIAlign features (https://arxiv.org/abs/1703.06870, Sec. 3).

    Args:
        feature: (N, C, H, W).
        rois: (n, 5) image index, x1, y1, x2, y2 in pixels of the network input.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: samples per bin and axis; 0: derived from the RoI's size.
        aligned: shift by half a pixel, so that a pixel's centre is at (0.5, 0.5).

    Returns:
        (n, C, *output_size), float32, because the CPU kernel has no bfloat16.
    """
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    feature, rois, samples = feature.float().contiguous(), rois.float(), sampling_ratio if sampling_ratio > 0 else -1
    with torch.autocast(feature.device.type, enabled=False):
        if feature.device.type == 'cpu' and feature.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return RoIAlignOnAllCores.apply(feature, rois, size, spatial_scale, samples, aligned)
        return torchvision.ops.roi_align(feature, rois, size, spatial_scale, samples, aligned)


class RoIAlignOnAllCores(torch.autograd.Function):
    """torchvision's kernels, with a multi-threaded gradient on the CPU.

    torchvision's gradient uses one CPU core and takes a third of Faster R-CNN's training step. Here it is split by channels over torch's
    threads; channels are independent, so the numbers are the same.
    """

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
