"""Mask R-CNN on generated shapes, from the recipe to mask AP, files, pictures and an inferencer's answers."""
from __future__ import annotations

import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.config import load_config
from detkit.data.synthetic import CLASSES, generate
from detkit.engine import evaluate, train
from detkit.inference import DetInferencer, inference_detector, init_detector
from detkit.registry import ConfigError


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    generate(folder, num_train=8, num_val=4, size=64, max_objects=3, progress=False)
    return folder


@pytest.fixture(scope='module')
def recipe(shapes: Path) -> Config:
    """Mask R-CNN, narrowed, on the shapes at one and a half times their size."""
    load, resize = dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96), keep_ratio=True)
    train_pipeline = [load, dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False), resize,
                      dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    test_pipeline = [load, resize, dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='PackDetInputs')]
    data = dict(metainfo=dict(classes=CLASSES), data_root=str(shapes) + '/', data_prefix=dict(img='images/'))
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False,
                  dataset=dict(**data, ann_file='annotations/val.json', pipeline=test_pipeline))
    extractor = dict(out_channels=16)
    return load_config('mask-rcnn_r50_fpn_1x_coco', {
        'model.backbone': dict(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None),
        'model.neck': dict(in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=dict(type='BN')),
        'model.rpn_head': dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[4])),
        'model.roi_head': dict(
            bbox_roi_extractor=extractor, mask_roi_extractor=extractor,
            bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=len(CLASSES)),
            mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=8, num_classes=len(CLASSES))),
        'model.test_cfg.rcnn.score_thr': 0.01,
        'train_dataloader': dict(batch_size=4, num_workers=0, persistent_workers=False,
                                 dataset=dict(**data, ann_file='annotations/train.json', pipeline=train_pipeline)),
        'val_dataloader': loader, 'test_dataloader': loader,
        'val_evaluator.ann_file': str(shapes / 'annotations/val.json'), 'test_evaluator.ann_file': str(shapes / 'annotations/val.json'),
        'train_cfg': dict(max_epochs=2, val_interval=2), 'param_scheduler': [], 'randomness': dict(seed=1),
        'optim_wrapper': dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.003))})


@pytest.fixture(scope='module')
def trained(recipe: Config, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp('run')
    runner = train(recipe, work_dir=folder)
    assert len(runner.message_hub.get_scalar('train/loss_mask').data[0]) == 4
    return folder / 'epoch_2.pth'


@pytest.fixture(scope='module')
def found(recipe: Config, trained: Path, tmp_path_factory: Any) -> tuple[dict, Path]:
    """The numbers of a test, and the folder where its detections and pictures are."""
    folder = tmp_path_factory.mktemp('test')
    numbers = evaluate(recipe, trained, work_dir=folder / 'w', out=folder / 'found.json', show_dir=folder / 'pictures')
    return numbers, folder


def test_mask_ap_is_pycocotools(found: tuple[dict, Path], shapes: Path) -> None:
    numbers, folder = found
    images = json.loads((folder / 'found.json').read_text())
    detections = [dict(image_id=i['img_id'], category_id=label + 1, score=score, segmentation=mask)
                  for i in images for label, score, mask in zip(i['labels'], i['scores'], i['masks'], strict=True)]
    assert detections and all(d['segmentation']['size'] == [64, 64] for d in detections)     # of the original image
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(shapes / 'annotations/val.json'))
        reference = COCOeval(truth, truth.loadRes(detections), 'segm')
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    got = [numbers[f'coco/segm_mAP{part}'] for part in ('', '_50', '_75', '_s', '_m', '_l')]
    assert got == pytest.approx(reference.stats[:6].round(3).tolist(), abs=1e-9)
    assert 'coco/bbox_mAP' in numbers


def test_masks_lie_in_their_boxes(found: tuple[dict, Path]) -> None:
    for image in json.loads((found[1] / 'found.json').read_text()):
        for (x1, y1, x2, y2), (x, y, w, h) in zip(image['bboxes'], coco_mask.toBbox(image['masks'])):
            assert w == h == 0 or (x >= x1 - 1 and y >= y1 - 1 and x + w <= x2 + 1 and y + h <= y2 + 1)


def test_pictures_and_pickles_are_written(recipe: Config, trained: Path, found: tuple[dict, Path], tmp_path: Path) -> None:
    assert len(list((found[1] / 'pictures').glob('*.jpg'))) == 4
    evaluate(recipe, trained, work_dir=tmp_path / 'w', out=tmp_path / 'found.pkl')
    kept = pickle.loads((tmp_path / 'found.pkl').read_bytes())
    assert [k['pred_instances']['masks'] for k in kept] == [i['masks'] for i in json.loads((found[1] / 'found.json').read_text())]


def test_inference_gives_masks_of_the_image(recipe: Config, trained: Path, shapes: Path) -> None:
    image = sorted((shapes / 'images').iterdir())[0]
    model = init_detector(recipe, trained, device='cpu')
    sample = inference_detector(model, str(image))
    masks = sample.pred_instances.masks
    assert masks.shape == (len(sample.pred_instances), 64, 64)
    assert len(masks) > 0
    best = sample.pred_instances[sample.pred_instances.scores >= sample.pred_instances.scores[0]]
    assert best.masks.to_tensor().dtype == torch.bool
    inferencer = DetInferencer(recipe, str(trained), device='cpu', show_progress=False)
    answer = inferencer(str(image), return_vis=True, pred_score_thr=0.)
    assert answer['predictions'][0]['masks'] == masks.codes
    assert np.asarray(answer['visualization'][0]).shape == (64, 64, 3)


def test_test_time_augmentation_is_refused_for_masks(recipe: Config, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='test-time augmentation merges boxes; this model also predicts masks'):
        evaluate(recipe, trained, work_dir=tmp_path, tta=True)
