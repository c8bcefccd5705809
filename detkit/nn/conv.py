"""Convolution + norm + activation, with mmcv's parameter names (``conv``, ``bn``, ``gn``) and config dicts."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.nn.deform_conv import DeformConv2d, ModulatedDeformConv2d
from detkit.registry import ConfigError, check_arguments, did_you_mean

CONVS = {'Conv2d': nn.Conv2d, 'Conv': nn.Conv2d, 'deconv': nn.ConvTranspose2d, 'DCN': DeformConv2d, 'DCNv2': ModulatedDeformConv2d}
NORMS = {'BN': ('bn', nn.BatchNorm2d), 'BN2d': ('bn', nn.BatchNorm2d), 'SyncBN': ('bn', nn.SyncBatchNorm),
         'MMSyncBN': ('bn', nn.SyncBatchNorm), 'GN': ('gn', nn.GroupNorm), 'IN': ('in', nn.InstanceNorm2d), 'LN': ('ln', nn.LayerNorm)}
ACTIVATIONS = {'ReLU': nn.ReLU, 'LeakyReLU': nn.LeakyReLU, 'PReLU': nn.PReLU, 'ReLU6': nn.ReLU6, 'ELU': nn.ELU,
               'Sigmoid': nn.Sigmoid, 'Tanh': nn.Tanh, 'GELU': nn.GELU, 'SiLU': nn.SiLU, 'Swish': nn.SiLU, 'Mish': nn.Mish,
               'HSwish': nn.Hardswish, 'HSigmoid': nn.Hardsigmoid}
CHANNELS_ARGUMENT = {nn.GroupNorm: 'num_channels', nn.LayerNorm: 'normalized_shape'}   # the others': num_features
INPLACE = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid)


def build_conv(cfg: dict | None, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
               dilation: int = 1, groups: int = 1, bias: bool = True) -> nn.Module:
    """A convolution of the type that ``conv_cfg`` names, with its other keys as arguments; None and 'Conv2d' are the plain one."""
    options = dict(cfg or {})
    kind = options.pop('type', 'Conv2d')
    if kind not in CONVS:
        raise ConfigError(f"conv_cfg type '{kind}' is unknown.{did_you_mean(kind, CONVS)} Known: {', '.join(CONVS)}.", cfg, ('type',))
    options = dict(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride, padding=padding,
                   dilation=dilation, groups=groups, bias=bias) | options
    check_arguments(CONVS[kind], options)
    return CONVS[kind](**options)


def build_norm(cfg: dict, channels: int) -> tuple[str, nn.Module]:
    """The norm layer that ``norm_cfg`` describes, and the attribute name under which checkpoints hold it."""
    options = dict(cfg)
    kind, requires_grad = options.pop('type', None), options.pop('requires_grad', True)
    options.setdefault('eps', 1e-5)
    if kind not in NORMS:
        raise ConfigError(f"norm_cfg type '{kind}' is unknown.{did_you_mean(kind, NORMS)} Known: {', '.join(NORMS)}.", cfg)
    name, layer = NORMS[kind]
    options[CHANNELS_ARGUMENT.get(layer, 'num_features')] = channels
    check_arguments(layer, options)
    norm = layer(**options)
    for parameter in norm.parameters():
        parameter.requires_grad_(requires_grad)
    return name, norm


def keep_statistics(model: nn.Module) -> None:
    """Take batch norms out of training: they normalise by the statistics that they have."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def build_activation(cfg: dict | None, inplace: bool = True) -> nn.Module | None:
    """The activation that ``act_cfg`` describes, in place where it can be; None: none."""
    if cfg is None:
        return None
    options = dict(cfg)
    kind = options.pop('type', None)
    if kind not in ACTIVATIONS:
        raise ConfigError(f"act_cfg type '{kind}' is unknown.{did_you_mean(kind, ACTIVATIONS)} "
                          f'Known: {", ".join(ACTIVATIONS)}.', cfg)
    layer = ACTIVATIONS[kind]
    if layer in INPLACE:
        options.setdefault('inplace', inplace)
    else:
        options.pop('inplace', None)
    check_arguments(layer, options)
    return layer(**options)


class ConvModule(nn.Module):
    """Convolution, norm, activation. A norm takes the bias's place unless ``bias`` says otherwise."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 dilation: int = 1, groups: int = 1, bias: bool | str = 'auto', conv_cfg: dict | None = None,
                 norm_cfg: dict | None = None, act_cfg: dict | None = dict(type='ReLU'), inplace: bool = True) -> None:
        super().__init__()
        self.conv = build_conv(conv_cfg, in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                               norm_cfg is None if bias == 'auto' else bias)
        self.norm_name = None
        if norm_cfg is not None:
            self.norm_name, norm = build_norm(norm_cfg, out_channels)
            self.add_module(self.norm_name, norm)
        self.activate = build_activation(act_cfg, inplace)
        if isinstance(self.conv, DeformConv2d):
            return                                                                                   # starts as itself says
        slope = (act_cfg or {}).get('negative_slope', 0.01) if (act_cfg or {}).get('type') == 'LeakyReLU' else 0
        nn.init.kaiming_normal_(self.conv.weight, slope, 'fan_out', 'leaky_relu' if slope else 'relu')   # as mmcv's
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm_name:
            x = getattr(self, self.norm_name)(x)
        return x if self.activate is None else self.activate(x)


class Scale(nn.Module):
    """A learnt factor."""

    def __init__(self, scale: float = 1.) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class DepthwiseSeparableConvModule(nn.Module):
    """A convolution per channel, then a 1x1 convolution across channels, each with norm and activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 **options: object) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(in_channels, in_channels, kernel_size, stride, padding, groups=in_channels, **options)
        self.pointwise_conv = ConvModule(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


def conv_tower(depth: int, in_channels: int, channels: int, dcn_on_last: bool = False, **options: object) -> nn.ModuleList:
    """``depth`` 3x3 ConvModules in a row; ``dcn_on_last``: the last is a deformable one, version 2."""
    special = [{}] * (depth - 1) + [dict(conv_cfg=dict(type='DCNv2')) if dcn_on_last else {}]
    return nn.ModuleList(ConvModule(in_channels if i == 0 else channels, channels, 3, padding=1, **options | special[i])
                         for i in range(depth))


def bias_for_probability(probability: float) -> float:
    """The bias with which a sigmoid starts at ``probability`` (RetinaNet, Sec. 4.1)."""
    return -math.log((1 - probability) / probability)
