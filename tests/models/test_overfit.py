"""Each kind of detector learns eight real pictures by heart: its losses, targets and predictions mean the same thing."""
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from kinds import make_batch, small_config
from mmengine.structures import InstanceData, PixelData
from pycocotools import mask as coco
from torch import Tensor, nn

from detkit.evaluation.coco_metric import CocoMetric
from detkit.registry import MODELS
from detkit.structures import BitmapMasks, DetDataSample

FOLDER = Path(__file__).resolve().parents[1] / 'support/nuclei'
CLASSES = ('fluorescent', 'stained', 'none')      # the small configs know three classes, the pictures two
WIDTHS = {'base_channels', 'in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'fc_out_channels', 'embed_dims',
          'feedforward_channels', 'num_feats', 'widen_factor'}
SETTINGS = dict(retinanet=dict(width=2, lr=3e-3, steps=300))       # of each kind: channels of the small config, rate, batches of all eight


def widened(cfg: object, factor: int) -> object:
    """A small config, and nothing else about it, with ``factor`` times the channels."""
    if isinstance(cfg, (list, tuple)):
        return [widened(part, factor) for part in cfg]
    if not isinstance(cfg, dict):
        return cfg
    changed = {key: widened(value, factor) for key, value in cfg.items()}
    for key in WIDTHS & set(cfg):
        changed[key] = [v * factor for v in cfg[key]] if isinstance(cfg[key], (list, tuple)) else cfg[key] * factor
    if 'depth' in cfg:
        changed['norm_eval'] = False               # from scratch
    return changed


def pictures() -> tuple[list[Tensor], list[DetDataSample]]:
    content = json.loads((FOLDER / 'annotations.json').read_text())
    images, samples = [], []
    for image in content['images']:
        size = image['height'], image['width']
        objects = [a for a in content['annotations'] if a['image_id'] == image['id']]
        masks = np.stack([coco.decode(a['segmentation']) for a in objects])
        boxes = torch.tensor([a['bbox'] for a in objects], dtype=torch.float32)
        sample = DetDataSample(metainfo=dict(img_id=image['id'], ori_shape=size, img_shape=size, scale_factor=(1., 1.), seed=image['id']))
        sample.gt_instances = InstanceData(bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                                           labels=torch.tensor([a['category_id'] - 1 for a in objects]), masks=BitmapMasks(masks, *size))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(np.where(masks.any(0), 255, 3).astype(np.uint8))[None])   # 3: stuff
        images.append(torch.from_numpy(cv2.imread(str(FOLDER / image['file_name']))).permute(2, 0, 1).contiguous())
        samples.append(sample)
    return images, samples


def learnt_by_heart(kind: str, width: int, lr: float, steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(widened(small_config(kind), width))
    model.init_weights()
    model.train()
    images, samples = pictures()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        for sample in samples:
            sample.set_metainfo(dict(seed=step * len(samples) + sample.img_id))
        model.parse_losses(model(**make_batch(model, images, samples), mode='loss'))[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def measured(model: nn.Module) -> dict[str, float]:
    """AP of boxes and, where there are such, of masks."""
    images, samples = pictures()
    with torch.no_grad():
        found = model(**make_batch(model, images, samples, False), mode='predict')
    metric = CocoMetric(str(FOLDER / 'annotations.json'), ['bbox', 'segm'] if 'masks' in found[0].pred_instances else 'bbox')
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [sample.to_dict() for sample in found])
    return metric.evaluate(len(found))


@pytest.mark.slow
@pytest.mark.parametrize('kind', list(SETTINGS))
def test_eight_pictures_are_learnt_by_heart(kind: str):
    found = measured(learnt_by_heart(kind, **SETTINGS[kind]))
    assert found['coco/bbox_mAP'] > 0.9, found
    assert found.get('coco/segm_mAP', 1.) > 0.9, found
