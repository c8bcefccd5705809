"""ResNet (https://arxiv.org/abs/1512.03385) and ResNet-D (https://arxiv.org/abs/1812.01187), with MMDetection's names."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detkit.nn.conv import build_conv, build_norm, keep_statistics
from detkit.nn.deform_conv import DeformConv2d
from detkit.nn.operators import Add
from detkit.registry import MODELS, ConfigError, check_arguments

POSITIONS = 'after_conv1', 'after_conv2', 'after_conv3'     # positions of plugins in a bottleneck


class BasicBlock(nn.Module):
    """3x3 convolution to ``inner`` channels, 3x3 to ``out_channels``; the shortcut has a projection if the input shape differs from the
    output."""

    def __init__(self, in_channels: int, stride: int, inner: int, out_channels: int, dilation: int, style: str, avg_down: bool,
                 conv_cfg: dict | None, norm_cfg: dict) -> None:
        super().__init__()
        self.out_channels = out_channels
        downsample = shortcut(in_channels, out_channels, stride, avg_down, conv_cfg, norm_cfg)
        self.conv1 = build_conv(conv_cfg, in_channels, inner, 3, stride, dilation, dilation, bias=False)
        self.conv2 = build_conv(conv_cfg, inner, out_channels, 3, padding=1, bias=False)
        self.norm_names = add_norms(self, norm_cfg, [inner, out_channels])
        self.relu1, self.relu2, self.add = nn.ReLU(inplace=True), nn.ReLU(inplace=True), Add()
        self.downsample = downsample

    def conv_norms(self) -> dict[str, str]:
        """Return the convolution-norm pairs for ``conv_norm_pairs``."""
        return dict(zip(('conv1', 'conv2'), self.norm_names))

    def forward(self, x: Tensor) -> Tensor:
        norm1, norm2 = (getattr(self, n) for n in self.norm_names)
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu2(self.add(norm2(self.conv2(self.relu1(norm1(self.conv1(x))))), identity))


class Bottleneck(nn.Module):
    """1x1 convolution to ``inner`` channels, 3x3 in ``groups``, 1x1 to ``out_channels``; the shortcut has a projection if the input shape
    differs from the output.

    ``style``: 'caffe' puts the stride in the first 1x1, 'pytorch' in the 3x3. ``dcn``: config of the 3x3 if it is not ``conv_cfg``.
    ``plugins``: position and config of modules after a convolution's norm and activation ('after_conv3': after its norm, before the sum).
    """

    def __init__(self, in_channels: int, stride: int, inner: int, out_channels: int, dilation: int, style: str, avg_down: bool,
                 conv_cfg: dict | None, norm_cfg: dict, groups: int = 1, dcn: dict | None = None,
                 plugins: Sequence[tuple[str, dict]] = ()) -> None:
        super().__init__()
        self.out_channels = out_channels
        downsample = shortcut(in_channels, out_channels, stride, avg_down, conv_cfg, norm_cfg)
        stride1, stride2 = (stride, 1) if style == 'caffe' else (1, stride)
        self.conv1 = build_conv(conv_cfg, in_channels, inner, 1, stride1, bias=False)
        self.conv2 = build_conv(dcn or conv_cfg, inner, inner, 3, stride2, dilation, dilation, groups, bias=False)
        self.conv3 = build_conv(conv_cfg, inner, out_channels, 1, bias=False)
        self.norm_names = add_norms(self, norm_cfg, [inner, inner, out_channels])
        self.relu1, self.relu2, self.relu3, self.add = *(nn.ReLU(inplace=True) for _ in range(3)), Add()
        self.downsample = downsample
        self.plugin_names: dict[str, list[str]] = {position: [] for position in POSITIONS}
        for position, cfg in plugins:
            name, plugin = build_plugin(cfg, out_channels if position == POSITIONS[-1] else inner)
            self.plugin_names[position].append(name)
            self.add_module(name, plugin)

    def conv_norms(self) -> dict[str, str]:
        """Return the convolution-norm pairs for ``conv_norm_pairs``."""
        return dict(zip(('conv1', 'conv2', 'conv3'), self.norm_names))

    def forward(self, x: Tensor) -> Tensor:
        norm1, norm2, norm3 = (getattr(self, n) for n in self.norm_names)
        identity = x if self.downsample is None else self.downsample(x)
        x = self.plugged('after_conv1', self.relu1(norm1(self.conv1(x))))
        x = self.plugged('after_conv2', self.relu2(norm2(self.conv2(x))))
        x = self.plugged('after_conv3', norm3(self.conv3(x)))
        return self.relu3(self.add(x, identity))

    def plugged(self, position: str, x: Tensor) -> Tensor:
        """Apply the plugins of this position to ``x``."""
        for name in self.plugin_names[position]:
            x = getattr(self, name)(x)
        return x


# depth -> block class, ratio of output channels to width, number of blocks in each stage
BLOCKS: dict[int, tuple[type[nn.Module], int, tuple[int, ...]]] = {
    18: (BasicBlock, 1, (2, 2, 2, 2)), 34: (BasicBlock, 1, (3, 4, 6, 3)), 50: (Bottleneck, 4, (3, 4, 6, 3)),
    101: (Bottleneck, 4, (3, 4, 23, 3)), 152: (Bottleneck, 4, (3, 8, 36, 3))}


def residual_stage(make_block: Callable[[int, int], nn.Module], count: int, in_channels: int, stride: int) -> nn.Sequential:
    """Return ``count`` blocks in sequence; the first has the stride.

    ``make_block``: builds a block from its input channels and stride; the block's ``out_channels`` are the input channels of the next.
    """
    blocks = [make_block(in_channels, stride)]
    for _ in range(count - 1):
        blocks.append(make_block(blocks[-1].out_channels, 1))
    return nn.Sequential(*blocks)


def build_plugin(cfg: dict, channels: int) -> tuple[str, nn.Module]:
    """Build the module of a plugin's ``cfg`` and return it with its name in a block, as in mmcv: ``ContextBlock`` with the postfix 1 is
    ``context_block1``."""
    options = dict(cfg)
    postfix = options.pop('postfix', '')
    plugin = MODELS.build(options, in_channels=channels)
    words = re.sub(r'(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', type(plugin).__name__).lower()
    return f'{getattr(plugin, "_abbr_", words)}{postfix}', plugin


def add_norms(module: nn.Module, norm_cfg: dict, channels: list[int]) -> list[str]:
    """Add one norm layer per entry of ``channels`` under the names that checkpoints use (``bn1``, ``bn2``, ...), and return the names."""
    names = []
    for i, c in enumerate(channels):
        name, norm = build_norm(norm_cfg, c)
        names.append(f'{name}{i + 1}')
        module.add_module(names[-1], norm)
    return names


@MODELS.register_module()
class ResNet(BaseModule):
    """A stem, then stages of residual blocks.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem_channels, base_channels: channels after the stem, and of the first stage's blocks.
        strides, dilations: stride of the first block of each stage, and dilation of all 3x3 convolutions of each stage.
        out_indices: indices of the stages whose maps are returned; with the default strides, their strides are 4, 8, 16, 32.
        style: position of the stride in a bottleneck: ``pytorch``: in the 3x3, ``caffe``: in the first 1x1.
        deep_stem, avg_down: ResNet-D's stem of three 3x3 convolutions, and average pooling before the convolution of a shortcut.
        frozen_stages: freeze the stem (0) and this many stages; -1: freeze nothing.
        groups, base_width: for ResNeXt: the 3x3 of a bottleneck has this many groups, each of ``base_width`` channels in the first stage.
        dcn: config of a deformable convolution that replaces the 3x3 of bottlenecks in the stages selected by ``stage_with_dcn``.
        plugins: extra modules in bottlenecks, a list of ``dict(cfg=dict(type='ContextBlock', ratio=1 / 16), position='after_conv3')``.
            ``stages`` (one bool per stage) selects the stages; default: all. The type can be any class in MODELS that takes ``in_channels``
            and keeps the shape of a map. Two plugins of one type each need a ``postfix`` in ``cfg``.
        norm_eval: keep BatchNorm statistics fixed during training.
        with_cp: recompute blocks in the backward pass: less memory, more time.
        zero_init_residual: initialise blocks as the identity (without a checkpoint).

    A subclass with its own blocks sets ``blocks``, a table like BLOCKS. A block takes the arguments of BasicBlock, and has ``out_channels``
    and ``norm_names``; the last of them is the norm before the sum.
    """

    blocks = BLOCKS

    def __init__(self, depth: int, in_channels: int = 3, stem_channels: int | None = None, base_channels: int = 64,
                 num_stages: int = 4, strides: tuple[int, ...] = (1, 2, 2, 2), dilations: tuple[int, ...] = (1, 1, 1, 1),
                 out_indices: tuple[int, ...] = (0, 1, 2, 3), style: str = 'pytorch', deep_stem: bool = False, avg_down: bool = False,
                 frozen_stages: int = -1, conv_cfg: dict | None = None, norm_cfg: dict = dict(type='BN', requires_grad=True),
                 norm_eval: bool = True, dcn: dict | None = None, stage_with_dcn: tuple[bool, ...] = (False, False, False, False),
                 plugins: list[dict] | None = None, with_cp: bool = False, zero_init_residual: bool = True, groups: int = 1,
                 base_width: int = 64, init_cfg: dict | list | None = None) -> None:
        if depth not in self.blocks:
            raise ConfigError(f'{type(self).__name__} depth={depth} is unknown. Known: {", ".join(map(str, self.blocks))}.')
        if style not in ('pytorch', 'caffe'):
            raise ConfigError(f"ResNet style='{style}' is unknown. Known: pytorch, caffe.")
        if not 1 <= num_stages <= 4 or max(out_indices) >= num_stages or frozen_stages > num_stages:
            raise ConfigError(f'ResNet num_stages={num_stages} must lie in 1..4 and cover out_indices={tuple(out_indices)} '
                              f'and frozen_stages={frozen_stages}.')
        if min(len(strides), len(dilations)) < num_stages:
            raise ConfigError(f'ResNet strides={tuple(strides)} and dilations={tuple(dilations)} need an entry for each of '
                              f'num_stages={num_stages}.')
        block, expansion, counts = self.blocks[depth]
        if block is BasicBlock and (groups > 1 or dcn):
            raise ConfigError(f"ResNet depth={depth} has no bottlenecks, whose 3x3 {'dcn' if dcn else 'groups'} is about. "
                              f'Take depth 50, 101 or 152.')
        if block is BasicBlock and plugins:
            raise ConfigError(f'ResNet depth={depth} has no bottlenecks, into which plugins go. Take depth 50, 101 or 152.')
        dcn = checked_dcn(dcn, conv_cfg, stage_with_dcn, num_stages)
        super().__init__(init_cfg or [dict(type='Kaiming', layer='Conv2d'),
                                      dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])])
        self.out_indices, self.num_stages, self.frozen_stages = tuple(out_indices), num_stages, frozen_stages
        self.norm_eval, self.with_cp, self.zero_init_residual = norm_eval, with_cp, zero_init_residual
        self.build_stem(in_channels, stem_channels or base_channels, deep_stem, conv_cfg, norm_cfg)
        channels = stem_channels or base_channels
        for i, count in enumerate(counts[:num_stages]):
            width = base_channels * 2**i
            options = dict(inner=width, out_channels=width * expansion, dilation=dilations[i], style=style, avg_down=avg_down,
                           conv_cfg=conv_cfg, norm_cfg=norm_cfg)
            if groups > 1:
                options |= dict(inner=int(width * base_width / base_channels) * groups, groups=groups)
            if dcn and stage_with_dcn[i]:
                options |= dict(dcn=dcn)
            if plugins:
                options |= dict(plugins=plugins_of_stage(plugins, i, num_stages))
            self.add_module(f'layer{i + 1}', residual_stage(partial(block, **options), count, channels, strides[i]))
            channels = width * expansion
        self.freeze()

    def build_stem(self, in_channels: int, channels: int, deep: bool, conv_cfg: dict | None, norm_cfg: dict) -> None:
        self.deep_stem, self.stem_norm = deep, None
        if deep:
            half, parts = channels // 2, []
            for c_in, c_out, stride in ((in_channels, half, 2), (half, half, 1), (half, channels, 1)):
                parts += [build_conv(conv_cfg, c_in, c_out, 3, stride, 1, bias=False), build_norm(norm_cfg, c_out)[1],
                          nn.ReLU(inplace=True)]
            self.stem = nn.Sequential(*parts)
        else:
            self.conv1 = build_conv(conv_cfg, in_channels, channels, 7, 2, 3, bias=False)
            self.stem_norm = add_norms(self, norm_cfg, [channels])[0]
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def conv_norms(self) -> dict[str, str]:
        """Return the convolution-norm pair of the stem for ``conv_norm_pairs``, if the stem is one convolution."""
        return {} if self.deep_stem else {'conv1': self.stem_norm}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return one map per entry of ``out_indices`` for images (N, C, H, W)."""
        x = self.stem(x) if self.deep_stem else self.relu(getattr(self, self.stem_norm)(self.conv1(x)))
        x = self.maxpool(x)
        outs = []
        for i in range(max(self.out_indices) + 1):
            x = run_stage(getattr(self, f'layer{i + 1}'), x, self.with_cp)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def frozen_parts(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stem = [self.stem] if self.deep_stem else [self.conv1, getattr(self, self.stem_norm)]
        return stem + [getattr(self, f'layer{i}') for i in range(1, self.frozen_stages + 1)]

    def freeze(self) -> None:
        for part in self.frozen_parts():
            part.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'ResNet':
        """Set the mode as ``nn.Module.train`` does, but keep the frozen stages and (``norm_eval``) all BatchNorm statistics fixed."""
        super().train(mode)
        self.freeze()
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def init_weights(self) -> None:
        super().init_weights()
        init = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        if any(c['type'] == 'Pretrained' for c in init):
            return
        for i in range(self.num_stages if self.zero_init_residual else 0):
            for block in getattr(self, f'layer{i + 1}'):
                nn.init.zeros_(getattr(block, block.norm_names[-1]).weight)
        for module in self.modules():
            if isinstance(module, DeformConv2d):
                module.reset_offsets()


def run_stage(blocks: nn.Sequential, x: Tensor, with_cp: bool) -> Tensor:
    """Return the last block's map of ``x`` (N, C, H, W). ``with_cp``: recompute blocks in the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if with_cp and x.requires_grad else block(x)
    return x


def checked_dcn(dcn: dict | None, conv_cfg: dict | None, stages: tuple, num_stages: int) -> dict | None:
    """Return ``dcn`` as a ``conv_cfg``. Raises ConfigError for settings that contradict each other."""
    if dcn is None:
        return None
    if conv_cfg is not None or len(stages) < num_stages:
        raise ConfigError(f'ResNet dcn goes without conv_cfg={conv_cfg} and needs a stage_with_dcn for each of num_stages={num_stages}, '
                          f'not {tuple(stages)}.', dcn)
    if dcn.get('fallback_on_stride', False):
        raise ConfigError('ResNet dcn fallback_on_stride=True is not offered: every 3x3 of a stage is deformable, or none.', dcn)
    return {k: v for k, v in dcn.items() if k != 'fallback_on_stride'}


def plugins_of_stage(plugins: list[dict], stage: int, num_stages: int) -> list[tuple[str, dict]]:
    """Return position and ``cfg`` of each plugin of a stage's blocks. Raises ConfigError for an unknown key, position or ``stages``."""
    chosen = []
    for plugin in plugins:
        for key in plugin:
            if key not in ('cfg', 'position', 'stages'):
                raise ConfigError(f"ResNet plugins have no '{key}'. They have: cfg, position, stages.", plugin)
        if 'cfg' not in plugin or plugin.get('position') not in POSITIONS:
            raise ConfigError(f"a ResNet plugin needs a cfg, and a position of {', '.join(POSITIONS)}, not {plugin.get('position')!r}.",
                              plugin)
        stages = plugin.get('stages', (True,) * num_stages)
        if len(stages) != num_stages:
            raise ConfigError(f'ResNet plugin stages={tuple(stages)} need an entry for each of num_stages={num_stages}.', plugin)
        if stages[stage]:
            chosen.append((plugin['position'], plugin['cfg']))
    return chosen


def shortcut(in_channels: int, out_channels: int, stride: int, avg_down: bool, conv_cfg: dict | None,
             norm_cfg: dict) -> nn.Module | None:
    """Return the projection of a block's shortcut; None if the input already has the shape of the output."""
    if stride == 1 and in_channels == out_channels:
        return None
    pool = [nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] if avg_down else []
    conv = build_conv(conv_cfg, in_channels, out_channels, 1, 1 if avg_down else stride, bias=False)
    return nn.Sequential(*pool, conv, build_norm(norm_cfg, out_channels)[1])


@MODELS.register_module()
class ResNetV1d(ResNet):
    """ResNet-D: ResNet with ``deep_stem`` and ``avg_down``."""

    def __init__(self, **options: object) -> None:
        check_arguments(ResNet, options)
        super().__init__(deep_stem=True, avg_down=True, **options)
