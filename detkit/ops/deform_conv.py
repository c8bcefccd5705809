"""Deformable convolution (https://arxiv.org/abs/1703.06211, https://arxiv.org/abs/1811.11168)."""
from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from detkit.ops.points import to_grid


def deform_conv(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | tuple[int, int] = 1,
                padding: int | tuple[int, int] = 0, dilation: int | tuple[int, int] = 1, mask: Tensor | None = None) -> Tensor:
    """Deformable convolution v1 (https://arxiv.org/abs/1703.06211, eq. 2); with a ``mask``, v2 (https://arxiv.org/abs/1811.11168, eq. 1).

    ``x`` (N, C, H, W); ``offset`` (N, 2 * groups * kh * kw, H', W'), pairs (dy, dx) in pixels; ``mask`` (N, groups * kh * kw, H', W') in
    [0, 1]; ``weight`` (C_out, C / convolution groups, kh, kw). Values outside the map are zero. Computed in float32. Returns (N, C_out, H',
    W').

    On a CPU, the map is sampled with ``grid_sample`` and multiplied by the weights. This takes 0.5 to 0.7 of the time of torchvision's
    kernel, and 0.3 to 0.5 with the gradient (``benchmarks/deform_conv.py``).
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
    """Compute ``deform_conv`` with ``grid_sample`` and a matrix product."""
    count, channels, height, width = x.shape
    (kh, kw), (out_h, out_w) = weight.shape[2:], offset.shape[2:]
    groups = offset.shape[1] // (2 * kh * kw)
    # with power-of-two sides, grid_sample hits whole pixels exactly, and an offset of 0 has the gradient towards the next pixel
    x = F.pad(x, (0, power_of_two(width) - width, 0, power_of_two(height) - height))
    dy, dx = offset.reshape(count * groups, kh, kw, 2, out_h, out_w).unbind(3)
    y, x_at = (along(n, k, s, p, d) for n, k, s, p, d in zip((out_h, out_w), (kh, kw), stride, padding, dilation))        # (k, n)
    grid = torch.stack([to_grid(dx + x_at[:, None], x.shape[3]), to_grid(dy + y[:, None, :, None], x.shape[2])], -1)
    threads = torch.get_num_threads()
    parts = math.gcd(channels // groups, threads) if count * groups < threads else 1         # grid_sample uses one thread per batch element
    grid = grid.view(count * groups, 1, kh * kw * out_h, out_w, 2).expand(-1, parts, -1, -1, -1).flatten(0, 1)
    found = F.grid_sample(x.reshape(count * groups * parts, -1, *x.shape[2:]), grid, align_corners=False)
    if mask is not None:
        found = found.view(count, groups, -1, kh * kw, out_h * out_w) * mask.reshape(count, groups, 1, kh * kw, out_h * out_w)
    conv_groups = channels // weight.shape[1]
    found = found.reshape(count, conv_groups, weight.shape[1] * kh * kw, out_h * out_w)
    return (weight.reshape(conv_groups, -1, weight[0].numel()) @ found).reshape(count, len(weight), out_h, out_w)


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least ``size``."""
    return 1 << (size - 1).bit_length()


def along(size: int, taps: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Return the sampling positions (taps, size) along one axis, of each tap for each output cell, in pixels."""
    return torch.arange(taps)[:, None] * dilation + torch.arange(size) * stride - padding


class SampledDeformConv(torch.autograd.Function):
    """``sampled_deform_conv`` that saves only its inputs and samples again in the backward pass: the samples need 9 times the memory of the
    map."""

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
