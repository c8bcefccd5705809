"""Load the masks of things and a label map from a panoptic image."""
from __future__ import annotations

from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.loading import LoadAnnotations, UnreadableImage, check_local
from detkit.registry import TRANSFORMS
from detkit.structures.masks import BitmapMasks
from detkit.structures.panoptic import VOID_LABEL, read_segment_ids, segment_indices


@TRANSFORMS.register_module()
class LoadPanopticAnnotations(BaseTransform):
    """Load annotations as LoadAnnotations does, with masks and label map from the panoptic image ``seg_map_path``.

    ``with_mask``: ``gt_masks`` of things that are not crowds, in the order of ``instances``. ``with_seg``: ``gt_seg_map`` uint8 (H, W) of
    labels, ``VOID_LABEL`` for unlabelled pixels. A sample without ``seg_map_path`` (a dataset without ground truth) gets neither.

    Raises:
        UnreadableImage: the panoptic image cannot be read, has another size than the image, or its segments do not match ``segments_info``.
    """

    def __init__(self, with_bbox: bool = True, with_label: bool = True, with_mask: bool = True, with_seg: bool = True,
                 box_type: str = 'hbox', imdecode_backend: str = 'cv2', backend_args: dict | None = None) -> None:
        check_local(backend_args)
        self.boxes = LoadAnnotations(with_bbox, with_label, box_type=box_type, imdecode_backend=imdecode_backend)
        self.with_mask, self.with_seg = with_mask, with_seg

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results, path, segments = self.boxes(results), results.get('seg_map_path'), results.get('segments_info', [])
        if path is None or not (self.with_mask or self.with_seg):
            return results
        try:
            index = segment_indices(read_segment_ids(path), [s['id'] for s in segments], results['ori_shape'])
        except (OSError, ValueError) as error:
            raise UnreadableImage(path, str(error)) from None
        if self.with_mask:
            things = [i for i, s in enumerate(segments, 1) if s['is_thing']]
            results['gt_masks'] = BitmapMasks([index == i for i in things], *index.shape)
        if self.with_seg:
            results['gt_seg_map'] = np.array([VOID_LABEL, *(s['category'] for s in segments)], np.uint8)[index]
        return results
