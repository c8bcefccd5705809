"""Each kind of detector learns eight real pictures by heart: its losses, targets and predictions mean the same thing."""
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from kinds import DETECTORS, make_batch, small_config
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from pycocotools import mask as coco
from torch import Tensor, nn

from detkit.evaluation.coco_metric import CocoMetric
from detkit.evaluation.panoptic import Segments, panoptic_counts, panoptic_quality
from detkit.evaluation.panoptic_metric import CocoPanopticMetric
from detkit.registry import MODELS
from detkit.structures import BitmapMasks, DetDataSample

FOLDER = Path(__file__).resolve().parents[1] / 'support/nuclei'
CLASSES = ('fluorescent', 'stained', 'none')      # the small configs know three classes, the pictures two
WIDTHS = {'base_channels', 'in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'fc_out_channels', 'embed_dims',
          'feedforward_channels', 'num_feats', 'widen_factor', 'num_deconv_filters'}
DROPS = {'dropout', 'ffn_drop', 'drop_path_rate'}
STUFF = 3
FINE_MASKS = dict(roi_head__mask_roi_extractor__roi_layer__output_size=7, roi_head__mask_head__conv_out_channels=32)
# Of each kind, where it is not the usual: channels of the small config, rate, batches of all eight, size of the pictures, and what in the
# small config is too coarse to draw a mask (keys joined by __).
SETTINGS: dict[str, dict] = dict(
    retinanet={}, sabl={}, fcos={}, gfl={}, tood=dict(steps=200), centernet={}, centernet_update={}, faster_rcnn={}, yolox=dict(steps=400),
    mask_rcnn=dict(steps=400, train_cfg__rcnn__mask_size=14, **FINE_MASKS),
    cascade_rcnn=dict(steps=400, train_cfg__rcnn__0__mask_size=14, train_cfg__rcnn__1__mask_size=14, **FINE_MASKS),
    swin=dict(steps=600, train_cfg__rcnn__mask_size=14, **FINE_MASKS),
    timm=dict(width=1, steps=400),
    rtmdet=dict(width=1, lr=2e-3, steps=400, bbox_head__exp_on_reg=True),   # boxes that start empty have no loss to leave that state by
    rtmdet_ins=dict(width=1, lr=4e-3, scale=2, bbox_head__mask_loss_stride=2, bbox_head__dyconv_channels=16),
    detr=dict(lr=1e-3, steps=1000), conditional_detr=dict(lr=1e-3, steps=500), deformable_detr_plain=dict(lr=2e-3, steps=400),
    deformable_detr=dict(lr=1e-3), dino=dict(lr=2e-3), mask2former=dict(steps=400), maskformer=dict(lr=2e-3, steps=400),
    mask2former_panoptic=dict(lr=2e-3, steps=400))


def by_heart(cfg: object, factor: int) -> object:
    """A small config with ``factor`` times the channels, all weights learnt and nothing dropped; the rest stays."""
    if isinstance(cfg, (list, tuple)):
        return [by_heart(part, factor) for part in cfg]
    if not isinstance(cfg, dict):
        return cfg
    changed = {key: by_heart(value, factor) for key, value in cfg.items()}
    for key in WIDTHS & set(cfg):
        changed[key] = [v * factor for v in cfg[key]] if isinstance(cfg[key], (list, tuple)) else cfg[key] * factor
    for key in DROPS & set(cfg):
        changed[key] = 0.
    if 'depth' in cfg:
        changed['norm_eval'] = False               # from scratch
    return changed


def pictures(scale: int = 1) -> tuple[list[Tensor], list[DetDataSample]]:
    """The eight, ``scale`` times as large."""
    content = json.loads((FOLDER / 'annotations.json').read_text())
    images, samples = [], []
    for image in content['images']:
        size = image['height'] * scale, image['width'] * scale
        objects = [a for a in content['annotations'] if a['image_id'] == image['id']]
        masks = np.stack([coco.decode(a['segmentation']) for a in objects]).repeat(scale, 1).repeat(scale, 2)
        boxes = torch.tensor([a['bbox'] for a in objects], dtype=torch.float32) * scale
        sample = DetDataSample(metainfo=dict(img_id=image['id'], ori_shape=(image['height'], image['width']), img_shape=size,
                                             scale_factor=(float(scale), float(scale)), seed=image['id']))
        sample.gt_instances = InstanceData(bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                                           labels=torch.tensor([a['category_id'] - 1 for a in objects]), masks=BitmapMasks(masks, *size))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(np.where(masks.any(0), 255, STUFF).astype(np.uint8))[None])
        picture = cv2.resize(cv2.imread(str(FOLDER / image['file_name'])), size[::-1])
        images.append(torch.from_numpy(picture).permute(2, 0, 1).contiguous())
        samples.append(sample)
    return images, samples


def learnt_by_heart(kind: str, width: int = 2, lr: float = 3e-3, steps: int = 300, scale: int = 1, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    cfg = Config(by_heart(small_config(kind), width))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    model = MODELS.build(cfg.to_dict())
    model.init_weights()
    model.train()
    images, samples = pictures(scale)
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


def measured(model: nn.Module, scale: int = 1) -> dict[str, float]:
    """AP of boxes and, where there are such, of masks; panoptic quality of panoptic maps."""
    images, samples = pictures(scale)
    with torch.no_grad():
        found = model(**make_batch(model, images, samples, False), mode='predict')
    if 'pred_panoptic_seg' in found[0]:
        return dict(PQ=quality(found))
    metric = CocoMetric(str(FOLDER / 'annotations.json'), ['bbox', 'segm'] if 'masks' in found[0].pred_instances else 'bbox')
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [sample.to_dict() for sample in found])
    return {key.split('/')[1]: value for key, value in metric.evaluate(len(found)).items() if key.endswith('_mAP')}


def quality(found: list[DetDataSample]) -> float:
    """Nuclei are things, what lies behind them is stuff."""
    metric = CocoPanopticMetric()
    metric.dataset_meta = dict(classes=(*CLASSES, 'behind'))
    counts = 0
    for sample, (_, known) in zip(found, zip(*pictures())):
        masks = known.gt_instances.masks.masks
        index = np.where(masks.any(0), 1 + masks.argmax(0), 1 + len(masks)).astype(np.int64)
        labels = np.array([*known.gt_instances.labels.tolist(), STUFF])
        counts = counts + panoptic_counts(Segments(index, labels, np.zeros(len(labels), bool)), metric.found(sample.to_dict()), STUFF + 1)
    return panoptic_quality(counts)['pq']


def test_every_kind_has_settings():
    assert set(SETTINGS) == set(DETECTORS) - {'rpn'}              # which proposes and tells no classes


@pytest.mark.long
@pytest.mark.parametrize('kind', list(SETTINGS))
def test_eight_pictures_are_learnt_by_heart(kind: str):
    found = measured(learnt_by_heart(kind, **SETTINGS[kind]), SETTINGS[kind].get('scale', 1))
    print(kind, found)
    assert found and min(found.values()) > 0.9, found
