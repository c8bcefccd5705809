"""Paste objects of one image into another."""
from __future__ import annotations

from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.crop import keep_objects
from detkit.data.transforms.mix import joined, partner_of
from detkit.data.transforms.zoom import on_canvas
from detkit.registry import TRANSFORMS, ConfigError
from detkit.structures.masks import BitmapMasks


@TRANSFORMS.register_module()
class CopyPaste(BaseTransform):
    """Paste objects of another sample over this image (Simple Copy-Paste, https://arxiv.org/abs/2012.07177).

    Boxes of partly occluded objects shrink to the visible part. Images of another size are cropped or padded at the right and bottom.

    Args:
        max_num_pasted: upper bound (exclusive) of the number of pasted objects.
        bbox_occluded_thr: keep a partly occluded object if its box changed by at most this many pixels,
        mask_occluded_thr: or if more than this many of its pixels are visible.
        selected: paste a random selection of objects; otherwise paste all. paste_by_box: without masks, paste the content of boxes.

    Raises:
        ConfigError: the samples have no bitmaps, and ``paste_by_box`` is False.
    """

    random = True

    def __init__(self, max_num_pasted: int = 100, bbox_occluded_thr: int = 10, mask_occluded_thr: int = 300, selected: bool = True,
                 paste_by_box: bool = False) -> None:
        self.max_num_pasted, self.bbox_occluded_thr, self.mask_occluded_thr = max_num_pasted, bbox_occluded_thr, mask_occluded_thr
        self.selected, self.paste_by_box = selected, paste_by_box

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng, size, had_masks = results['rng'], results['img'].shape[:2], 'gt_masks' in results
        source = partner_of(results)
        count = len(source['gt_bboxes'])
        if self.selected:
            count = int(rng.integers(min(count + 1, self.max_num_pasted)))
            keep_objects(source, np.sort(rng.choice(len(source['gt_bboxes']), count, replace=False)))
        if not count:
            return results
        pasted = self.masks(source).place(size, 0, 0)
        source['gt_masks'], source['gt_bboxes'] = pasted, np.minimum(source['gt_bboxes'], np.array(size[::-1] * 2, np.float32))
        keep_objects(source, pasted.areas > 0)
        over = pasted.masks.any(0)
        results['gt_masks'] = self.masks(results)
        self.hide_(results, over)
        results['img'] = np.where(over[..., None], on_canvas(source['img'], size, 0, 0, 0), results['img'])
        joined([results, source], results)
        if not had_masks:
            del results['gt_masks']
        return results

    def masks(self, results: dict[str, Any]) -> BitmapMasks:
        masks, size = results.get('gt_masks'), results['img'].shape[:2]
        if isinstance(masks, BitmapMasks):
            return masks
        if masks is not None or not self.paste_by_box:
            raise ConfigError('CopyPaste needs masks as bitmaps: LoadAnnotations(with_mask=True, poly2mask=True); or boxes alone, with '
                              'paste_by_box=True.')
        return boxes_to_bitmaps(results['gt_bboxes'], size)

    def hide_(self, results: dict[str, Any], over: np.ndarray) -> None:
        """Remove the area ``over``, bool (height, width), from the masks; drop objects with too few visible pixels."""
        masks = results['gt_masks']
        touched = (masks.masks.astype(bool) & over).any((1, 2))
        seen = BitmapMasks(masks.masks * ~over, masks.height, masks.width)
        boxes = np.where(touched[:, None], seen.get_bboxes(), results['gt_bboxes'])
        near = (np.abs(boxes - results['gt_bboxes']) <= self.bbox_occluded_thr).all(1)
        results.update(gt_masks=seen, gt_bboxes=boxes)
        keep_objects(results, ~touched | (seen.areas > 0) & (near | (seen.areas > self.mask_occluded_thr)))


def boxes_to_bitmaps(boxes: np.ndarray, size: tuple[int, int]) -> BitmapMasks:
    """Return bitmaps of ``size`` (height, width) that are set inside ``boxes`` (n, 4), rounded down to pixels."""
    out = np.zeros((len(boxes), *size), np.uint8)
    for bitmap, (x1, y1, x2, y2) in zip(out, boxes.astype(int).clip(0)):
        bitmap[y1:y2, x1:x2] = 1
    return BitmapMasks(out, *size)
