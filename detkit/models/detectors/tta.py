"""Merge the detections of several views of an image."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.models.settings import plain_nms
from detkit.ops.nms import batched_nms
from detkit.registry import MODELS, ConfigError, check_keys
from detkit.structures import DetDataSample


@MODELS.register_module()
class DetTTAModel(BaseTTAModel):
    """Test-time augmentation: map the boxes of all views back to the original image and merge them by NMS.

    ``module``: the detector. ``tta_cfg``: ``nms`` (an NMS config) and ``max_per_img`` (max detections).
    """

    def __init__(self, module: Any, tta_cfg: dict | None = None, data_preprocessor: Any = None) -> None:
        super().__init__(module=module, data_preprocessor=data_preprocessor)
        settings = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100) | dict(tta_cfg or {})
        check_keys(settings, dict(nms=dict | None, max_per_img=int), 'tta_model.tta_cfg')
        self.nms, self.max_per_img = plain_nms(settings['nms']), settings['max_per_img']

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """Return one sample per image: its first view that is not flipped, with the merged ``pred_instances``."""
        return [self.merged(views) for views in data_samples_list]

    def merged(self, views: Sequence[DetDataSample]) -> DetDataSample:
        found = [v.pred_instances for v in views]
        if any('masks' in f for f in found):
            raise ConfigError('test-time augmentation merges boxes; this model also predicts masks, which it cannot. Leave --tta out.')
        boxes = torch.cat([turned_back(f.bboxes, v) for f, v in zip(found, views)])
        labels = torch.cat([f.labels for f in found])
        keep, scores = batched_nms(boxes, torch.cat([f.scores for f in found]), labels, self.nms)
        keep, scores = keep[:self.max_per_img], scores[:self.max_per_img]
        sample = next((v for v in views if not v.get('flip', False)), views[0])
        sample.pred_instances = InstanceData(bboxes=boxes[keep], scores=scores, labels=labels[keep])
        return sample


def turned_back(boxes: Tensor, sample: DetDataSample) -> Tensor:
    """Undo the flip: return boxes (n, 4) xyxy in pixels of the original image."""
    if not sample.get('flip', False):
        return boxes
    height, width = sample.ori_shape[:2]
    x1, y1, x2, y2 = boxes.unbind(-1)
    direction = sample.get('flip_direction') or 'horizontal'
    if direction in ('horizontal', 'diagonal'):
        x1, x2 = width - x2, width - x1
    if direction in ('vertical', 'diagonal'):
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], -1)
