"""Instance masks in a pipeline: bitmaps or polygons, with the same methods, so that transforms need not ask which.

Every method returns new masks; sizes are (height, width), boxes xyxy in pixels of the masks' frame, and no object is no mask.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch

INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC,
                  'area': cv2.INTER_AREA, 'lanczos': cv2.INTER_LANCZOS4}


def rounded(value: float) -> int:
    return int(value + 0.5)


def fitted(size: tuple[int, int], scale: float | tuple[float, float]) -> tuple[int, int]:
    """``size`` times a factor, or fitted into ``scale`` (long side, short side, in any order) keeping its shape."""
    height, width = size
    factor = scale if isinstance(scale, (int, float)) else \
        min(max(scale) / max(height, width), min(scale) / min(height, width))
    return rounded(height * factor), rounded(width * factor)


class BitmapMasks:
    """``masks``: uint8 (n, height, width) of 0 and 1, or a list of (height, width) arrays.

    Raises:
        ValueError: masks of another size than ``height``, ``width``.
    """

    def __init__(self, masks: np.ndarray | Sequence[np.ndarray], height: int, width: int) -> None:
        self.height, self.width = int(height), int(width)
        self.masks = np.zeros((0, self.height, self.width), np.uint8) if len(masks) == 0 else np.stack(list(masks))
        if self.masks.shape[1:] != (self.height, self.width):
            raise ValueError(f'masks have shape {self.masks.shape[1:]} (height, width), expected {(self.height, self.width)}.')

    def __repr__(self) -> str:
        return f'BitmapMasks(num_masks={len(self)}, height={self.height}, width={self.width})'

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.masks)

    def __getitem__(self, index: object) -> 'BitmapMasks':
        chosen = self.masks[as_index(index)]
        return BitmapMasks(chosen[None] if chosen.ndim == 2 else chosen, self.height, self.width)

    @property
    def areas(self) -> np.ndarray:
        """(n,) pixels."""
        return self.masks.sum((1, 2))

    def per_mask(self, function: object, size: tuple[int, int]) -> 'BitmapMasks':
        return BitmapMasks([function(m) for m in self.masks], *size)

    def rescale(self, scale: float | tuple[float, float], interpolation: str = 'nearest') -> 'BitmapMasks':
        """Scale by a factor, or fit into (long side, short side)."""
        return self.resize(fitted((self.height, self.width), scale), interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = 'nearest') -> 'BitmapMasks':
        """To ``out_shape`` (height, width)."""
        height, width = out_shape
        return self.per_mask(lambda m: cv2.resize(m, (width, height), interpolation=INTERPOLATIONS[interpolation]),
                             (height, width))

    def flip(self, flip_direction: str = 'horizontal') -> 'BitmapMasks':
        axes = {'horizontal': 2, 'vertical': 1, 'diagonal': (1, 2)}
        return BitmapMasks(np.flip(self.masks, axes[flip_direction]).copy(), self.height, self.width)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> 'BitmapMasks':
        """At the right and bottom, to ``out_shape`` (height, width)."""
        below, right = out_shape[0] - self.height, out_shape[1] - self.width
        return BitmapMasks(np.pad(self.masks, ((0, 0), (0, below), (0, right)), constant_values=pad_val), *out_shape)

    def crop(self, bbox: np.ndarray) -> 'BitmapMasks':
        """To ``bbox`` (4,) xyxy, rounded down to pixels, at least 1x1."""
        x1, y1, w, h = window(bbox, self.height, self.width)
        return BitmapMasks(self.masks[:, y1:y1 + h, x1:x1 + w], h, w)

    def crop_and_resize(self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str = 'cpu',
                        interpolation: str = 'bilinear', binarize: bool = True) -> 'BitmapMasks':
        """The mask ``inds[i]`` inside ``bboxes[i]``, resampled by RoIAlign to ``out_shape``, one a box (mask targets)."""
        from detkit.ops.dense import roi_align
        if len(self) == 0 or len(bboxes) == 0:
            return BitmapMasks(np.zeros((0, *out_shape), np.uint8), *out_shape)
        rois = torch.as_tensor(np.asarray(bboxes), dtype=torch.float32, device=device)
        rois = torch.cat([torch.arange(len(rois), device=device)[:, None].float(), rois], 1)
        masks = torch.from_numpy(self.masks[np.asarray(inds)]).to(device).float()[:, None]
        targets = roi_align(masks, rois, out_shape, 1.0, 0, aligned=True)[:, 0]
        return BitmapMasks((targets >= 0.5 if binarize else targets).cpu().numpy().astype(np.uint8 if binarize else np.float32),
                           *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'BitmapMasks':
        """Onto a larger empty canvas, at (``top``, ``left``)."""
        canvas = np.zeros((len(self), expanded_h, expanded_w), self.masks.dtype)
        canvas[:, top:top + self.height, left:left + self.width] = self.masks
        return BitmapMasks(canvas, expanded_h, expanded_w)

    def warp(self, matrix: np.ndarray, out_shape: tuple[int, int], border_value: int = 0,
             interpolation: str = 'nearest') -> 'BitmapMasks':
        """By an affine ``matrix`` (2, 3) from this frame's pixels to those of ``out_shape`` (height, width)."""
        return self.per_mask(lambda m: cv2.warpAffine(m, matrix, out_shape[::-1], flags=INTERPOLATIONS[interpolation],
                                                      borderValue=border_value), out_shape)

    def translate(self, out_shape: tuple[int, int], offset: float, direction: str = 'horizontal', border_value: int = 0,
                  interpolation: str = 'bilinear') -> 'BitmapMasks':
        return self.warp(translation(offset, direction), out_shape, border_value, interpolation)

    def shear(self, out_shape: tuple[int, int], magnitude: float, direction: str = 'horizontal', border_value: int = 0,
              interpolation: str = 'bilinear') -> 'BitmapMasks':
        return self.warp(shearing(magnitude, direction), out_shape, border_value, interpolation)

    def rotate(self, out_shape: tuple[int, int], angle: float, center: tuple[float, float] | None = None, scale: float = 1.0,
               border_value: int = 0, interpolation: str = 'bilinear') -> 'BitmapMasks':
        """``angle`` degrees, clockwise, about ``center`` (x, y), default the middle."""
        center = center or ((self.width - 1) * 0.5, (self.height - 1) * 0.5)
        return self.warp(cv2.getRotationMatrix2D(center, -angle, scale), out_shape, border_value, interpolation)

    def get_bboxes(self) -> np.ndarray:
        """(n, 4) float32: the tightest box around each mask, zeros for an empty one."""
        boxes = np.zeros((len(self), 4), np.float32)
        for box, mask in zip(boxes, self.masks):
            xs, ys = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
            if len(xs):
                box[:] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        return boxes

    def to_ndarray(self) -> np.ndarray:
        return self.masks

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(self.masks), dtype=dtype, device=device)

    @classmethod
    def cat(cls, masks: Sequence['BitmapMasks']) -> 'BitmapMasks':
        return cls(np.concatenate([m.masks for m in masks]), masks[0].height, masks[0].width)


class PolygonMasks:
    """``masks``: per object a list of polygons, each a flat array x1, y1, x2, y2, ... of at least three points, pixels."""

    def __init__(self, masks: Sequence[Sequence[np.ndarray]], height: int, width: int) -> None:
        self.height, self.width = int(height), int(width)
        self.masks = [[np.asarray(p, np.float64) for p in polygons] for polygons in masks]

    def __repr__(self) -> str:
        return f'PolygonMasks(num_masks={len(self)}, height={self.height}, width={self.width})'

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.masks)

    def __getitem__(self, index: object) -> 'PolygonMasks':
        index = as_index(index)
        if isinstance(index, np.ndarray):
            chosen = [self.masks[i] for i in np.arange(len(self))[index]]
        else:
            chosen = self.masks[index] if isinstance(index, slice) else [self.masks[index]]
        return PolygonMasks(chosen, self.height, self.width)

    @property
    def areas(self) -> np.ndarray:
        """(n,) pixels, the sum of each object's polygons."""
        return np.array([sum(polygon_area(p) for p in polygons) for polygons in self.masks], np.float64)

    def per_point(self, function: object, size: tuple[int, int]) -> 'PolygonMasks':
        """``function``: points (k, 2) -> points (k, 2)."""
        return PolygonMasks([[function(p.reshape(-1, 2)).reshape(-1) for p in polygons] for polygons in self.masks], *size)

    def rescale(self, scale: float | tuple[float, float], interpolation: str | None = None) -> 'PolygonMasks':
        return self.resize(fitted((self.height, self.width), scale))

    def resize(self, out_shape: tuple[int, int], interpolation: str | None = None) -> 'PolygonMasks':
        factor = np.array([out_shape[1] / self.width, out_shape[0] / self.height])
        return self.per_point(lambda p: p * factor, tuple(out_shape))

    def flip(self, flip_direction: str = 'horizontal') -> 'PolygonMasks':
        edge = {'horizontal': [self.width, 0], 'vertical': [0, self.height], 'diagonal': [self.width, self.height]}
        far = np.array(edge[flip_direction])
        return self.per_point(lambda p: np.where(far > 0, far - p, p), (self.height, self.width))

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> 'PolygonMasks':
        return PolygonMasks(self.masks, *out_shape)

    def crop(self, bbox: np.ndarray) -> 'PolygonMasks':
        """To ``bbox`` (4,) xyxy; polygons are cut at its border, those wholly outside become an empty triangle."""
        x1, y1, w, h = window(bbox, self.height, self.width)
        cut = [[c for p in polygons if len(c := clip_polygon(p.reshape(-1, 2) - (x1, y1), w, h)) >= 6] or [np.zeros(6)]
               for polygons in self.masks]
        return PolygonMasks(cut, h, w)

    def crop_and_resize(self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str = 'cpu',
                        interpolation: str = 'bilinear', binarize: bool = True) -> BitmapMasks:
        """The object ``inds[i]`` inside ``bboxes[i]``, drawn at ``out_shape``: bitmaps, one a box (mask targets)."""
        height, width = out_shape
        drawn = []
        for (x1, y1, x2, y2), i in zip(np.asarray(bboxes), np.asarray(inds)):
            factor = np.array([width / max(x2 - x1, 0.1), height / max(y2 - y1, 0.1)])
            moved = [((p.reshape(-1, 2) - (x1, y1)) * factor).reshape(-1) for p in self.masks[i]]
            drawn.append(polygon_to_bitmap(moved, height, width))
        return BitmapMasks(drawn, height, width)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'PolygonMasks':
        return self.per_point(lambda p: p + (left, top), (expanded_h, expanded_w))

    def warp(self, matrix: np.ndarray, out_shape: tuple[int, int], border_value: int = 0,
             interpolation: str | None = None) -> 'PolygonMasks':
        """By an affine ``matrix`` (2, 3), then cut at the border of ``out_shape`` (height, width)."""
        if border_value != 0:
            raise ValueError(f'polygons know no border_value={border_value}; it must be 0.')
        moved = self.per_point(lambda p: p @ matrix[:, :2].T + matrix[:, 2], out_shape)
        return moved.crop(np.array([0, 0, out_shape[1], out_shape[0]]))

    def translate(self, out_shape: tuple[int, int], offset: float, direction: str = 'horizontal', border_value: int = 0,
                  interpolation: str | None = None) -> 'PolygonMasks':
        return self.warp(translation(offset, direction), out_shape, border_value)

    def shear(self, out_shape: tuple[int, int], magnitude: float, direction: str = 'horizontal', border_value: int = 0,
              interpolation: str | None = None) -> 'PolygonMasks':
        return self.warp(shearing(magnitude, direction), out_shape, border_value)

    def rotate(self, out_shape: tuple[int, int], angle: float, center: tuple[float, float] | None = None, scale: float = 1.0,
               border_value: int = 0, interpolation: str | None = None) -> 'PolygonMasks':
        center = center or ((self.width - 1) * 0.5, (self.height - 1) * 0.5)
        return self.warp(cv2.getRotationMatrix2D(center, -angle, scale), out_shape, border_value)

    def get_bboxes(self) -> np.ndarray:
        """(n, 4) float32: the tightest box around each object's points."""
        points = [np.concatenate(polygons).reshape(-1, 2) for polygons in self.masks]
        return np.array([[*p.min(0), *p.max(0)] for p in points], np.float32).reshape(-1, 4)

    def to_bitmap(self) -> BitmapMasks:
        return BitmapMasks(self.to_ndarray(), self.height, self.width)

    def to_ndarray(self) -> np.ndarray:
        """uint8 (n, height, width)."""
        drawn = [polygon_to_bitmap(polygons, self.height, self.width) for polygons in self.masks]
        return np.stack(drawn) if drawn else np.zeros((0, self.height, self.width), np.uint8)

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        return torch.as_tensor(self.to_ndarray(), dtype=dtype, device=device)

    @classmethod
    def cat(cls, masks: Sequence['PolygonMasks']) -> 'PolygonMasks':
        return cls([polygons for m in masks for polygons in m.masks], masks[0].height, masks[0].width)


def as_index(index: object) -> object:
    return index.cpu().numpy() if isinstance(index, torch.Tensor) else np.asarray(index) if isinstance(index, list) else index


def window(bbox: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """x1, y1, width, height of a box, in whole pixels, inside the frame and at least 1x1."""
    x1, y1, x2, y2 = np.clip(np.asarray(bbox), 0, [width, height, width, height]).astype(int)
    return int(x1), int(y1), max(int(x2 - x1), 1), max(int(y2 - y1), 1)


def translation(offset: float, direction: str) -> np.ndarray:
    return np.array([[1, 0, offset], [0, 1, 0]] if direction == 'horizontal' else [[1, 0, 0], [0, 1, offset]], np.float64)


def shearing(magnitude: float, direction: str) -> np.ndarray:
    return np.array([[1, magnitude, 0], [0, 1, 0]] if direction == 'horizontal' else [[1, 0, 0], [magnitude, 1, 0]], np.float64)


def polygon_area(polygon: np.ndarray) -> float:
    """Area inside a flat polygon x1, y1, x2, y2, ... (shoelace formula)."""
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def clip_polygon(points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Cut a polygon (k, 2) at the border of (0, 0, width, height); a flat array, empty when nothing is left.

    Sutherland and Hodgman, Reentrant polygon clipping (1974): one side of the window after the other.
    """
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        kept, inside = [], (points[:, axis] - limit) * sign >= 0
        for i in range(len(points)):
            a, b = points[i - 1], points[i]
            if inside[i] != inside[i - 1]:
                kept.append(a + (b - a) * (limit - a[axis]) / (b[axis] - a[axis]))
            if inside[i]:
                kept.append(b)
        points = np.array(kept).reshape(-1, 2)
    return points.reshape(-1)


def polygon_to_bitmap(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """uint8 (height, width), 1 inside any of the flat polygons, by COCO's own rule for pixels at the border."""
    from pycocotools import mask as coco_mask
    if len(polygons) == 0:
        return np.zeros((height, width), np.uint8)
    rle = coco_mask.frPyObjects([np.asarray(p, np.float64).tolist() for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(rle))


def rle_to_bitmap(rle: dict, height: int, width: int) -> np.ndarray:
    """uint8 (height, width) from COCO's run-length encoding, compressed or not (``dict(counts, size)``)."""
    from pycocotools import mask as coco_mask
    if isinstance(rle['counts'], list):
        rle = coco_mask.frPyObjects(rle, height, width)
    return coco_mask.decode(rle)
