"""Swin Transformer (https://arxiv.org/abs/2103.14030), with MMDetection's names. Maps are (N, H, W, C) inside."""
from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detkit.nn.conv import build_norm
from detkit.nn.drop_path import DropPath
from detkit.nn.ffn import FFN
from detkit.nn.operators import Add
from detkit.registry import MODELS, ConfigError

APART = -100.     # added to attention logits of positions from different regions of a shifted map; value of the official code
BY_THE_PAPER = [dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.), dict(type='Constant', layer='LayerNorm', val=1., bias=0.)]


class WindowAttention(nn.Module):
    """Self-attention in windows of ``size`` x ``size`` positions, with a learnt bias per head and relative position (eq. 4)."""

    def __init__(self, channels: int, heads: int, size: int, qkv_bias: bool, qk_scale: float | None, attn_drop: float,
                 proj_drop: float) -> None:
        super().__init__()
        self.heads, self.scale, self.attn_drop = heads, qk_scale or (channels // heads)**-0.5, attn_drop
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * size - 1)**2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer('relative_position_index', relative_positions(size))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """Apply attention to windows (B, L, C) in the format of ``to_windows``; the shape is kept. ``apart``: (B, 1, L, L), see
        ``shift_mask``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)     # (B, heads, L, C / heads)
        index = self.relative_position_index.view([round(x.shape[1]**0.5)] * 4).permute(1, 0, 3, 2)   # row-major -> column-major
        bias = self.relative_position_bias_table[index.flatten()].view(x.shape[1], x.shape[1], self.heads).permute(2, 0, 1)[None]
        x = F.scaled_dot_product_attention(q, k, v, bias if apart is None else bias + apart, self.attn_drop if self.training else 0.,
                                           scale=self.scale)
        x = x.transpose(1, 2).clone(memory_format=torch.contiguous_format)     # attention kernels return different memory formats
        return self.proj_drop(self.proj(x.flatten(2)))


def relative_positions(size: int) -> Tensor:
    """Return the index (L, L) into the bias table for each pair of the L = ``size``**2 positions of a window."""
    steps = torch.arange(size)
    step = (steps[:, None] - steps + size - 1)                                  # relative position, counted from 0
    return (step[:, None, :, None] * (2 * size - 1) + step[None, :, None, :]).reshape(size**2, size**2)


class ShiftedWindows(nn.Module):
    """Attention within windows; ``shift``: the windows are shifted by half a window (Sec. 3.2)."""

    def __init__(self, channels: int, heads: int, size: int, shift: bool, **options: object) -> None:
        super().__init__()
        self.size, self.shift = size, size // 2 if shift else 0
        self.w_msa = WindowAttention(channels, heads, size, **options)

    def forward(self, x: Tensor, apart: Tensor) -> Tensor:
        """Apply windowed attention to (N, H, W, C); the shape is kept. The map is padded with zeros to whole windows; padded positions take
        part in attention."""
        height, width, size, shift = *x.shape[1:3], self.size, self.shift
        x = F.pad(x, (0, 0, 0, whole_windows(width, size) - width, 0, whole_windows(height, size) - height))
        padded = x.shape
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        x = from_windows(self.w_msa(to_windows(x, size), apart if shift else None), padded, size)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return cropped(x, height, width)


def whole_windows(length: int, size: int) -> int:
    """Return ``length`` rounded up to a multiple of ``size``."""
    return (length + size - 1) // size * size


def to_windows(x: Tensor, size: int) -> Tensor:
    """Split a map (N, H, W, C) of whole windows into (B, L, C): windows in row-major order, the L = ``size``**2 positions of each in
    column-major order.

    With this order and these steps, including the copy before the reshape, no dimension is the number of windows in one direction. That
    number can be 1, and ``torch.export`` treats 1 as a special case.
    """
    x = x.flatten(0, 1).unflatten(0, (-1, size)).transpose(1, 2).contiguous()    # (N rows, W, size, C)
    return x.flatten(0, 1).unflatten(0, (-1, size)).flatten(1, 2)


def from_windows(x: Tensor, shape: torch.Size, size: int) -> Tensor:
    """Reverse ``to_windows``: (B, L, C) -> (N, H, W, C) of ``shape``."""
    n, height, width, _ = shape
    x = x.unflatten(1, (size, size)).flatten(0, 1).unflatten(0, (n * (height // size), width))
    return x.transpose(1, 2).contiguous().flatten(0, 1).unflatten(0, (n, height))


def cropped(x: Tensor, height: int, width: int) -> Tensor:
    """Crop a map (N, H, W, C) to ``height`` rows and ``width`` columns."""
    if torch.compiler.is_compiling():          # export would specialise a view to sizes that need padding, or to sizes that do not
        return x.index_select(1, torch.arange(height, device=x.device)).index_select(2, torch.arange(width, device=x.device))
    return x[:, :height, :width]


def shift_mask(x: Tensor, size: int) -> Tensor:
    """Return the attention mask (B, 1, L, L) of shifted windows: ``APART`` for two positions of a window that were not adjacent before the
    map (N, H, W, C) was shifted by half a window, else 0 (Fig. 4)."""
    height, width = (whole_windows(length, size) for length in x.shape[1:3])
    rows, columns = (sum(torch.arange(length, device=x.device) >= length - last for last in (size, size // 2))   # 0, 1, 2
                     for length in (height, width))
    part = (3 * rows[:, None] + columns).expand(x.shape[0], height, width)
    part = to_windows(part[..., None], size)                                                          # (B, L, 1)
    return ((part != part.transpose(1, 2)) * APART).to(x.dtype)[:, None]


class SwinBlock(nn.Module):
    """Attention and an MLP of two linear layers, each with a norm before it and a shortcut around it (eq. 3)."""

    def __init__(self, channels: int, hidden: int, drop_path: float, drop_rate: float, act_cfg: dict, norm_cfg: dict,
                 **attention: object) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, channels)[1]
        self.attn = ShiftedWindows(channels, proj_drop=drop_rate, **attention)
        self.norm2 = build_norm(norm_cfg, channels)[1]
        self.ffn = FFN(channels, hidden, act_cfg=act_cfg, ffn_drop=drop_rate, add_identity=False)
        self.drop_path = DropPath(drop_path)
        self.add1, self.add2 = Add(), Add()

    def forward(self, x: Tensor, apart: Tensor) -> Tensor:
        x = self.add1(x, self.drop_path(self.attn(self.norm1(x), apart)))
        return self.add2(x, self.drop_path(self.ffn(self.norm2(x))))


class PatchEmbed(nn.Module):
    """Embed patches of ``size`` pixels; the last row and column are padded with zeros."""

    def __init__(self, in_channels: int, channels: int, size: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.size = size
        self.projection = nn.Conv2d(in_channels, channels, size, size)
        self.norm = build_norm(norm_cfg, channels)[1] if norm_cfg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return patch embeddings (N, H / size, W / size, C), rounded up, of images (N, 3, H, W)."""
        x = self.projection(F.pad(x, (0, -x.shape[3] % self.size, 0, -x.shape[2] % self.size)))
        return self.norm(x.permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Concatenate the four neighbours at every ``stride``-th position and project them to twice the channels (Sec. 3.1)."""

    def __init__(self, channels: int, stride: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.stride = stride
        self.norm = build_norm(norm_cfg, 4 * channels)[1] if norm_cfg else nn.Identity()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, H / stride, W / stride, 2 C), rounded up, from (N, H, W, C)."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, 1, 0, 1))
        corners = [x[:, i:height + i:self.stride, j:width + j:self.stride] for i in (0, 1) for j in (0, 1)]
        return self.reduction(self.norm(torch.stack(corners, -1).flatten(-2)))       # order of nn.Unfold, as in checkpoints


class SwinStage(nn.Module):
    """Blocks, every second one with shifted windows; ``downsample`` is the patch merging after the stage."""

    def __init__(self, blocks: list[SwinBlock], downsample: PatchMerging | None, with_cp: bool) -> None:
        super().__init__()
        self.blocks, self.downsample, self.with_cp = nn.ModuleList(blocks), downsample, with_cp

    def forward(self, x: Tensor) -> Tensor:
        apart = shift_mask(x, self.blocks[0].attn.size)
        for block in self.blocks:
            x = checkpoint(block, x, apart, use_reentrant=False) if self.with_cp and x.requires_grad else block(x, apart)
        return x


@MODELS.register_module()
class SwinTransformer(BaseModule):
    """Stages of attention in shifted windows.

    Args:
        pretrain_img_size: (height, width), or the side of a square; ``absolute_pos_embed`` has one position per patch of this size.
        embed_dims: channels of the first stage; each further stage has twice as many.
        patch_size: in pixels; equal to ``strides[0]``.
        window_size: number of positions along the side of a window.
        mlp_ratio: hidden channels of a block's MLP, relative to its channels.
        depths, num_heads, strides: blocks and heads of each stage, and the stride before it.
        out_indices: indices of the stages whose maps are returned, each with a norm.
        qk_scale: factor of the attention logits; None: 1 / sqrt(channels per head).
        patch_norm: apply norms after the patch embedding and before patch merging.
        drop_rate, attn_drop_rate: dropout after linear layers, and of attention weights.
        drop_path_rate: stochastic depth of the last block; it increases linearly from 0.
        use_abs_pos_embed: add a learnt position embedding to each patch; it is resized for images of a size other than
            ``pretrain_img_size``.
        with_cp: recompute blocks in the backward pass: less memory, more time.
        pretrained: a checkpoint; the same as ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        convert_weights: the checkpoint has the parameter names of the official code.
        frozen_stages: freeze the patch embedding (0) and this many stages; -1: freeze nothing.
    """

    def __init__(self, pretrain_img_size: int | Sequence[int] = 224, in_channels: int = 3, embed_dims: int = 96, patch_size: int = 4,
                 window_size: int = 7, mlp_ratio: float = 4, depths: Sequence[int] = (2, 2, 6, 2),
                 num_heads: Sequence[int] = (3, 6, 12, 24), strides: Sequence[int] = (4, 2, 2, 2),
                 out_indices: Sequence[int] = (0, 1, 2, 3), qkv_bias: bool = True, qk_scale: float | None = None, patch_norm: bool = True,
                 drop_rate: float = 0., attn_drop_rate: float = 0., drop_path_rate: float = 0.1, use_abs_pos_embed: bool = False,
                 act_cfg: dict = dict(type='GELU'), norm_cfg: dict = dict(type='LN'), with_cp: bool = False,
                 pretrained: str | None = None, convert_weights: bool = False, frozen_stages: int = -1,
                 init_cfg: dict | list | None = None) -> None:
        check(depths, num_heads, strides, out_indices, embed_dims, patch_size, frozen_stages)
        if pretrained and init_cfg:
            raise ConfigError(f"SwinTransformer pretrained='{pretrained}' and init_cfg both say where weights come from. Give one.")
        super().__init__(dict(type='Pretrained', checkpoint=pretrained) if pretrained else init_cfg or BY_THE_PAPER)
        self.out_indices, self.frozen_stages, self.convert_weights = tuple(out_indices), frozen_stages, convert_weights
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size, norm_cfg if patch_norm else None)
        self.absolute_pos_embed = None
        if use_abs_pos_embed:
            self.places = tuple(side // patch_size for side in pair(pretrain_img_size))
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, self.places[0] * self.places[1], embed_dims))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
            self.add_pos_embed = Add()
        self.drop_after_pos = nn.Dropout(drop_rate)
        total, made = sum(depths), 0
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            channels, last = embed_dims * 2**i, i == len(depths) - 1
            blocks = [SwinBlock(channels, int(mlp_ratio * channels), drop_path_rate * (made + b) / max(total - 1, 1), drop_rate, act_cfg,
                                norm_cfg, heads=num_heads[i], size=window_size, shift=b % 2 == 1, qkv_bias=qkv_bias, qk_scale=qk_scale,
                                attn_drop=attn_drop_rate) for b in range(depth)]
            made += depth
            merging = None if last else PatchMerging(channels, strides[i + 1], norm_cfg if patch_norm else None)
            self.stages.append(SwinStage(blocks, merging, with_cp))
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm(norm_cfg, embed_dims * 2**i)[1])
        self.register_load_state_dict_pre_hook(adapt_weights)
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return one map (N, C, H / stride, W / stride), rounded up, per entry of ``out_indices`` for images (N, 3, H, W)."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            table = resized(self.absolute_pos_embed, self.places, tuple(x.shape[1:3]))
            x = self.add_pos_embed(x, table.unflatten(1, tuple(x.shape[1:3])))
        x = self.drop_after_pos(x)
        outs = []
        for i in range(max(self.out_indices) + 1):
            x = self.stages[i](x)
            if i in self.out_indices:
                outs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2))
            if i < max(self.out_indices):
                x = self.stages[i].downsample(x)
        return tuple(outs)

    def freeze(self) -> None:
        parts = [self.patch_embed, self.drop_after_pos] if self.frozen_stages >= 0 else []
        if parts and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)
        for i in range(self.frozen_stages):
            parts += [self.stages[i], *([getattr(self, f'norm{i}')] if i in self.out_indices else [])]
        for part in parts:
            part.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> SwinTransformer:
        """Set the mode as ``nn.Module.train`` does, but keep the frozen stages in evaluation mode."""
        super().train(mode)
        self.freeze()
        return self


def check(depths: Sequence[int], heads: Sequence[int], strides: Sequence[int], out_indices: Sequence[int], channels: int,
          patch_size: int, frozen_stages: int) -> None:
    """Raise ConfigError for settings that contradict each other, with their names in a config."""
    if not len(depths) == len(heads) == len(strides):
        raise ConfigError(f'SwinTransformer depths={tuple(depths)}, num_heads={tuple(heads)} and strides={tuple(strides)} need an entry '
                          f'for each stage.')
    if strides[0] != patch_size:
        raise ConfigError(f'SwinTransformer patch_size={patch_size} must equal strides[0]={strides[0]}: patches do not overlap.')
    if not out_indices or not 0 <= min(out_indices) <= max(out_indices) < len(depths) or frozen_stages > len(depths):
        raise ConfigError(f'SwinTransformer has {len(depths)} stages (depths={tuple(depths)}): out_indices={tuple(out_indices)} must lie '
                          f'in 0..{len(depths) - 1}, and frozen_stages={frozen_stages} be at most {len(depths)}.')
    for i, count in enumerate(heads):
        if channels * 2**i % count:
            raise ConfigError(f'SwinTransformer num_heads[{i}]={count} does not divide the {channels * 2**i} channels of that stage '
                              f'(embed_dims={channels}).')


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    both = (size, size) if isinstance(size, int) else tuple(size) * (2 if len(size) == 1 else 1)
    if len(both) != 2:
        raise ConfigError(f'SwinTransformer pretrain_img_size={size} is no side of a square and no (height, width).')
    return both


def resized(table: Tensor, size: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Resize a table of position embeddings (1, h * w, C) for a map of ``size`` to a map of ``wanted`` size, bicubically."""
    grid = table.transpose(1, 2).unflatten(2, size)
    return F.interpolate(grid, size=wanted, mode='bicubic', align_corners=False).flatten(2).transpose(1, 2)


# ------------------------------------------------------------------------------------------------------------ weights
OFFICIAL = [(r'^layers\.', 'stages.'), (r'\.attn\.', '.attn.w_msa.'), (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
            (r'\.mlp\.fc2\.', '.ffn.layers.1.'), (r'^patch_embed\.proj\.', 'patch_embed.projection.')]


def adapt_weights(swin: SwinTransformer, weights: dict[str, Tensor], prefix: str, *unused: object) -> None:
    """Convert a state dict in place before it is loaded: remove the prefix of a detector's backbone, rename parameters of the official
    code, and resize tables for another window or image size.

    Raises:
        ConfigError: the weights have the names of the official code, and ``convert_weights`` is not set.
    """
    own = [key for key in weights if key.startswith(prefix)]
    if not prefix and any(key.startswith('backbone.') for key in own):
        for key in own:
            value = weights.pop(key)
            weights.update({key.removeprefix('backbone.'): value} if key.startswith('backbone.') else {})
    if any(key.startswith(f'{prefix}layers.') for key in weights):
        if not swin.convert_weights:
            raise ConfigError("these weights have the names of the Swin paper's program: set convert_weights=True.")
        for key in [key for key in weights if key.startswith(prefix)]:
            value, name = weights.pop(key), key.removeprefix(prefix)
            if not name.startswith('head.') and not name.endswith('.attn_mask'):
                weights[prefix + translated(name)] = in_our_order(value) if '.downsample.' in name else value
    for name, ours in swin.state_dict().items():
        theirs = weights.get(prefix + name)
        if theirs is not None and theirs.shape != ours.shape:
            weights[prefix + name] = fitted(name, theirs, ours)


def translated(name: str) -> str:
    for pattern, ours in OFFICIAL:
        name = re.sub(pattern, ours, name)
    return name


def in_our_order(value: Tensor) -> Tensor:
    """Reorder a patch-merging parameter (..., 4 C). The official code lists the four neighbours in column-major order, with all channels of
    each neighbour; here they are in row-major order, with the four neighbours of each channel."""
    return value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2)


def fitted(name: str, theirs: Tensor, ours: Tensor) -> Tensor:
    """Resize a table for square windows or images to the size of ``ours``; return any other parameter unchanged."""
    if name.endswith('relative_position_index'):
        return ours
    table, wanted = (theirs[None], ours[None]) if name.endswith('relative_position_bias_table') else (theirs, ours)
    sides = [round(t.shape[1]**0.5) for t in (table, wanted)] if table.dim() == wanted.dim() == 3 else [0, 0]
    if [side**2 for side in sides] != [table.shape[1], wanted.shape[1]] or table.shape[2] != wanted.shape[2]:
        return theirs
    return resized(table, (sides[0],) * 2, (sides[1],) * 2).view_as(ours)
