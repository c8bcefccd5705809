"""Cross-stage-partial layers (CSPNet, https://arxiv.org/abs/1911.11929) of YOLOX and RTMDet, and backbones and necks built from them."""
from __future__ import annotations

from collections.abc import Callable

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from detkit.nn.conv import ConvModule, DepthwiseSeparableConvModule, check_upsampling, keep_statistics
from detkit.nn.operators import Add, Concat, Multiply, Resize
from detkit.registry import ConfigError

INIT = dict(type='Kaiming', layer='Conv2d', a=5**0.5, distribution='uniform', mode='fan_in', nonlinearity='leaky_relu')


class ChannelAttention(nn.Module):
    """Multiply each channel by a gate computed from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Hardsigmoid()
        self.multiply = Multiply()

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.gate(self.fc(self.pool(x))))


class DarknetBottleneck(nn.Module):
    """1x1 convolution, 3x3 convolution, shortcut (YOLOv3, https://arxiv.org/abs/1804.02767, Sec. 2.4)."""

    def __init__(self, channels: int, add_identity: bool, use_depthwise: bool, **options: object) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels, 1, **options)
        self.conv2 = (DepthwiseSeparableConvModule if use_depthwise else ConvModule)(channels, channels, 3, padding=1, **options)
        self.add = Add() if add_identity else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return out if self.add is None else self.add(out, x)


class CSPNeXtBlock(nn.Module):
    """3x3 convolution, 5x5 depthwise-separable convolution, shortcut (RTMDet, https://arxiv.org/abs/2212.07784, Sec. 3.2)."""

    def __init__(self, channels: int, add_identity: bool, use_depthwise: bool, **options: object) -> None:
        super().__init__()
        first = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        self.conv1 = first(channels, channels, 3, padding=1, **options)
        self.conv2 = DepthwiseSeparableConvModule(channels, channels, 5, padding=2, **options)
        self.add = Add() if add_identity else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return out if self.add is None else self.add(out, x)


class CSPLayer(nn.Module):
    """Two paths with ``expand_ratio`` times ``out_channels`` channels each; one goes through the blocks. The paths are concatenated,
    weighted by channel attention (if enabled), and fused by a 1x1 convolution.

    ``block``: DarknetBottleneck (YOLOX) or CSPNeXtBlock (RTMDet).
    """

    def __init__(self, in_channels: int, out_channels: int, expand_ratio: float = 0.5, num_blocks: int = 1,
                 add_identity: bool = True, use_depthwise: bool = False, channel_attention: bool = False,
                 block: type[nn.Module] = CSPNeXtBlock, **options: object) -> None:
        super().__init__()
        mid = int(out_channels * expand_ratio)
        self.main_conv = ConvModule(in_channels, mid, 1, **options)
        self.short_conv = ConvModule(in_channels, mid, 1, **options)
        self.final_conv = ConvModule(2 * mid, out_channels, 1, **options)
        self.blocks = nn.Sequential(*(block(mid, add_identity, use_depthwise, **options) for _ in range(num_blocks)))
        self.concat = Concat()
        self.attention = ChannelAttention(2 * mid) if channel_attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        joined = self.concat(self.blocks(self.main_conv(x)), self.short_conv(x))
        return self.final_conv(self.attention(joined))


class SPPBottleneck(nn.Module):
    """Concatenate max pools of several kernel sizes (SPP, https://arxiv.org/abs/1406.4729).

    Each pool is applied to the output of the previous, smaller pool: two pools of size 5 equal one of size 9. The result is the same and
    needs fewer operations.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: tuple[int, ...], **options: object) -> None:
        super().__init__()
        steps = [k - before + 1 for before, k in zip((1, *kernel_sizes), kernel_sizes)]
        if any(k % 2 == 0 for k in kernel_sizes) or min(steps, default=1) < 1:
            raise ConfigError(f'kernel sizes of the spatial pyramid pooling must be odd and ascend, not {tuple(kernel_sizes)}.')
        mid = in_channels // 2
        self.conv1 = ConvModule(in_channels, mid, 1, **options)
        self.poolings = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in steps)
        self.concat = Concat()
        self.conv2 = ConvModule(mid * (len(kernel_sizes) + 1), out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.conv1(x)]
        for pool in self.poolings:
            pooled.append(pool(pooled[-1]))
        return self.conv2(self.concat(*pooled))


def csp_stages(table: list[list], widen_factor: float, deepen_factor: float, spp_kernel_sizes: tuple[int, ...], use_depthwise: bool,
               layer: dict, **options: object) -> list[nn.Sequential]:
    """Return the stages of a backbone: a convolution with stride 2, spatial pyramid pooling if the table says so, a CSP layer.

    ``table``: per stage input channels, output channels, blocks, shortcut in blocks, pyramid pooling; ``widen_factor`` multiplies the
    channels and ``deepen_factor`` the blocks. ``layer``: further arguments of the CSPLayers; ``options``: of the ConvModules.
    """
    down, stages = DepthwiseSeparableConvModule if use_depthwise else ConvModule, []
    for c_in, c_out, blocks, identity, pool in table:
        c_in, c_out, blocks = int(c_in * widen_factor), int(c_out * widen_factor), max(round(blocks * deepen_factor), 1)
        stage = [down(c_in, c_out, 3, 2, 1, **options)]
        if pool:
            stage.append(SPPBottleneck(c_out, c_out, tuple(spp_kernel_sizes), **options))
        stage.append(CSPLayer(c_out, c_out, num_blocks=blocks, add_identity=identity, use_depthwise=use_depthwise, **layer, **options))
        stages.append(nn.Sequential(*stage))
    return stages


class CSPBackbone(BaseModule):
    """A stem, then stages, each with stride 2; state-dict keys ``stem``, ``stage1``, ...

    ``out_indices``: indices of the returned maps: 0 is the stem, i is stage i. ``frozen_stages``: freeze the stem (0) and this many stages;
    -1: freeze nothing. ``norm_eval``: keep BatchNorm statistics fixed during training.

    Raises:
        ConfigError: an index of a stage that does not exist.
    """

    def __init__(self, stem: nn.Module, stages: list[nn.Module], out_indices: tuple, frozen_stages: int, norm_eval: bool,
                 init_cfg: dict | None) -> None:
        if not set(out_indices) <= set(range(len(stages) + 1)) or frozen_stages not in range(-1, len(stages) + 1):
            raise ConfigError(f'{type(self).__name__} out_indices={tuple(out_indices)} and frozen_stages={frozen_stages} must lie in '
                              f'0..{len(stages)} (frozen_stages may be -1).')
        super().__init__(init_cfg)
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        self.layers = ['stem', *(f'stage{i + 1}' for i in range(len(stages)))]
        for name, layer in zip(self.layers, [stem, *stages]):
            self.add_module(name, layer)
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return one map per entry of ``out_indices``, with strides 2 * 2**index, for images (N, 3, H, W)."""
        outs = []
        for i, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def freeze(self) -> None:
        for name in self.layers[:self.frozen_stages + 1]:
            getattr(self, name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> CSPBackbone:
        """Set the mode as ``nn.Module.train`` does, but keep the frozen stages and (``norm_eval``) all BatchNorm statistics fixed."""
        super().train(mode)
        self.freeze()
        if mode and self.norm_eval:
            keep_statistics(self)
        return self


class CSPPathAggregation(BaseModule):
    """Path-aggregation pyramid (PANet, https://arxiv.org/abs/1803.01534, Sec. 3.1): top-down, then bottom-up; each step concatenates two
    maps and fuses them.

    ``in_channels``: channels of the backbone's maps, fine to coarse. ``mix``: builds the fusing layer from input and output channels;
    ``down``: builds the downsampling layer; ``out``: builds the layer of a returned map. ``upsample_cfg``: arguments of
    ``torch.nn.functional.interpolate``; ``options``: arguments of the 1x1 ConvModules before it.
    """

    def __init__(self, in_channels: list[int], mix: Callable[[int, int], nn.Module], down: Callable[[int], nn.Module],
                 out: Callable[[int], nn.Module], upsample_cfg: dict, init_cfg: dict | None, **options: object) -> None:
        super().__init__(init_cfg)
        check_upsampling(upsample_cfg)
        coarse_to_fine = range(len(in_channels) - 1, 0, -1)
        self.reduce_layers = nn.ModuleList(ConvModule(in_channels[i], in_channels[i - 1], 1, **options) for i in coarse_to_fine)
        self.upsamples = nn.ModuleList(Resize(**upsample_cfg) for _ in coarse_to_fine)
        self.top_down_concats = nn.ModuleList(Concat() for _ in coarse_to_fine)
        self.top_down_blocks = nn.ModuleList(mix(in_channels[i - 1] * 2, in_channels[i - 1]) for i in coarse_to_fine)
        self.downsamples = nn.ModuleList(map(down, in_channels[:-1]))
        self.bottom_up_concats = nn.ModuleList(Concat() for _ in coarse_to_fine)
        self.bottom_up_blocks = nn.ModuleList(mix(a * 2, b) for a, b in zip(in_channels[:-1], in_channels[1:]))
        self.out_convs = nn.ModuleList(map(out, in_channels))

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return one map of ``out_channels`` per backbone map, with the same size; fine to coarse.

        Raises:
            ConfigError: the number of maps is not the length of ``in_channels``.
        """
        if len(feats) != len(self.out_convs):
            raise ConfigError(f'{type(self).__name__} in_channels has {len(self.out_convs)} entries; the backbone gives {len(feats)} maps '
                              f'(its out_indices).')
        inner = [feats[-1]]                                        # fine to coarse
        for x, reduce, upsample, concat, mix in zip(feats[-2::-1], self.reduce_layers, self.upsamples, self.top_down_concats,
                                                    self.top_down_blocks):
            inner[0] = reduce(inner[0])
            inner.insert(0, mix(concat(upsample(inner[0]), x)))
        outs = [inner[0]]
        for x, down, concat, mix in zip(inner[1:], self.downsamples, self.bottom_up_concats, self.bottom_up_blocks):
            outs.append(mix(concat(down(outs[-1]), x)))
        return tuple(conv(x) for conv, x in zip(self.out_convs, outs))
