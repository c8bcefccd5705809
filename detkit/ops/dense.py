"""Operators on feature maps and dense predictions."""
from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

CACHED = 1 << 16   # numbers of a piece of a tensor that stays in a processor's cache


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


def deform_conv(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | tuple[int, int] = 1,
                padding: int | tuple[int, int] = 0, dilation: int | tuple[int, int] = 1, mask: Tensor | None = None) -> Tensor:
    """Deformable convolution (https://arxiv.org/abs/1703.06211, eq. 2), with a ``mask`` version 2
    (https://arxiv.org/abs/1811.11168, eq. 1).

    ``x`` (N, C, H, W); ``offset`` (N, 2 * groups * kh * kw, H', W'), pairs (dy, dx) in pixels; ``mask`` (N, groups * kh * kw, H', W')
    in [0, 1]; ``weight`` (C_out, C / convolution groups, kh, kw). Outside the map lie zeros. Computed in float32. Returns
    (N, C_out, H', W').

    On a CPU the map is sampled by ``grid_sample`` and then multiplied by the weights: 0.5 to 0.7 of the time of torchvision's kernel, and
    with the gradient 0.3 to 0.5 (``benchmarks/deform_conv.py``).
    """
    stride, padding, dilation = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
    with torch.autocast(x.device.type, enabled=False):
        x, offset, weight = x.float(), offset.float(), weight.float()
        mask = None if mask is None else mask.float()
        if x.device.type != 'cpu' or torch.compiler.is_compiling():
            out = torchvision.ops.deform_conv2d(x, offset, weight, None, stride, padding, dilation, mask)
        elif torch.is_grad_enabled():
            out = SampledDeformConv.apply(x, offset, mask, weight, stride, padding, dilation)
        else:
            out = sampled_deform_conv(x, offset, mask, weight, stride, padding, dilation)
        return out if bias is None else out + bias.float()[:, None, None]


def sampled_deform_conv(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int],
                        dilation: tuple[int, int]) -> Tensor:
    """``deform_conv`` without a kernel of its own."""
    count, channels, height, width = x.shape
    (kh, kw), (out_h, out_w) = weight.shape[2:], offset.shape[2:]
    groups = offset.shape[1] // (2 * kh * kw)
    # sides that are powers of two: grid_sample then meets whole pixels exactly, and an offset of 0 has the gradient of the next pixel
    x = F.pad(x, (0, power_of_two(width) - width, 0, power_of_two(height) - height))
    dy, dx = offset.reshape(count * groups, kh, kw, 2, out_h, out_w).unbind(3)
    y, x_at = (along(n, k, s, p, d) for n, k, s, p, d in zip((out_h, out_w), (kh, kw), stride, padding, dilation))        # (k, n)
    grid = torch.stack([to_grid(dx + x_at[:, None], x.shape[3]), to_grid(dy + y[:, None, :, None], x.shape[2])], -1)
    threads = torch.get_num_threads()
    parts = math.gcd(channels // groups, threads) if count * groups < threads else 1         # grid_sample's threads share out the batch
    grid = grid.view(count * groups, 1, kh * kw * out_h, out_w, 2).expand(-1, parts, -1, -1, -1).flatten(0, 1)
    found = F.grid_sample(x.reshape(count * groups * parts, -1, *x.shape[2:]), grid, align_corners=False)
    if mask is not None:
        found = found.view(count, groups, -1, kh * kw, out_h * out_w) * mask.reshape(count, groups, 1, kh * kw, out_h * out_w)
    conv_groups = channels // weight.shape[1]
    found = found.reshape(count, conv_groups, weight.shape[1] * kh * kw, out_h * out_w)
    return (weight.reshape(conv_groups, -1, weight[0].numel()) @ found).reshape(count, len(weight), out_h, out_w)


def power_of_two(size: int) -> int:
    """The smallest that ``size`` does not exceed."""
    return 1 << (size - 1).bit_length()


def along(size: int, taps: int, stride: int, padding: int, dilation: int) -> Tensor:
    """(taps, size): where along one axis each tap of each output cell looks, pixels."""
    return torch.arange(taps)[:, None] * dilation + torch.arange(size) * stride - padding


def to_grid(pixels: Tensor, size: int) -> Tensor:
    """Pixels, 0 the middle of the first, as grid_sample counts: -1 and 1 are the borders."""
    return (2 * pixels + 1) / size - 1


class SampledDeformConv(torch.autograd.Function):
    """``sampled_deform_conv``, which keeps its inputs alone and samples again for the gradient: the samples are 9 times the map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, *settings: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.settings = settings
        return sampled_deform_conv(x, offset, mask, weight, *settings)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        inputs = [None if t is None else t.detach().requires_grad_(needed)
                  for t, needed in zip(ctx.saved_tensors, ctx.needs_input_grad)]
        asked = [t for t in inputs if t is not None and t.requires_grad]
        with torch.enable_grad():
            grads = iter(torch.autograd.grad(sampled_deform_conv(*inputs, *ctx.settings), asked, grad))
        return *(next(grads) if needed else None for needed in ctx.needs_input_grad[:4]), None, None, None


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2., alpha: float = .25) -> Tensor:
    """Focal loss, summed over classes (https://arxiv.org/abs/1708.02002, eq. 5).

    ``logits`` (n, K); ``labels`` (n,) int64 in [0, K], K = background, all of whose elements are negatives. Returns (n,).
    """
    return SigmoidFocalLoss.apply(logits, labels, gamma, alpha)


class SigmoidFocalLoss(torch.autograd.Function):
    """The loss and its slope in one pass over logits that are too many for a processor's cache, a piece at a time.

    Positives are few, so every element is first a negative and the positive ones are then exchanged: that needs neither a one-hot target
    nor a weight of the size of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
        losses, slopes = logits.new_empty(len(logits)), torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        piece = max(CACHED // max(logits.shape[1], 1), 1) if logits.device.type == 'cpu' else max(len(logits), 1)
        for start in range(0, len(logits), piece):
            part = slice(start, start + piece)
            loss, slope = focal(logits[part], gamma, 1 - alpha, slopes is not None)
            losses[part] = loss.sum(1)
            if slope is not None:
                slopes[part] = slope
        positive = (labels < logits.shape[1]).nonzero().squeeze(1)
        column = labels[positive]
        chosen = logits[positive, column]
        loss, slope = focal(-chosen, gamma, alpha, slopes is not None)
        losses[positive] += loss - focal(chosen, gamma, 1 - alpha, False)[0]
        if slope is not None:
            slopes[positive, column] = -slope
            ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        slopes, = ctx.saved_tensors
        return slopes * grad[:, None], None, None, None


def focal(logits: Tensor, gamma: float, weight: float, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """What logits cost whose target is 0, and the derivative."""
    p, cost = logits.sigmoid(), F.softplus(logits)
    focus = weight * p.pow(gamma)
    loss = focus * cost
    return loss, focus.mul_((1 - p).mul_(cost).mul_(gamma).add_(p)) if with_slope else None
