"""Load images and annotations."""
from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from detkit.data.formats.pictures import SUFFIXES
from detkit.data.transforms.base import BaseTransform
from detkit.files import similar_name
from detkit.opencv import cv2
from detkit.registry import TRANSFORMS, ConfigError
from detkit.structures.masks import BitmapMasks, PolygonMasks, bitmap_to_polygons, polygon_to_bitmap, rle_to_bitmap

FLAGS = {'color': cv2.IMREAD_COLOR, 'grayscale': cv2.IMREAD_GRAYSCALE, 'unchanged': cv2.IMREAD_UNCHANGED,
         'color_ignore_orientation': cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
         'grayscale_ignore_orientation': cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION}
FARTHEST = 1e5      # pixels; a polygon beyond this distance is an error
JPEG_START, JPEG_END = (0xff, 0xd8), np.array([0xff, 0xd9], np.uint8)
LOCAL_BACKENDS = ('local', 'LocalBackend', 'disk', 'HardDiskBackend')


class UnreadableImage(ValueError):
    """An image that cannot be decoded; ``path`` is its file.

    With one argument, that argument is the whole message: torch recreates a data loader worker's error in this way.
    """

    def __init__(self, path: str, reason: str | None = None) -> None:
        super().__init__(path if reason is None else f'{path}: cannot read this image ({reason}). Replace the file, take it out of the '
                         f"annotation file, or set the dataset's on_error='skip' to train without it.")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)    # DataLoader workers pickle their exceptions


def check_local(backend_args: dict | None) -> None:
    """Raise ConfigError for MMDetection's remote storage backends, which detkit does not support."""
    backend = (backend_args or {}).get('backend', 'local')
    if backend not in LOCAL_BACKENDS:
        raise ConfigError(f"backend_args backend='{backend}' is not offered; images are read from local files. Set backend_args=None.")


def read_image(path: str, color_type: str = 'color', data: np.ndarray | None = None, depth: str | tuple[float, float] = 'divide',
               background: tuple | None = None) -> np.ndarray:
    """Decode a file to uint8 (H, W, 3) BGR for ``color``, rotated by its EXIF orientation. ``data``: the file's bytes, if already read.

    ``depth``, ``background``: see LoadImageFromFile.

    Raises:
        UnreadableImage: missing, empty or broken file.
    """
    try:
        data = np.fromfile(path, np.uint8) if data is None else data
    except OSError as error:
        hint = similar_name(path, SUFFIXES) if isinstance(error, FileNotFoundError) else ''
        raise UnreadableImage(path, (error.strerror or str(error)) + hint) from None
    except ValueError as error:      # a path with a zero byte
        raise UnreadableImage(repr(path), str(error)) from None
    if len(data) == 0:
        raise UnreadableImage(path, 'the file is empty')
    flags = FLAGS[color_type] if depth == 'divide' else FLAGS[color_type] | cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED if background is not None else flags)
        if background is not None:
            image = over_background(image, background) if has_alpha(image) else cv2.imdecode(data, flags)
        if image is None and len(data) > 4 and tuple(data[:2]) == JPEG_START:
            image = without_end_marker(data, flags)
    except cv2.error as error:
        raise UnreadableImage(path, str(error.err or error)) from None
    if image is None:
        raise UnreadableImage(path, 'not a picture that OpenCV can decode, or a damaged one')
    return image if image.dtype == np.uint8 or depth == 'divide' else as_bytes(image, depth)


def read_by_pillow(path: str, color_type: str, data: np.ndarray | None = None) -> np.ndarray:
    """Decode ``color`` or ``grayscale`` as ``read_image`` does, with Pillow; its JPEG values may differ from OpenCV's by one grey level.

    Raises:
        UnreadableImage: missing, empty or broken file.
    """
    from PIL import Image, ImageOps
    try:
        with Image.open(path if data is None else BytesIO(data.tobytes())) as picture:
            upright = picture if color_type.endswith('ignore_orientation') else ImageOps.exif_transpose(picture)
            image = np.asarray(upright.convert('L' if color_type.startswith('grayscale') else 'RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(path, str(error) or type(error).__name__) from None
    return np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image


def without_end_marker(data: np.ndarray, flags: int) -> np.ndarray | None:
    """Decode a JPEG without its end marker, as some writers leave it; None if rows are missing too (decoders fill them with grey)."""
    image = cv2.imdecode(np.concatenate([data, JPEG_END]), flags)
    return image if image is not None and complete(image) else None


def complete(image: np.ndarray) -> bool:
    """Return whether the last rows have content: a decoder fills missing rows with one value."""
    rows = image[-max(len(image) // 20, 2):]
    return bool(rows.max() > rows.min())


def has_alpha(image: np.ndarray | None) -> bool:
    return image is not None and image.ndim == 3 and image.shape[2] == 4 and image.dtype == np.uint8


def over_background(image: np.ndarray, background: Sequence[float]) -> np.ndarray:
    """Blend BGRA uint8 (H, W, 4) over a background colour; returns BGR uint8."""
    share = image[..., 3:].astype(np.float32) / 255
    return np.rint(image[..., :3] * share + np.asarray(background, np.float32) * (1 - share)).astype(np.uint8)


def as_bytes(image: np.ndarray, depth: str | Sequence[float]) -> np.ndarray:
    """Map values of any range to uint8. ``depth`` (low, high) becomes (0, 255); ``range`` uses the image's own minimum and maximum."""
    low, high = (float(image.min()), float(image.max())) if depth == 'range' else depth
    return np.rint((image.astype(np.float32) - low) * (255 / max(high - low, 1e-6))).clip(0, 255).astype(np.uint8)


@TRANSFORMS.register_module()
class LoadImageFromFile(BaseTransform):
    """Read ``img_path``. Writes ``img`` uint8 (H, W, 3) BGR, ``img_shape`` and ``ori_shape`` (height, width).

    ``color_type``: ``color``, ``grayscale``, ``unchanged``, or the first two with ``_ignore_orientation`` (EXIF orientation is not
    applied). ``to_float32``: float pixels, still 0 to 255. ``ignore_empty``: return None instead of an error, so another sample is drawn.

    Greyscale becomes three equal channels; CMYK is converted as OpenCV does. ``depth``, for 16-bit images: ``divide`` by 256, as OpenCV
    and MMDetection do (images of a 12-bit sensor then look black); ``range``: map each image's minimum and maximum to 0 and 255;
    ``(low, high)``: map these values to 0 and 255. ``background``: BGR colour under transparent pixels; without it, alpha is ignored.
    """

    def __init__(self, to_float32: bool = False, color_type: str = 'color', imdecode_backend: str = 'cv2',
                 backend_args: dict | None = None, file_client_args: dict | None = None, ignore_empty: bool = False,
                 depth: str | tuple[float, float] = 'divide', background: tuple[float, float, float] | None = None) -> None:
        check_local(backend_args)
        check_local(file_client_args)
        if isinstance(depth, str) and depth not in ('divide', 'range') or not isinstance(depth, str) and not depth[0] < depth[1]:
            raise ConfigError(f'LoadImageFromFile depth={depth!r} is unknown. Known: divide, range, (low, high) with low below high.')
        if imdecode_backend not in ('cv2', 'pillow'):
            raise ConfigError(f"LoadImageFromFile imdecode_backend='{imdecode_backend}' is not offered. Known: cv2, pillow.")
        if imdecode_backend == 'pillow' and (color_type == 'unchanged' or depth != 'divide' or background is not None):
            raise ConfigError("LoadImageFromFile imdecode_backend='pillow' knows neither color_type='unchanged', nor depth, nor "
                              "background; imdecode_backend='cv2' does.")
        if color_type not in FLAGS:
            raise ConfigError(f"LoadImageFromFile color_type='{color_type}' is unknown. Known: {', '.join(FLAGS)}.")
        self.to_float32, self.color_type, self.ignore_empty = to_float32, color_type, ignore_empty
        self.imdecode_backend = imdecode_backend
        self.depth, self.background = depth if isinstance(depth, str) else tuple(depth), background and tuple(background)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        path, data = results['img_path'], results.pop('encoded', None)
        try:
            image = read_by_pillow(path, self.color_type, data) if self.imdecode_backend == 'pillow' else \
                read_image(path, self.color_type, data, self.depth, self.background)
        except UnreadableImage:
            if self.ignore_empty:
                return None
            raise
        return with_image(results, image, self.to_float32)


@TRANSFORMS.register_module()
class LoadImageFromNDArray(BaseTransform):
    """Use ``img``, uint8 (H, W, 3) BGR or (H, W), without loading a file. Writes ``img_shape`` and ``ori_shape``."""

    def __init__(self, to_float32: bool = False, color_type: str = 'color', imdecode_backend: str = 'cv2',
                 backend_args: dict | None = None, file_client_args: dict | None = None, ignore_empty: bool = False) -> None:
        """Accept the arguments of LoadImageFromFile, which this class replaces; only ``to_float32`` has an effect, as no file is read."""
        self.to_float32 = to_float32

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results.setdefault('img_path', None)
        results.setdefault('img_id', 0)
        return with_image(results, results['img'], self.to_float32)


def with_image(results: dict[str, Any], image: np.ndarray, to_float32: bool) -> dict[str, Any]:
    results['img'] = image.astype(np.float32) if to_float32 else image
    results['img_shape'] = results['ori_shape'] = image.shape[:2]
    return results


@TRANSFORMS.register_module()
class LoadAnnotations(BaseTransform):
    """Convert ``instances`` to arrays.

    Writes ``gt_bboxes`` float32 (n, 4) xyxy, ``gt_bboxes_labels`` int64 (n,), ``gt_ignore_flags`` bool (n,) and ``gt_masks``.

    ``with_mask``: load bitmaps, or polygons with ``poly2mask=False``. RLE masks become polygons along their pixel borders, with holes
    filled. An object without a valid mask is marked as ignored.
    ``with_seg``: read ``seg_map_path``, if the sample has one, as ``gt_seg_map`` (H, W), uint8 for an 8-bit file, and write
    ``ignore_index``. ``reduce_zero_label``: label 0 is background and becomes ``ignore_index``; other labels are reduced by 1. Then
    ``label_map`` of the sample, if present, maps old labels to new labels.
    """

    def __init__(self, with_bbox: bool = True, with_label: bool = True, with_mask: bool = False, with_seg: bool = False,
                 poly2mask: bool = True, box_type: str = 'hbox', reduce_zero_label: bool = False, ignore_index: int = 255,
                 imdecode_backend: str = 'cv2', backend_args: dict | None = None, file_client_args: dict | None = None) -> None:
        check_local(backend_args)
        check_local(file_client_args)
        if not isinstance(ignore_index, int) or not 0 <= ignore_index <= 255:
            raise ConfigError(f'LoadAnnotations ignore_index={ignore_index!r} must be a whole number from 0 to 255.')
        if box_type not in ('hbox', None):
            raise ConfigError(f"LoadAnnotations box_type='{box_type}' is not offered. Known: hbox (xyxy).")
        if imdecode_backend != 'cv2':
            raise ConfigError(f"LoadAnnotations imdecode_backend='{imdecode_backend}' is not offered. Known: cv2.")
        self.with_bbox, self.with_label, self.with_mask = with_bbox, with_label, with_mask
        self.with_seg, self.poly2mask = with_seg, poly2mask
        self.reduce_zero_label, self.ignore_index = reduce_zero_label, ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        instances = results.get('instances', [])
        flags = np.array([i.get('ignore_flag', 0) for i in instances], bool)
        if self.with_mask:
            results['gt_masks'], sound = load_masks(instances, results['ori_shape'], self.poly2mask)
            flags |= ~sound
        if self.with_bbox:
            results['gt_bboxes'] = np.array([i['bbox'] for i in instances], np.float32).reshape(-1, 4)
        if self.with_label:
            results['gt_bboxes_labels'] = np.array([i['bbox_label'] for i in instances], np.int64)
        if self.with_bbox or self.with_mask:
            results['gt_ignore_flags'] = flags
        results['annotated_at'] = results.get('homography_matrix', np.eye(3, dtype=np.float32))   # here boxes are in the original image
        if self.with_seg and results.get('seg_map_path') is not None:
            seg_map = read_image(results['seg_map_path'], 'unchanged')
            if self.reduce_zero_label:
                seg_map = without_zero_label(seg_map, self.ignore_index)
            results['gt_seg_map'] = renamed_labels(seg_map, results.get('label_map') or {})
            results['ignore_index'] = self.ignore_index
        return results


def without_zero_label(seg_map: np.ndarray, ignore_index: int) -> np.ndarray:
    """Return labels minus one; 0 and ``ignore_index`` become ``ignore_index``."""
    return np.where((seg_map == 0) | (seg_map == ignore_index), ignore_index, seg_map.astype(np.int64) - 1).astype(seg_map.dtype)


def renamed_labels(seg_map: np.ndarray, label_map: dict[int, int]) -> np.ndarray:
    """Return ``seg_map`` with labels replaced according to ``label_map``."""
    out = seg_map.copy()
    for old, new in label_map.items():
        out[seg_map == old] = new
    return out


@TRANSFORMS.register_module()
class LoadEmptyAnnotations(BaseTransform):
    """Write what LoadAnnotations writes, without objects: for images without labels.

    ``seg_ignore_label`` fills ``gt_seg_map`` (``with_seg``), so that all pixels are ignored.
    """

    def __init__(self, with_bbox: bool = True, with_label: bool = True, with_mask: bool = False, with_seg: bool = False,
                 seg_ignore_label: int = 255) -> None:
        self.with_bbox, self.with_label, self.with_mask = with_bbox, with_label, with_mask
        self.with_seg, self.seg_ignore_label = with_seg, seg_ignore_label

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        size = results['img'].shape[:2]
        if self.with_bbox:
            results.update(gt_bboxes=np.zeros((0, 4), np.float32), gt_ignore_flags=np.zeros(0, bool))
        if self.with_label:
            results['gt_bboxes_labels'] = np.zeros(0, np.int64)
        if self.with_mask:
            results['gt_masks'] = BitmapMasks([], *size)
        if self.with_seg:
            results['gt_seg_map'] = np.full(size, self.seg_ignore_label, np.uint8)
        return results


def load_masks(instances: list[dict], size: tuple[int, int], as_bitmap: bool) -> tuple[BitmapMasks | PolygonMasks, np.ndarray]:
    """Return the masks, and (n,) bool: False for an object without a valid mask."""
    height, width = size
    masks, sound = [], np.ones(len(instances), bool)
    for i, instance in enumerate(instances):
        mask = instance.get('mask')
        if isinstance(mask, list):
            mask = [p for p in (np.asarray(p, np.float64) for p in mask if len(p) >= 6 and len(p) % 2 == 0) if drawable(p)]
        elif mask and not as_bitmap:
            bitmap = bitmap_of(mask, height, width)
            mask = [] if bitmap is None else bitmap_to_polygons(bitmap)
        bitmap = bitmap_of(mask, height, width) if as_bitmap and mask else None
        sound[i] = bitmap is not None if as_bitmap else bool(mask) and isinstance(mask, list)
        if as_bitmap:
            masks.append(bitmap if sound[i] else np.zeros((height, width), np.uint8))
        else:
            masks.append(mask if sound[i] else [np.zeros(6)])
    return (BitmapMasks if as_bitmap else PolygonMasks)(masks, height, width), sound


def drawable(polygon: np.ndarray) -> bool:
    """Return whether all coordinates are finite and below a limit: memory for drawing grows with a polygon's length, visible or not."""
    return bool(np.abs(polygon).max() < FARTHEST)     # False for NaN


def bitmap_of(mask: dict | list, height: int, width: int) -> np.ndarray | None:
    """Return the bitmap, uint8 (height, width); None for RLE of another size or RLE that cannot be decoded."""
    if isinstance(mask, list):
        return polygon_to_bitmap(mask, height, width)
    if list(mask['size']) != [height, width]:
        return None
    try:
        return rle_to_bitmap(mask, height, width)
    except ValueError:
        return None
