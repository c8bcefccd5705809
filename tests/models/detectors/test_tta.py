"""Detections of several views, turned back and merged."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mmengine.structures import InstanceData
from torch.testing import assert_close

from detkit.models.detectors.tta import DetTTAModel, turned_back
from detkit.registry import MODELS, ConfigError
from detkit.structures import DetDataSample


@pytest.fixture
def tta(config: Callable) -> Callable[..., DetTTAModel]:
    return lambda **cfg: MODELS.build(dict(type='DetTTAModel', module=config('retinanet'), **cfg))


def view(boxes: list, scores: list, labels: list, **metainfo: object) -> DetDataSample:
    sample = DetDataSample(metainfo=dict(ori_shape=(40, 100)) | metainfo)
    sample.pred_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), scores=torch.tensor(scores),
                                         labels=torch.tensor(labels, dtype=torch.long))
    return sample


@pytest.mark.parametrize(('direction', 'expected'), [
    ('horizontal', [70, 5, 90, 15]), ('vertical', [10, 25, 30, 35]), ('diagonal', [70, 25, 90, 35]), (None, [70, 5, 90, 15])])
def test_boxes_are_turned_back(direction: str | None, expected: list[int]):
    sample = DetDataSample(metainfo=dict(ori_shape=(40, 100), flip=True, flip_direction=direction))
    boxes = torch.tensor([[10., 5., 30., 15.]])
    assert turned_back(boxes, sample).tolist() == [expected]
    assert turned_back(turned_back(boxes, sample), sample).tolist() == boxes.tolist()
    assert turned_back(boxes, DetDataSample(metainfo=dict(ori_shape=(40, 100), flip=False))).tolist() == boxes.tolist()


def test_views_are_merged_by_nms_within_a_class(tta: Callable):
    flipped = view([[70, 5, 90, 15], [0, 0, 10, 10]], [.8, .4], [1, 0], flip=True, flip_direction='horizontal')
    straight = view([[10, 5, 30, 15], [10, 5, 30, 15]], [.7, .5], [1, 2], flip=False)
    merged = tta().merge_preds([[flipped, straight]])[0]
    assert merged is straight                                  # what is drawn and written is the image as it lies on disk
    assert_close(merged.pred_instances.scores, torch.tensor([.8, .5, .4]))
    assert merged.pred_instances.labels.tolist() == [1, 2, 0]
    assert merged.pred_instances.bboxes.tolist() == [[10, 5, 30, 15], [10, 5, 30, 15], [90, 0, 100, 10]]


def test_settings_are_honoured_or_refused(tta: Callable):
    views = [view([[0, 0, 10, 10], [20, 0, 30, 10]], [.8, .4], [0, 0]), view([], [], [])]
    assert len(tta(tta_cfg=dict(max_per_img=1)).merge_preds([views])[0].pred_instances) == 1
    with pytest.raises(ConfigError, match="tta_model.tta_cfg has no 'max_num'. It has: nms, max_per_img"):
        tta(tta_cfg=dict(max_num=1))
    with pytest.raises(ConfigError, match="nms type 'nms' has no 'iou_tresh'"):
        tta(tta_cfg=dict(nms=dict(type='nms', iou_tresh=.5)))


def test_masks_are_refused(tta: Callable):
    sample = view([[0, 0, 10, 10]], [.8], [0])
    sample.pred_instances.masks = torch.ones(1, 40, 100, dtype=torch.bool)
    with pytest.raises(ConfigError, match='test-time augmentation merges boxes'):
        tta().merge_preds([[sample]])
