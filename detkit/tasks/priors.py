"""Prior generators: place anchors (boxes) or points on the feature maps."""
from __future__ import annotations

import torch
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError

Size = tuple[int, int]


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return a stride as (width, height); it may be given as one number."""
    return (value, value) if isinstance(value, (int, float)) else tuple(value)


def check_levels(name: str, sizes: list[Size], strides: list[tuple[int, int]]) -> None:
    if len(sizes) != len(strides):
        raise ConfigError(f'{name} has strides for {len(strides)} levels; the head was given {len(sizes)} feature maps.')


def grid_points(size: Size, stride: tuple[int, int], offset: float, device: torch.device | None = None) -> Tensor:
    """Return points (h * w, 2) as x, y in row-major order, at ``(index + offset) * stride`` pixels."""
    height, width = size
    x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * stride[0]
    y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * stride[1]
    yy, xx = torch.meshgrid(y, x, indexing='ij')
    return torch.stack([xx, yy], -1).reshape(-1, 2)


def cells_inside(sizes: list[Size], strides: list[tuple[int, int]], pad_shape: Size, per_cell: int,
                 device: torch.device | None = None) -> Tensor:
    """Return a mask (A,) bool: False for the priors of cells that are completely inside the batch padding of an image."""
    flags = []
    for (height, width), (stride_x, stride_y) in zip(sizes, strides):
        y = torch.arange(height, device=device) < -(-pad_shape[0] // stride_y)
        x = torch.arange(width, device=device) < -(-pad_shape[1] // stride_x)
        flags.append((y[:, None] & x).flatten().repeat_interleave(per_cell))
    return torch.cat(flags)


@TASK_UTILS.register_module()
class AnchorGenerator:
    """Anchors: ``len(ratios) * len(scales)`` per cell of each level; a ratio is height / width (Faster R-CNN, Sec. 3.1.1).

    Args:
        strides: pixels between cells, for each level; a number or (width, height).
        scales: sides of the anchors, relative to ``base_sizes`` (default: the strides). Alternatively, as in RetinaNet,
            ``octave_base_scale`` and ``scales_per_octave``.
        scale_major: order of the anchors of a cell: True: all scales of the first ratio first; False: all ratios of the first scale first.
        centers: anchor centre for each level, in pixels from the corner of the cell; default: ``center_offset`` times the base size.
    """

    def __init__(self, strides: list[int | tuple[int, int]], ratios: list[float], scales: list[float] | None = None,
                 base_sizes: list[float] | None = None, scale_major: bool = True, octave_base_scale: float | None = None,
                 scales_per_octave: int | None = None, centers: list[tuple[float, float]] | None = None,
                 center_offset: float = 0.) -> None:
        octaves = [value is not None for value in (octave_base_scale, scales_per_octave)]
        if any(octaves) == (scales is not None) or any(octaves) != all(octaves):
            raise ConfigError('AnchorGenerator needs either scales, or octave_base_scale with scales_per_octave.')
        if centers is not None and center_offset:
            raise ConfigError('AnchorGenerator takes centers or center_offset, not both.')
        if not 0 <= center_offset <= 1:
            raise ConfigError(f'AnchorGenerator center_offset={center_offset} must lie in [0, 1].')
        if scales is None:
            scales = [octave_base_scale * 2**(i / scales_per_octave) for i in range(scales_per_octave)]
        self.strides = [pair(s) for s in strides]
        self.base_sizes = list(base_sizes) if base_sizes else [min(s) for s in self.strides]
        for name, values in (('base_sizes', self.base_sizes), ('centers', centers)):
            if values is not None and len(values) != len(self.strides):
                raise ConfigError(f'AnchorGenerator {name} has {len(values)} entries, strides has {len(self.strides)}.')
        scales, ratios = torch.tensor(scales, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32)
        self.base_anchors = [base_anchors(base, scales, ratios, centers[i] if centers else (center_offset * base,) * 2, scale_major)
                             for i, base in enumerate(self.base_sizes)]
        self.num_base_priors = len(self.base_anchors[0])

    @property
    def num_levels(self) -> int:
        return len(self.strides)

    def __call__(self, sizes: list[Size], device: torch.device | None = None) -> list[Tensor]:
        """Return for each level anchors (h * w * num_base_priors, 4) xyxy in pixels, cell by cell. ``sizes``: (height, width) of the
        feature maps.

        Raises:
            ConfigError: the number of feature maps is not the number of strides.
        """
        check_levels('AnchorGenerator', sizes, self.strides)
        return [(grid_points(size, stride, 0, device).repeat(1, 2)[:, None] + base.to(device)).reshape(-1, 4)
                for size, stride, base in zip(sizes, self.strides, self.base_anchors)]

    def valid(self, sizes: list[Size], pad_shape: Size, device: torch.device | None = None) -> Tensor:
        return cells_inside(sizes, self.strides, pad_shape, self.num_base_priors, device)


def base_anchors(base: float, scales: Tensor, ratios: Tensor, center: tuple[float, float], scale_major: bool) -> Tensor:
    """Return the anchors (n, 4) of the cell at the origin."""
    root = ratios.sqrt()
    height, width = base * root[:, None] * scales, base / root[:, None] * scales     # (ratios, scales)
    if not scale_major:
        height, width = height.t(), width.t()
    height, width = height.flatten(), width.flatten()
    x, y = center
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)


@TASK_UTILS.register_module()
class MlvlPointGenerator:
    """One point per cell, ``offset`` cells from its corner. A prior is (x, y, stride_x, stride_y) in pixels."""

    num_base_priors = 1

    def __init__(self, strides: list[int | tuple[int, int]], offset: float = 0.5) -> None:
        self.strides, self.offset = [pair(s) for s in strides], offset

    @property
    def num_levels(self) -> int:
        return len(self.strides)

    def __call__(self, sizes: list[Size], device: torch.device | None = None) -> list[Tensor]:
        """Return for each level priors (h * w, 4): x, y, stride_x, stride_y.

        Raises:
            ConfigError: the number of feature maps is not the number of strides.
        """
        check_levels('MlvlPointGenerator', sizes, self.strides)
        points = [grid_points(size, stride, self.offset, device) for size, stride in zip(sizes, self.strides)]
        return [torch.cat([p, p.new_tensor(stride).expand(p.shape[0], 2)], -1) for p, stride in zip(points, self.strides)]

    def valid(self, sizes: list[Size], pad_shape: Size, device: torch.device | None = None) -> Tensor:
        return cells_inside(sizes, self.strides, pad_shape, 1, device)
