"""Instance masks in a pipeline: bitmaps or polygons with the same methods, so that transforms work with both.

Every method returns new masks. Sizes are (height, width), boxes are xyxy in pixels of the masks' frame. An image without objects has zero
masks.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from detkit.opencv import cv2

Rng = np.random.Generator | int | None

DIRECTIONS = ('horizontal', 'vertical', 'diagonal')
INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC,
                  'area': cv2.INTER_AREA, 'lanczos': cv2.INTER_LANCZOS4}


def rounded(value: float) -> int:
    return int(value + 0.5)


def fitted(size: tuple[int, int], scale: float | tuple[float, float]) -> tuple[int, int]:
    """Return ``size`` times a factor, or fitted into ``scale`` (long side, short side, in any order) with the same aspect ratio."""
    height, width = size
    factor = scale if isinstance(scale, (int, float)) else \
        min(max(scale) / max(height, width), min(scale) / min(height, width))
    return rounded(height * factor), rounded(width * factor)


class BitmapMasks:
    """Bitmaps of the objects of an image. ``masks``: uint8 (n, height, width) of 0 and 1, or a list of (height, width) arrays; bool becomes
    uint8.

    Raises:
        ValueError: the size of the masks is not ``height``, ``width``.
    """

    def __init__(self, masks: np.ndarray | Sequence[np.ndarray], height: int, width: int) -> None:
        self.height, self.width = int(height), int(width)
        self.masks = np.zeros((0, self.height, self.width), np.uint8) if len(masks) == 0 else np.stack(list(masks))
        if self.masks.dtype == bool:
            self.masks = self.masks.view(np.uint8)
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
        """Number of pixels of each mask, (n,)."""
        return self.masks.sum((1, 2))

    def per_mask(self, function: object, size: tuple[int, int]) -> 'BitmapMasks':
        return BitmapMasks([function(m) for m in self.masks], *size)

    def rescale(self, scale: float | tuple[float, float], interpolation: str = 'nearest') -> 'BitmapMasks':
        """Scale by a factor, or fit into (long side, short side)."""
        return self.resize(fitted((self.height, self.width), scale), interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = 'nearest') -> 'BitmapMasks':
        """Resize to ``out_shape`` (height, width)."""
        height, width = out_shape
        return self.per_mask(lambda m: cv2.resize(m, (width, height), interpolation=INTERPOLATIONS[interpolation]),
                             (height, width))

    def flip(self, flip_direction: str = 'horizontal') -> 'BitmapMasks':
        axes = tuple(axis for axis, turned in zip((2, 1), flipped_axes(flip_direction)) if turned)
        return BitmapMasks(np.flip(self.masks, axes).copy(), self.height, self.width)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> 'BitmapMasks':
        """Pad at the right and bottom to ``out_shape`` (height, width)."""
        below, right = out_shape[0] - self.height, out_shape[1] - self.width
        return BitmapMasks(np.pad(self.masks, ((0, 0), (0, below), (0, right)), constant_values=pad_val), *out_shape)

    def crop(self, bbox: np.ndarray) -> 'BitmapMasks':
        """Crop to ``bbox`` (4,) xyxy, rounded down to pixels, at least 1x1."""
        x1, y1, w, h = window(bbox, self.height, self.width)
        return BitmapMasks(self.masks[:, y1:y1 + h, x1:x1 + w], h, w)

    def crop_and_resize(self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str = 'cpu',
                        interpolation: str = 'bilinear', binarize: bool = True) -> 'BitmapMasks':
        """Crop the mask ``inds[i]`` to ``bboxes[i]`` and resize it to ``out_shape`` with RoIAlign; one mask per box (mask targets).

        RoIAlign is bilinear; with ``binarize``, pixels covered by at least half are 1; otherwise values are the covered fraction as
        float32.
        """
        from detkit.ops.roi_align import roi_align
        if interpolation != 'bilinear':
            raise ValueError(f"crop_and_resize interpolation='{interpolation}' is not offered. Known: bilinear.")
        if len(self) == 0 or len(bboxes) == 0:
            return BitmapMasks(np.zeros((0, *out_shape), np.uint8), *out_shape)
        used, of = np.unique(as_index(inds), return_inverse=True)          # load each mask once, even if several boxes use it
        rois = torch.as_tensor(as_index(bboxes), dtype=torch.float32, device=device)
        rois = torch.cat([torch.as_tensor(of, dtype=torch.float32, device=device)[:, None], rois], 1)
        masks = torch.from_numpy(self.masks[used]).to(device).float()[:, None]
        targets = roi_align(masks, rois, out_shape, 1.0, 0, aligned=True)[:, 0]
        return BitmapMasks((targets >= 0.5 if binarize else targets).cpu().numpy().astype(np.uint8 if binarize else np.float32),
                           *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'BitmapMasks':
        """Place on a larger empty canvas, at (``top``, ``left``)."""
        return self.place((expanded_h, expanded_w), left, top)

    def place(self, out_shape: tuple[int, int], left: int, top: int) -> 'BitmapMasks':
        """Place on an empty canvas of ``out_shape`` (height, width), with the origin at (``left``, ``top``), integers that may be negative;
        crop what is outside."""
        canvas = np.zeros((len(self), *out_shape), self.masks.dtype)
        y1, y2 = np.clip([top, top + self.height], 0, out_shape[0])
        x1, x2 = np.clip([left, left + self.width], 0, out_shape[1])
        canvas[:, y1:y2, x1:x2] = self.masks[:, y1 - top:y2 - top, x1 - left:x2 - left]
        return BitmapMasks(canvas, *out_shape)

    def warp(self, matrix: np.ndarray, out_shape: tuple[int, int], border_value: int = 0,
             interpolation: str = 'nearest') -> 'BitmapMasks':
        """Apply an affine ``matrix`` (2, 3) from the pixels of this frame to those of ``out_shape`` (height, width)."""
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
        """Rotate by ``angle`` degrees, clockwise, about ``center`` (x, y), default the centre of the frame."""
        center = center or ((self.width - 1) * 0.5, (self.height - 1) * 0.5)
        return self.warp(cv2.getRotationMatrix2D(center, -angle, scale), out_shape, border_value, interpolation)

    def get_bboxes(self) -> np.ndarray:
        """Return the tightest box around each mask, (n, 4) float32 xyxy; zeros for an empty mask."""
        boxes = np.zeros((len(self), 4), np.float32)
        for box, mask in zip(boxes, self.masks):
            xs, ys = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
            if len(xs):
                box[:] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        return boxes

    def to_bitmap(self) -> 'BitmapMasks':
        return self

    def to_polygon(self) -> 'PolygonMasks':
        """Convert to polygons along pixel borders, so that rendering them gives the same bitmaps; holes are filled, as polygons have no
        holes."""
        return PolygonMasks([bitmap_to_polygons(m) for m in self.masks], self.height, self.width)

    def to_ndarray(self) -> np.ndarray:
        return self.masks

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(self.masks), dtype=dtype, device=device)

    @classmethod
    def cat(cls, masks: Sequence['BitmapMasks']) -> 'BitmapMasks':
        height, width = common_frame(cls, masks)
        return cls(np.concatenate([m.masks for m in masks]), height, width)

    @classmethod
    def random(cls, num_masks: int = 3, height: int = 32, width: int = 32, dtype: type = np.uint8, rng: Rng = None) -> 'BitmapMasks':
        """Return random masks for tests, with nine of ten pixels set; ``rng``: a generator or a seed, default seed 0."""
        rng = np.random.default_rng(0 if rng is None else rng)
        return cls((rng.random((num_masks, height, width)) > 0.1).astype(dtype), height, width)


class PolygonMasks:
    """Polygons of the objects of an image. ``masks``: for each object a list of polygons, each a flat array x1, y1, x2, y2, ... of at least
    three points, in pixels.

    An object that is outside after a crop is kept as one polygon without area.
    """

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
            chosen = [self.masks[i] for i in np.atleast_1d(np.arange(len(self))[index])]
        else:
            chosen = self.masks[index] if isinstance(index, slice) else [self.masks[index]]
        return PolygonMasks(chosen, self.height, self.width)

    @property
    def areas(self) -> np.ndarray:
        """Area of each object in pixels, (n,): the sum over its polygons."""
        return np.array([sum(polygon_area(p) for p in polygons) for polygons in self.masks], np.float64)

    def per_point(self, function: object, size: tuple[int, int]) -> 'PolygonMasks':
        """Apply ``function`` from points (k, 2) to points (k, 2) to every polygon."""
        return PolygonMasks([[function(p.reshape(-1, 2)).reshape(-1) for p in polygons] for polygons in self.masks], *size)

    def rescale(self, scale: float | tuple[float, float], interpolation: str | None = None) -> 'PolygonMasks':
        return self.resize(fitted((self.height, self.width), scale))

    def resize(self, out_shape: tuple[int, int], interpolation: str | None = None) -> 'PolygonMasks':
        factor = np.array([out_shape[1] / self.width, out_shape[0] / self.height])
        return self.per_point(lambda p: p * factor, tuple(out_shape))

    def flip(self, flip_direction: str = 'horizontal') -> 'PolygonMasks':
        turned, far = np.array(flipped_axes(flip_direction)), np.array([self.width, self.height])
        return self.per_point(lambda p: np.where(turned, far - p, p), (self.height, self.width))

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> 'PolygonMasks':
        if pad_val != 0:
            raise ValueError(f'polygons know no pad_val={pad_val}; it must be 0.')
        return PolygonMasks(self.masks, *out_shape)

    def crop(self, bbox: np.ndarray) -> 'PolygonMasks':
        """Crop to ``bbox`` (4,) xyxy; polygons are clipped at its border, and objects completely outside become an empty triangle."""
        x1, y1, w, h = window(bbox, self.height, self.width)
        cut = [[c for p in polygons if len(c := clip_polygon(p.reshape(-1, 2) - (x1, y1), w, h)) >= 6] or [np.zeros(6)]
               for polygons in self.masks]
        return PolygonMasks(cut, h, w)

    def crop_and_resize(self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str = 'cpu',
                        interpolation: str = 'bilinear', binarize: bool = True) -> 'PolygonMasks':
        """Move the object ``inds[i]`` into the frame of ``bboxes[i]`` (sides of at least one pixel), resized to ``out_shape``; one per box
        (mask targets). Polygons are not clipped; rendering them to bitmaps does that."""
        if not binarize:
            raise ValueError('polygons are inside or outside, never between; crop_and_resize needs binarize=True.')
        height, width = out_shape
        moved = []
        for (x1, y1, x2, y2), i in zip(as_index(bboxes), as_index(inds)):
            factor = np.array([width / max(x2 - x1, 1), height / max(y2 - y1, 1)])
            moved.append([((p.reshape(-1, 2) - (x1, y1)) * factor).reshape(-1) for p in self.masks[i]])
        return PolygonMasks(moved, height, width)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'PolygonMasks':
        return self.place((expanded_h, expanded_w), left, top)

    def place(self, out_shape: tuple[int, int], left: float, top: float) -> 'PolygonMasks':
        """Place on an empty canvas as ``BitmapMasks.place`` does."""
        return self.warp(np.array([[1, 0, left], [0, 1, top]], np.float64), out_shape)

    def warp(self, matrix: np.ndarray, out_shape: tuple[int, int], border_value: int = 0,
             interpolation: str | None = None) -> 'PolygonMasks':
        """Apply an affine ``matrix`` (2, 3), then clip at the border of ``out_shape`` (height, width)."""
        if border_value != 0:
            raise ValueError(f'polygons know no border_value={border_value}; it must be 0.')
        matrix = np.asarray(matrix, np.float64)
        moved = self.per_point(lambda p: p @ matrix[:, :2].T + matrix[:, 2], tuple(out_shape))
        return moved.crop(np.array([0, 0, out_shape[1], out_shape[0]]))

    def translate(self, out_shape: tuple[int, int], offset: float, direction: str = 'horizontal', border_value: int = 0,
                  interpolation: str | None = None) -> 'PolygonMasks':
        return self.warp(translation(offset, direction), out_shape, border_value)

    def shear(self, out_shape: tuple[int, int], magnitude: float, direction: str = 'horizontal', border_value: int = 0,
              interpolation: str | None = None) -> 'PolygonMasks':
        return self.warp(shearing(magnitude, direction), out_shape, border_value)

    def rotate(self, out_shape: tuple[int, int], angle: float, center: tuple[float, float] | None = None, scale: float = 1.0,
               border_value: int = 0, interpolation: str | None = None) -> 'PolygonMasks':
        """Rotate by ``angle`` degrees, clockwise, about ``center`` (x, y), default the centre of the frame.

        The default centre is (width / 2, height / 2) on the pixel grid. For bitmaps it is the same point, measured from the first pixel's
        centre.
        """
        center = center or (self.width * 0.5, self.height * 0.5)
        return self.warp(cv2.getRotationMatrix2D(center, -angle, scale), out_shape, border_value)

    def get_bboxes(self) -> np.ndarray:
        """Return the tightest box around each object's points, (n, 4) float32 xyxy; zeros for an object without polygons."""
        points = [np.concatenate([np.zeros(2) if not polygons else p for p in polygons or [0]]).reshape(-1, 2) for polygons in self.masks]
        return np.array([[*p.min(0), *p.max(0)] for p in points], np.float32).reshape(-1, 4)

    def to_bitmap(self) -> BitmapMasks:
        return BitmapMasks(self.to_ndarray(), self.height, self.width)

    def to_polygon(self) -> 'PolygonMasks':
        return self

    def to_ndarray(self) -> np.ndarray:
        """Render bitmaps, uint8 (n, height, width)."""
        drawn = [polygon_to_bitmap(polygons, self.height, self.width) for polygons in self.masks]
        return np.stack(drawn) if drawn else np.zeros((0, self.height, self.width), np.uint8)

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        return torch.as_tensor(self.to_ndarray(), dtype=dtype, device=device)

    @classmethod
    def cat(cls, masks: Sequence['PolygonMasks']) -> 'PolygonMasks':
        height, width = common_frame(cls, masks)
        return cls([polygons for m in masks for polygons in m.masks], height, width)

    @classmethod
    def random(cls, num_masks: int = 3, height: int = 32, width: int = 32, n_verts: int = 5, dtype: type = np.float32,
               rng: Rng = None) -> 'PolygonMasks':
        """Return random polygons of ``n_verts`` corners for tests; ``rng``: a generator or a seed, default seed 0."""
        rng = np.random.default_rng(0 if rng is None else rng)
        return cls([[random_polygon(rng, height, width, n_verts).astype(dtype)] for _ in range(num_masks)], height, width)


def as_index(index: object) -> object:
    """Return tensors (of any device) and lists as arrays; anything else unchanged."""
    return index.cpu().numpy() if isinstance(index, torch.Tensor) else np.asarray(index) if isinstance(index, list) else index


def common_frame(kind: type, masks: Sequence) -> tuple[int, int]:
    """Return the common (height, width) of masks to concatenate.

    Raises:
        ValueError: there are no masks, one is not of ``kind``, or their sizes differ.
    """
    sizes = {(m.height, m.width) if isinstance(m, kind) else type(m).__name__ for m in masks}
    if len(sizes) != 1 or not isinstance(masks[0], kind):
        raise ValueError(f'{kind.__name__}.cat needs masks of its kind and of one (height, width), given {sizes or "none"}.')
    return masks[0].height, masks[0].width


def window(bbox: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """Return x1, y1, width, height of a box in integer pixels, inside the frame and at least 1x1."""
    x1, y1, x2, y2 = (int(v) for v in np.clip(as_index(bbox), 0, [width, height, width, height]))
    x1, y1 = min(x1, max(width - 1, 0)), min(y1, max(height - 1, 0))
    return x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)


def flipped_axes(direction: str) -> tuple[bool, bool]:
    """Return whether x and whether y is flipped."""
    if direction not in DIRECTIONS:
        raise ValueError(f"flip direction '{direction}' is unknown. Known: {', '.join(DIRECTIONS)}.")
    return direction != 'vertical', direction != 'horizontal'


def along(direction: str, horizontal: list, vertical: list) -> np.ndarray:
    if direction not in ('horizontal', 'vertical'):
        raise ValueError(f"direction '{direction}' is unknown. Known: horizontal, vertical.")
    return np.array(horizontal if direction == 'horizontal' else vertical, np.float64)


def translation(offset: float, direction: str) -> np.ndarray:
    return along(direction, [[1, 0, offset], [0, 1, 0]], [[1, 0, 0], [0, 1, offset]])


def shearing(magnitude: float, direction: str) -> np.ndarray:
    return along(direction, [[1, magnitude, 0], [0, 1, 0]], [[1, 0, 0], [magnitude, 1, 0]])


def random_polygon(rng: np.random.Generator, height: int, width: int, corners: int) -> np.ndarray:
    """Return a flat polygon inside the frame, with one corner in each of ``corners`` equal sectors around a point."""
    center, reach = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.3, corners)
    angles = (np.arange(corners) + rng.uniform(0, 0.9, corners)) * 2 * np.pi / corners
    points = center + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return (points * (width, height)).reshape(-1)


def polygon_area(polygon: np.ndarray) -> float:
    """Return the area of a flat polygon x1, y1, x2, y2, ... (shoelace formula)."""
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def clip_polygon(points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Clip a polygon (k, 2) at the border of (0, 0, width, height). Return a flat array, empty if nothing is left.

    Sutherland and Hodgman, Reentrant polygon clipping (1974): clip at one side of the window after the other.
    """
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside = (points[:, axis] - limit) * sign >= 0
        if inside.all():
            continue
        before, crosses = np.roll(points, 1, 0), inside != np.roll(inside, 1)
        step = points - before
        share = np.divide(limit - before[:, axis], step[:, axis], out=np.zeros(len(points)), where=crosses)
        crossing = before + step * share[:, None]
        points = np.stack([crossing, points], 1)[np.stack([crosses, inside], 1)]   # the crossing point, then the corner itself
    return points.reshape(-1)


def bitmap_to_polygons(bitmap: np.ndarray) -> list[np.ndarray]:
    """Return flat polygons along the outer pixel borders of ``bitmap`` uint8 (height, width), one per connected region.

    OpenCV's contours go through the centres of the border pixels. In the bitmap enlarged by 2, they are a quarter of a pixel inside the
    border, so that rounding gives points on the border.
    """
    doubled = np.repeat(np.repeat(bitmap, 2, 0), 2, 1)
    contours = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    return [corners_of(np.rint((c.reshape(-1, 2) + 0.5) / 2)).reshape(-1) for c in contours]


def corners_of(points: np.ndarray) -> np.ndarray:
    """Remove repeated points of a closed outline (k, 2), and points in the middle of a straight side."""
    points = points[(points != np.roll(points, 1, 0)).any(1)]
    (ax, ay), (bx, by) = (points - np.roll(points, 1, 0)).T, (np.roll(points, -1, 0) - points).T
    return points[ax * by != ay * bx]


def polygon_to_bitmap(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return uint8 (height, width), 1 inside any of the flat polygons, with COCO's rule for border pixels."""
    from pycocotools import mask as coco_mask
    if len(polygons) == 0:
        return np.zeros((height, width), np.uint8)
    rle = coco_mask.frPyObjects([np.asarray(p, np.float64).tolist() for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(rle))


def rle_to_bitmap(rle: dict, height: int, width: int) -> np.ndarray:
    """Decode COCO's run-length encoding, compressed or not (``dict(counts, size)``), to uint8 (height, width).

    pycocotools is not used, because it writes outside its buffer if the runs of a broken file do not fit the image.

    Raises:
        ValueError: the runs do not add up to ``height * width``, or cannot be read.
    """
    runs = run_lengths(rle['counts'])
    if any(n < 0 for n in runs) or sum(runs) != height * width:
        raise ValueError(f'run lengths of a mask add up to {sum(runs)}, expected {height}x{width} pixels.')
    return np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs).reshape(width, height).T   # column-major order


def run_lengths(counts: list[int] | str | bytes) -> list[int]:
    """Return the run lengths of an encoded mask, alternating between zeros and ones.

    Compressed counts are text: each character has five bits, starting at code 48, and its sixth bit says that more characters follow.
    Numbers are signed; from the fourth on, they are the difference to the run two positions before (COCO API, maskApi.c).

    Raises:
        ValueError: ``counts`` is neither such a text nor a list of integers.
    """
    if isinstance(counts, list):
        if not all(isinstance(n, int) for n in counts):
            raise ValueError('run lengths of a mask are not whole numbers.')
        return counts
    runs, value, shift = [], 0, 0
    for code in counts.encode('latin-1', 'replace') if isinstance(counts, str) else counts:
        if not 48 <= code < 112 or shift > 40:
            raise ValueError(f'compressed run lengths of a mask are damaged after {len(runs)} runs.')
        value |= (code - 48 & 31) << shift
        shift += 5
        if not code - 48 & 32:
            if code - 48 & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError('compressed run lengths of a mask break off.')
    return runs
