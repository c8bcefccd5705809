"""A detector whose answers are known: it finds the bright rectangles of an image."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from detkit.engine.checkpoint import write_checkpoint
from detkit.registry import MODELS

CONFIG = '''
model = dict(type='BrightRectangles', data_preprocessor=dict(type='DetDataPreprocessor'))
test_dataloader = dict(dataset=dict(
    type='CocoDataset', metainfo=dict(classes=('pale', 'white')), data_root='nowhere/',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 128), keep_ratio=True, interpolation='nearest'),
              dict(type='LoadAnnotations', with_bbox=True),
              dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
'''


@MODELS.register_module(force=True)
class BrightRectangles(BaseModel):
    """Class 1 (white): regions over 200, score 0.9; class 0 (pale): regions of 128 to 200, score 0.4."""

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__(MODELS.build(data_preprocessor))
        self.threshold = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[int] = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert mode == 'predict'
        self.batches.append(len(inputs))
        for image, sample in zip(inputs, data_samples, strict=True):
            height, width = sample.img_shape
            grey = image[0, :height, :width].cpu().numpy()
            boxes, labels = [], []
            for label, mask in ((1, grey > 200), (0, (grey > self.threshold.item()) & (grey <= 200))):
                count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
                found = [s for s in stats[1:count] if s[4] > 64]
                boxes += [[x, y, x + w, y + h] for x, y, w, h, _ in found]
                labels += [label] * len(found)
            scale = torch.tensor([*sample.scale_factor, *sample.scale_factor])
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / scale, labels=torch.tensor(labels).long(),
                scores=torch.tensor([0.9 if k else 0.4 for k in labels]))
        return data_samples


def rectangle(path=None, box=(10, 20, 42, 52), value=255) -> np.ndarray:
    """A black image of 64 x 64 with one bright rectangle, written to ``path`` if given."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[box[1]:box[3], box[0]:box[2]] = value
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    return image


@pytest.fixture(name='rectangle')
def rectangle_fixture():
    return rectangle


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'bright.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture
def checkpoint(tmp_path, config):
    path = tmp_path / 'bright.pth'
    write_checkpoint({'state_dict': {'threshold': torch.tensor([128.])},
                      'meta': {'dataset_meta': {'classes': ('pale', 'white')}, 'cfg': CONFIG}}, path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three images; the rectangle of the second is pale."""
    for i, value in enumerate((255, 150, 255)):
        rectangle(tmp_path / 'images' / f'{i}.png', value=value)
    return tmp_path / 'images'
