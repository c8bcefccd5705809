"""Small predicted masks -> COCO's run-length codes of the whole frame, without ever holding more than one frame-sized mask.

Sizes are (height, width). A code is COCO's compressed RLE, ``dict(size=[height, width], counts=text)``.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 2**20    # pixels sampled at once: bounds the memory of one large object
CHUNK = 2**23    # pixels resized at once, or one mask where a single one has more

Size = tuple[int, int]


def paste_masks(masks: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> list[dict]:
    """Masks stretched onto their boxes (Mask R-CNN, https://arxiv.org/abs/1703.06870, Sec. 3), one code each.

    ``masks`` (n, h, w) scores in [0, 1]; ``boxes`` (n, 4) xyxy pixels of a frame of ``size``, of which they may reach out. A pixel is set
    where the mask, interpolated at its centre, is at least ``threshold`` (above 0). A box without area has an empty mask.
    """
    return [encode(*pasted(mask, box, size, threshold), size) for mask, box in zip(masks.float(), boxes.float())]


def pasted(mask: Tensor, box: Tensor, size: Size, threshold: float) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of the frame that ``mask`` (h, w) can reach, bool (columns, rows), and its top left pixel (x, y)."""
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
    """Pixels of 0 .. ``length`` that a box's side from ``low`` to ``high`` covers, and the half cell beyond into which it fades."""
    fade = (high - low) / cells / 2
    start = min(max(math.floor(low - fade), 0), length)
    return range(start, max(min(math.ceil(high + fade), length), start))


def normalised(pixels: range, low: Tensor, high: Tensor) -> Tensor:
    """Centres of ``pixels`` as grid_sample counts: -1 at ``low``, 1 at ``high``."""
    centres = torch.arange(pixels.start, pixels.stop, device=low.device, dtype=torch.float32) + 0.5
    return (centres - low) / (high - low) * 2 - 1


def resized(masks: Tensor, steps: Sequence[tuple[Size, Size]]) -> Iterator[Tensor]:
    """Masks (n, h, w) of a whole frame, enlarged a few at a time: yields (k, H, W) float32, in order, n in all.

    Each step is (size to stretch to, size of the part kept from the top left); steps follow each other, bilinearly.
    """
    largest = max((math.prod(stretched) for stretched, _ in steps), default=masks[0].numel() if len(masks) else 1)
    for part in masks.split(max(CHUNK // max(largest, 1), 1)):
        part = part[:, None].float()
        for stretched, (height, width) in steps:
            part = F.interpolate(part, stretched, mode='bilinear', align_corners=False)[..., :height, :width]
        yield part[:, 0]


def resize_masks(masks: Tensor, steps: Sequence[tuple[Size, Size]], threshold: float) -> list[dict]:
    """As ``resized``, one code a mask: a pixel is set where its value exceeds ``threshold`` (in the units of ``masks``)."""
    return [code for part in (resized(masks, steps) if len(masks) else ()) for code in encode_masks(part > threshold)]


def encode_masks(masks: Tensor | np.ndarray) -> list[dict]:
    """Bool or 0/1 masks (n, H, W), a code each."""
    if isinstance(masks, np.ndarray):
        masks = torch.from_numpy(np.ascontiguousarray(masks))         # a flipped array's strides are negative
    size = tuple(masks.shape[1:])
    return [encode(m.detach().ne(0).T.contiguous().cpu().numpy(), (0, 0), size) for m in masks]


def encode(region: np.ndarray, corner: tuple[int, int], size: Size) -> dict:
    """The code of a frame of ``size`` that is empty but for ``region``, bool (columns, rows), at ``corner`` (x, y).

    A frame's pixels are counted column by column. Runs are found in the region, with an empty row below where the frame has other rows,
    so that none goes on in the next column, and then placed in the frame.
    """
    from pycocotools import mask as coco
    height, width = size
    rows = region.shape[1]
    if rows < height:
        region = np.pad(region, ((0, 0), (0, 1)))
    flat = np.concatenate([[False], region.reshape(-1), [False]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])               # where runs of ones begin and end, in turn
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
