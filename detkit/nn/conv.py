"""Convolution + norm + activation, with mmcv's parameter names (``conv``, ``bn``, ``gn``) and config dicts."""
from __future__ import annotations

import inspect
import math
from typing import Any, Literal

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from detkit.nn.deform_conv import DeformConv2d, ModulatedDeformConv2d
from detkit.registry import MODELS, ConfigError, check_keys, construct, did_you_mean

CONVS = {'Conv2d': nn.Conv2d, 'Conv': nn.Conv2d, 'deconv': nn.ConvTranspose2d, 'DCN': DeformConv2d, 'DCNv2': ModulatedDeformConv2d}
NORMS = {'BN': nn.BatchNorm2d, 'BN2d': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm, 'MMSyncBN': nn.SyncBatchNorm, 'GN': nn.GroupNorm,
         'IN': nn.InstanceNorm2d, 'LN': nn.LayerNorm}
ACTIVATIONS = {'ReLU': nn.ReLU, 'LeakyReLU': nn.LeakyReLU, 'PReLU': nn.PReLU, 'ReLU6': nn.ReLU6, 'ELU': nn.ELU,
               'Sigmoid': nn.Sigmoid, 'Tanh': nn.Tanh, 'GELU': nn.GELU, 'SiLU': nn.SiLU, 'Swish': nn.SiLU, 'Mish': nn.Mish,
               'HSwish': nn.Hardswish, 'HSigmoid': nn.Hardsigmoid}
UPSAMPLES = {'deconv': nn.ConvTranspose2d, 'nearest': nn.Upsample, 'bilinear': nn.Upsample}
UPSAMPLE_KEYS = dict(type=str | None, scale_factor=int | None)
UPSAMPLING = dict(mode=Literal['nearest', 'nearest-exact', 'bilinear', 'bicubic', 'area'], scale_factor=float | tuple[float, float],
                  align_corners=bool | None, recompute_scale_factor=bool | None, antialias=bool)
NORM_ATTRIBUTES = {_InstanceNorm: 'in', _BatchNorm: 'bn', nn.GroupNorm: 'gn', nn.LayerNorm: 'ln'}
NORM_WORDS = dict(batch='bn', group='gn', layer='ln', instance='in')       # words in class names that determine the attribute name


def layer_class(kind: Any, table: dict[str, type], cfg: dict | None, key: str) -> type:
    """Return the class named ``kind`` in ``table``, or registered under this name in MODELS; a class is returned unchanged.

    Raises:
        ConfigError: neither has it. ``key``: the name of ``cfg`` in configs.
    """
    if isinstance(kind, type):
        return kind
    if kind in table:
        return table[kind]
    if not isinstance(kind, str) or kind not in MODELS:
        raise ConfigError(f"{key} type {kind!r} is unknown.{did_you_mean(kind, [*table, *MODELS.names()])} Known: {', '.join(table)}, and "
                          f'classes registered in MODELS.', cfg, ('type',))
    return MODELS.get(kind)


def build_conv(cfg: dict | None, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
               dilation: int = 1, groups: int = 1, bias: bool = True) -> nn.Module:
    """Build the convolution of the type in ``conv_cfg``, with its other keys as arguments; None and 'Conv2d' mean ``nn.Conv2d``.

    A class registered in MODELS receives the arguments of this function, by name.
    """
    cfg = cfg or {}
    return construct(layer_class(cfg.get('type', 'Conv2d'), CONVS, cfg, 'conv_cfg'), cfg, in_channels=in_channels,
                     out_channels=out_channels, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups,
                     bias=bias)


def build_norm(cfg: dict, channels: int) -> tuple[str, nn.Module]:
    """Build the norm layer of ``norm_cfg`` and return the attribute name that checkpoints use for it, and the layer.

    A class registered in MODELS receives the channels as its first argument (a GroupNorm as ``num_channels``) and ``eps`` if it accepts it;
    its attribute name is mmcv's (see ``norm_attribute``).
    """
    layer, requires_grad = layer_class(cfg.get('type'), NORMS, cfg, 'norm_cfg'), cfg.get('requires_grad', True)
    if not isinstance(requires_grad, bool):
        raise ConfigError(f'is {requires_grad!r}; it should be True or False.', cfg, ('requires_grad',))
    options = {key: value for key, value in cfg.items() if key != 'requires_grad'}
    parameters = inspect.signature(layer).parameters
    if 'eps' in parameters:
        options.setdefault('eps', 1e-5)
    first = next(iter(parameters.values()))
    channels_argument = first.name if first.kind is first.POSITIONAL_OR_KEYWORD else 'num_features'
    norm = construct(layer, cfg, options, **{'num_channels' if issubclass(layer, nn.GroupNorm) else channels_argument: channels})
    for parameter in norm.parameters():
        parameter.requires_grad_(requires_grad)
    return norm_attribute(layer), norm


def norm_attribute(layer: type[nn.Module]) -> str:
    """Return the attribute name of a norm, as in mmcv: the class's ``_abbr_``, or from its parent class, or from a word in its name."""
    by_class = [name for base, name in NORM_ATTRIBUTES.items() if issubclass(layer, base)]
    by_word = [name for word, name in NORM_WORDS.items() if word in layer.__name__.lower()]
    return getattr(layer, '_abbr_', [*by_class, *by_word, 'norm_layer'][0])


def keep_statistics(model: nn.Module) -> None:
    """Put batch norms into evaluation mode: they normalise with their running statistics and do not update them."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def build_activation(cfg: dict | None, inplace: bool = True) -> nn.Module | None:
    """Build the activation of ``act_cfg``, in place if possible; None: no activation."""
    if cfg is None:
        return None
    options, kind = dict(cfg), cfg.get('type')
    layer = layer_class(kind, ACTIVATIONS, cfg, 'act_cfg')
    if 'inplace' in inspect.signature(layer).parameters:
        options.setdefault('inplace', inplace)
    elif kind in ACTIVATIONS and isinstance(options.get('inplace'), bool):      # MMDetection's configs set inplace for every type
        options.pop('inplace')
    return construct(layer, cfg, options)


def build_upsample(cfg: dict, in_channels: int, out_channels: int) -> tuple[nn.Module | None, int]:
    """Build the layer of ``upsample_cfg`` and return it with the number of its output channels.

    ``type``: 'deconv' (a transposed convolution to ``out_channels``, with ``scale_factor`` as kernel size and stride), 'nearest',
    'bilinear', None (no layer), or a class registered in MODELS. Such a class receives the other keys of ``cfg``, and ``in_channels`` and
    ``out_channels`` if it accepts them.

    Raises:
        ConfigError: an unknown type, or a key that it does not accept.
    """
    options = dict(cfg)
    kind = options.pop('type', None)
    if kind is None:
        check_keys(cfg, UPSAMPLE_KEYS, 'upsample_cfg')
        return None, in_channels
    layer = layer_class(kind, UPSAMPLES, cfg, 'upsample_cfg')
    if kind in UPSAMPLES:
        check_keys(cfg, UPSAMPLE_KEYS, 'upsample_cfg')
        factor = options.get('scale_factor')
        if factor is None:
            raise ConfigError(f"upsample_cfg type '{kind}' needs 'scale_factor'.", cfg)
        if kind == 'deconv':
            return layer(in_channels, out_channels, factor, factor), out_channels
        return layer(scale_factor=factor, mode=kind, align_corners=None if kind == 'nearest' else False), in_channels
    channels = dict(in_channels=in_channels, out_channels=out_channels)
    given = {key: value for key, value in channels.items() if key in inspect.signature(layer).parameters}
    return construct(layer, cfg, options, **given), given.get('out_channels', in_channels)


def check_upsampling(cfg: dict) -> None:
    """Raise ConfigError for an ``upsample_cfg`` that ``torch.nn.functional.interpolate`` does not accept."""
    check_keys(cfg, UPSAMPLING, 'upsample_cfg')


class ConvModule(nn.Module):
    """Convolution, norm, activation. With ``bias='auto'``, the convolution has a bias only if there is no norm."""

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
        if isinstance(self.conv, DeformConv2d) or hasattr(self.conv, 'init_weights') or not hasattr(self.conv, 'weight'):
            return                                                                                   # has its own initialisation
        slope = (act_cfg or {}).get('negative_slope', 0.01) if (act_cfg or {}).get('type') == 'LeakyReLU' else 0
        nn.init.kaiming_normal_(self.conv.weight, slope, 'fan_out', 'leaky_relu' if slope else 'relu')   # as in mmcv
        if getattr(self.conv, 'bias', None) is not None:
            nn.init.zeros_(self.conv.bias)

    def conv_norms(self) -> dict[str, str]:
        """Return the convolution-norm pair for ``conv_norm_pairs``."""
        return {'conv': self.norm_name} if self.norm_name else {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm_name:
            x = getattr(self, self.norm_name)(x)
        return x if self.activate is None else self.activate(x)


class Scale(nn.Module):
    """A learnt scalar factor."""

    def __init__(self, scale: float = 1.) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class DepthwiseSeparableConvModule(nn.Module):
    """A depthwise convolution, then a 1x1 convolution, each with norm and activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 **options: object) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(in_channels, in_channels, kernel_size, stride, padding, groups=in_channels, **options)
        self.pointwise_conv = ConvModule(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


def conv_tower(depth: int, in_channels: int, channels: int, dcn_on_last: bool = False, **options: object) -> nn.ModuleList:
    """Return ``depth`` 3x3 ConvModules in sequence; ``dcn_on_last``: the last one is a deformable convolution v2."""
    special = [{}] * (depth - 1) + [dict(conv_cfg=dict(type='DCNv2')) if dcn_on_last else {}]
    return nn.ModuleList(ConvModule(in_channels if i == 0 else channels, channels, 3, padding=1, **options | special[i])
                         for i in range(depth))


def bias_for_probability(probability: float) -> float:
    """Return the bias for which a sigmoid output starts at ``probability`` (RetinaNet, Sec. 4.1)."""
    return -math.log((1 - probability) / probability)
