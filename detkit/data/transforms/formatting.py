"""The end of a pipeline: pack the inputs of a detector."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

from detkit.data.transforms.base import BaseTransform
from detkit.registry import TRANSFORMS
from detkit.structures import BitmapMasks, DetDataSample, PolygonMasks

INSTANCE_KEYS = {'gt_bboxes': 'bboxes', 'gt_bboxes_labels': 'labels', 'gt_masks': 'masks'}


@TRANSFORMS.register_module()
class PackDetInputs(BaseTransform):
    """Pack ``inputs``, a uint8 tensor (3, H, W), and ``data_samples``, a DetDataSample.

    The DetDataSample has ``gt_instances``, ``ignored_instances`` (flagged objects) and, as metainfo, the ``meta_keys`` that the pipeline
    wrote, the ``seed`` for random numbers in heads, and ``gt_scale`` (x, y), which metrics use to undo resizing. ``gt_scale`` is written
    only if boxes were at most resized after loading.
    """

    random = True

    def __init__(self, meta_keys: tuple[str, ...] = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                                                     'flip_direction')) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        sample = DetDataSample(metainfo={k: results[k] for k in self.meta_keys if k in results})
        if 'rng' in results:
            sample.set_metainfo(dict(seed=int(results['rng'].integers(2**40))))
        scale = scale_since(results)
        if scale is not None:
            sample.set_metainfo(dict(gt_scale=scale))
        count = next((len(results[key]) for key in INSTANCE_KEYS if key in results), 0)
        flags = results.get('gt_ignore_flags', np.zeros(count, bool))
        sample.gt_instances = pack_instances(results, ~flags)
        sample.ignored_instances = pack_instances(results, flags)
        if 'gt_seg_map' in results:
            sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(results['gt_seg_map'][None].copy()),
                                          metainfo={k: results[k] for k in ('ignore_index',) if k in results})
        if 'proposals' in results:
            sample.proposals = InstanceData(bboxes=torch.from_numpy(results['proposals']),
                                            scores=torch.from_numpy(results['proposals_scores']))
        return dict(inputs=image_to_tensor(results['img']), data_samples=sample) if 'img' in results else dict(data_samples=sample)


def scale_since(results: dict[str, Any]) -> tuple[float, float] | None:
    """Return the factors (x, y) by which the image was resized after loading annotations; None for other changes or without annotations."""
    if 'annotated_at' not in results:
        return None
    now = results.get('homography_matrix')
    if now is None:
        return 1., 1.
    moved = now.astype(np.float64) @ np.linalg.inv(results['annotated_at'].astype(np.float64))
    x, y = float(moved[0, 0]), float(moved[1, 1])
    return (x, y) if min(x, y) > 0 and np.abs(moved - np.diag([x, y, 1])).max() < 1e-4 else None


def image_to_tensor(image: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) or (H, W) to a (C, H, W) view: a transposed copy is slower than reading, and collation copies the data anyway."""
    if image.ndim == 2:
        image = image[..., None]
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def pack_instances(results: dict[str, Any], chosen: np.ndarray) -> InstanceData:
    """Return the objects selected by ``chosen`` (n,) bool."""
    out = InstanceData()
    for key, name in INSTANCE_KEYS.items():
        if key in results:
            value = results[key][chosen]
            out[name] = value if isinstance(value, (BitmapMasks, PolygonMasks)) else torch.from_numpy(np.ascontiguousarray(value))
    return out
