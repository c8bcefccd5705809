"""A real detector on generated images, from the config to pictures of its detections."""
from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from detkit.config import load_config
from detkit.data.synthetic import CLASSES, generate
from detkit.engine import evaluate, train
from detkit.models.detectors.tta import DetTTAModel, turned_back
from detkit.structures import DetDataSample


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    generate(folder, num_train=8, num_val=4, size=64, max_objects=3, progress=False)
    return folder


@pytest.fixture(scope='module')
def recipe(shapes: Path) -> Config:
    """RTMDet-tiny, narrowed, on the shapes; both of its stages in two epochs."""
    resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    mixed = [*load, dict(type='CachedMosaic', img_scale=(64, 64)), dict(type='RandomResize', scale=(128, 128), ratio_range=(0.5, 1.)),
             dict(type='RandomCrop', crop_size=(64, 64)), dict(type='Pad', size=(64, 64)), dict(type='PackDetInputs')]
    plain = [*load, resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    test = [load[0], resize, load[1], dict(type='PackDetInputs')]
    data = dict(metainfo=dict(classes=CLASSES), data_root=str(shapes) + '/', data_prefix=dict(img='images/'))
    return load_config('rtmdet_tiny_8xb32-300e_coco', {
        'model.backbone': dict(widen_factor=0.125, norm_cfg=dict(type='BN')),
        'model.neck': dict(in_channels=[32, 64, 128], out_channels=32, norm_cfg=dict(type='BN')),
        'model.bbox_head': dict(in_channels=32, feat_channels=32, num_classes=len(CLASSES), norm_cfg=dict(type='BN')),
        'train_dataloader': dict(batch_size=4, num_workers=1, dataset=dict(**data, ann_file='annotations/train.json', pipeline=mixed)),
        'val_dataloader': dict(batch_size=2, num_workers=0, dataset=dict(**data, ann_file='annotations/val.json', pipeline=test)),
        'test_dataloader': dict(batch_size=2, num_workers=0, dataset=dict(**data, ann_file='annotations/val.json', pipeline=test)),
        'val_evaluator.ann_file': str(shapes / 'annotations/val.json'), 'test_evaluator.ann_file': str(shapes / 'annotations/val.json'),
        'train_cfg': dict(max_epochs=2, val_interval=1, dynamic_intervals=None), 'param_scheduler': [], 'randomness': dict(seed=1),
        'custom_hooks': [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.1, update_buffers=True, priority=49),
                         dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=plain)],
        'default_hooks.checkpoint.interval': 1})


@pytest.fixture(scope='module')
def trained(recipe: Config, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp('run')
    runner = train(recipe, work_dir=folder, amp=True)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 4 and all(torch.isfinite(torch.tensor(losses)))
    assert 'coco/bbox_mAP' in runner.message_hub.log_scalars or 'val/coco/bbox_mAP' in runner.message_hub.log_scalars
    return folder / 'epoch_2.pth'


def test_a_detector_trains_on_the_cpu_in_bfloat16_and_is_measured(recipe: Config, trained: Path, tmp_path: Path) -> None:
    metrics = evaluate(recipe, trained, work_dir=tmp_path)
    assert 0 <= metrics['coco/bbox_mAP'] <= 1


def test_its_detections_are_written_and_drawn(recipe: Config, trained: Path, tmp_path: Path) -> None:
    evaluate(recipe, trained, work_dir=tmp_path / 'w', out=tmp_path / 'found.json', show_dir=tmp_path / 'pictures')
    found = json.loads((tmp_path / 'found.json').read_text())
    assert len(found) == 4 and len(list((tmp_path / 'pictures').glob('*.jpg'))) == 4
    log, = (tmp_path / 'w').glob('*/*.log')
    assert f"pictures: {tmp_path / 'pictures'}" in log.read_text()
    assert all(len(f['bboxes']) == len(f['scores']) == len(f['labels']) and f['scores'] == sorted(f['scores'], reverse=True) for f in found)
    evaluate(recipe, trained, work_dir=tmp_path / 'w', out=tmp_path / 'found.pkl')
    kept = pickle.loads((tmp_path / 'found.pkl').read_bytes())
    assert [k['pred_instances']['bboxes'].tolist() for k in kept] == [f['bboxes'] for f in found]


def test_test_time_augmentation_measures_with_flips(recipe: Config, trained: Path, tmp_path: Path) -> None:
    assert 0 <= evaluate(recipe, trained, work_dir=tmp_path, tta=True)['coco/bbox_mAP'] <= 1


def test_a_resumed_detector_equals_one_that_was_not_stopped(recipe: Config, trained: Path, tmp_path: Path) -> None:
    train(recipe, work_dir=tmp_path, amp=True, resume=trained.with_name('epoch_1.pth'))
    first, second = torch.load(trained), torch.load(tmp_path / 'epoch_2.pth')
    assert all(torch.equal(v, second['state_dict'][k]) for k, v in first['state_dict'].items())
    assert all(torch.equal(v, second['ema_state_dict'][k]) for k, v in first['ema_state_dict'].items())


# --------------------------------------------------------------------------------------------------------------- TTA
@pytest.mark.parametrize('direction, expected', [
    ('horizontal', [70., 20., 90., 40.]), ('vertical', [10., 10., 30., 30.]), ('diagonal', [70., 10., 90., 30.])])
def test_boxes_of_a_flipped_view_are_turned_back(direction: str, expected: list[float]) -> None:
    sample = DetDataSample(metainfo=dict(ori_shape=(50, 100), flip=True, flip_direction=direction))
    assert turned_back(torch.tensor([[10., 20., 30., 40.]]), sample).tolist() == [expected]


def test_views_of_an_object_merge_to_its_best_box() -> None:
    from mmengine.structures import InstanceData
    from torch import nn

    class Detects(nn.Module):
        def test_step(self, data: Any) -> Any:
            return data

    def view(boxes: list, scores: list, flip: bool) -> DetDataSample:
        sample = DetDataSample(metainfo=dict(ori_shape=(50, 100), flip=flip, flip_direction='horizontal' if flip else None))
        sample.pred_instances = InstanceData(bboxes=torch.tensor(boxes), scores=torch.tensor(scores), labels=torch.zeros(len(boxes)).long())
        return sample

    plain = view([[10., 20., 30., 40.]], [0.5], False)
    flipped = view([[70., 20., 90., 40.], [0., 0., 10., 10.]], [0.9, 0.3], True)      # the same object, and another
    merged, = DetTTAModel(Detects()).merge_preds([[flipped, plain]])
    assert merged is plain
    assert merged.pred_instances.bboxes.tolist() == [[10., 20., 30., 40.], [90., 0., 100., 10.]]
    assert merged.pred_instances.scores.tolist() == pytest.approx([0.9, 0.3])
