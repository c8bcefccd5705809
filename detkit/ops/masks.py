"""Convert small predicted masks to COCO's run-length encoding of the whole image, with at most a few full-size masks in memory.

Sizes are (height, width). An encoded mask is COCO's compressed RLE, ``dict(size=[height, width], counts=text)``.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 2**20    # pixels sampled at once; limits the memory for one large object
CHUNK = 2**23    # max pixels resized at once (at least one mask)

Size = tuple[int, int]


def paste_masks(masks: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> list[dict]:
    """Resize masks to their boxes, paste them into an image of ``size`` and return one RLE per mask (Mask R-CNN,
    https://arxiv.org/abs/1703.06870, Sec. 3).

    ``masks`` (n, h, w) scores in [0, 1]; ``boxes`` (n, 4) xyxy in pixels, may extend outside the image. A pixel is set if the mask,
    interpolated at the pixel's centre, is at least ``threshold`` (above 0). A box without area has an empty mask.
    """
    return [encode(*pasted(mask, box, size, threshold), size) for mask, box in zip(masks.float(), boxes.float())]


def pasted(mask: Tensor, box: Tensor, size: Size, threshold: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the region of the image that ``mask`` (h, w) can affect, bool (columns, rows), and its top left pixel (x, y)."""
    x1, y1, x2, y2 = box.tolist()
    if not (x2 > x1 and y2 > y1):
        return np.zeros((0, 0), bool), (0, 0)
    columns = reach(x1, x2, mask.shape[1], size[1])
    rows = reach(y1, y2, mask.shape[0], size[0])
    parts, step = [], max(STRIP // max(len(rows), 1), 1)
    y = normalised(rows, box[1], box[3])
    for start in range(columns.start, columns.stop, step):
        x = normalised(range(start, min(start + step, columns.stop)), box[0], box[2])
        grid = torch.stack([x[:, None].expand(-1, len(y)), y.expand(len(x), -1)], -1)
        parts.append(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= threshold)
    region = torch.cat(parts).cpu().numpy() if parts and len(rows) else np.zeros((0, 0), bool)
    return region, (columns.start, rows.start)


def reach(low: float, high: float, cells: int, length: int) -> range:
    """Return the range of pixels within 0 .. ``length`` that a box from ``low`` to ``high`` covers, extended by half a mask cell at both
    ends."""
    fade = (high - low) / cells / 2
    start = min(max(math.floor(low - fade), 0), length)
    return range(start, max(min(math.ceil(high + fade), length), start))


def normalised(pixels: range, low: Tensor, high: Tensor) -> Tensor:
    """Return the centres of ``pixels`` in grid_sample's coordinates: -1 at ``low``, 1 at ``high``."""
    centres = torch.arange(pixels.start, pixels.stop, device=low.device, dtype=torch.float32) + 0.5
    return (centres - low) / (high - low) * 2 - 1


def resized(masks: Tensor, steps: Sequence[tuple[Size, Size]]) -> Iterator[Tensor]:
    """Resize whole-image masks (n, h, w) a few at a time: yields (k, H, W) float32, in order, n masks in total.

    Each step is (size to resize to, size to crop to from the top left); the steps are applied in order, with bilinear interpolation.
    """
    largest = max((math.prod(stretched) for stretched, _ in steps), default=masks[0].numel() if len(masks) else 1)
    for part in masks.split(max(CHUNK // max(largest, 1), 1)):
        part = part[:, None].float()
        for stretched, (height, width) in steps:
            part = F.interpolate(part, stretched, mode='bilinear', align_corners=False)[..., :height, :width]
        yield part[:, 0]


def resize_masks(masks: Tensor, steps: Sequence[tuple[Size, Size]], threshold: float) -> list[dict]:
    """Resize masks as ``resized`` does and return one RLE per mask; pixels above ``threshold`` (in the units of ``masks``) are set."""
    return [code for part in (resized(masks, steps) if len(masks) else ()) for code in encode_masks(part > threshold)]


def encode_masks(masks: Tensor | np.ndarray) -> list[dict]:
    """Return one RLE per mask, from bool or 0/1 masks (n, H, W)."""
    if isinstance(masks, np.ndarray):
        masks = torch.from_numpy(np.ascontiguousarray(masks))         # flipped arrays have negative strides
    size = tuple(masks.shape[1:])
    return [encode(m.detach().ne(0).T.contiguous().cpu().numpy(), (0, 0), size) for m in masks]


def encode(region: np.ndarray, corner: tuple[int, int], size: Size) -> dict:
    """Return the RLE of a mask of ``size`` that is empty except for ``region``, bool (columns, rows), at ``corner`` (x, y).

    RLE counts pixels in column-major order. Runs are computed in the region and then shifted to their positions in the image. If the image
    has more rows than the region, an empty row is added below the region, so that no run continues in the next column.
    """
    from pycocotools import mask as coco
    height, width = size
    rows = region.shape[1]
    if rows < height:
        region = np.pad(region, ((0, 0), (0, 1)))
    flat = np.concatenate([[False], region.reshape(-1), [False]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])               # starts and ends of the runs of ones, alternating
    if rows < height:
        column, row = np.divmod(ends, rows + 1)
        ends = (corner[0] + column) * height + corner[1] + row
    else:
        ends = ends + corner[0] * height
    runs = np.diff(ends, prepend=0, append=height * width)
    if len(ends) and ends[-1] == height * width:
        runs = runs[:-1]
    code = coco.frPyObjects(dict(counts=runs.tolist(), size=[height, width]), height, width)
    return dict(size=[height, width], counts=code['counts'].decode())
