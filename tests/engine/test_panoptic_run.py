"""Mask2Former on a tiny panoptic set, from the recipe to its panoptic quality."""
from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from panoptic_set import CLASSES, draw_panoptic

from detkit.config import load_config
from detkit.engine import evaluate, train
from detkit.registry import ConfigError
from detkit.structures.panoptic import read_segment_ids

NUMBERS = [f'coco_panoptic/{key}{part}' for part in ('', '_th', '_st') for key in ('PQ', 'SQ', 'RQ')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: Any) -> Path:
    made = tmp_path_factory.mktemp('data')
    draw_panoptic(made, 8)
    return made


def narrowed(name: str, folder: Path, **changes: Any) -> Config:
    """The recipe on the tiny set, a sixteenth as wide, at 64 pixels, a few steps."""
    attention, ffn = dict(embed_dims=16, num_heads=2), dict(embed_dims=16, feedforward_channels=32)
    classes = dict(num_things_classes=2, num_stuff_classes=2)
    load = dict(type='LoadImageFromFile')
    pipeline = [load, dict(type='LoadPanopticAnnotations'), dict(type='RandomFlip', prob=0.5),
                dict(type='RandomResize', scale=(64, 64), ratio_range=(0.8, 1.5), keep_ratio=True),
                dict(type='RandomCrop', crop_size=(64, 64), recompute_bbox=True, allow_negative_crop=True), dict(type='PackDetInputs')]
    test = [load, dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'segments_info',
                                                        'seg_map_path'))]
    data = dict(metainfo=CLASSES, data_root=str(folder) + '/', ann_file='panoptic.json', data_prefix=dict(img='images/', seg='panoptic/'))
    metric = dict(type='CocoPanopticMetric', ann_file=str(folder / 'panoptic.json'), seg_prefix=str(folder / 'panoptic'))
    return load_config(name, {
        'model.data_preprocessor.batch_augments': [dict(type='BatchFixedSizePad', size=(64, 64), pad_mask=True, pad_seg=True)],
        'model.backbone': dict(depth=18, base_channels=4, norm_cfg=dict(requires_grad=True), norm_eval=False, init_cfg=None),
        'model.panoptic_head': dict(
            in_channels=[4, 8, 16, 32], feat_channels=16, out_channels=16, num_queries=10, **classes,
            positional_encoding=dict(num_feats=8), loss_cls=dict(class_weight=[1.0] * 4 + [0.1]),
            pixel_decoder=dict(norm_cfg=dict(num_groups=4), positional_encoding=dict(num_feats=8),
                               encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn))),
            transformer_decoder=dict(num_layers=3, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn))),
        'model.panoptic_fusion_head': classes, 'model.train_cfg.num_points': 128,
        'model.test_cfg': dict(max_per_image=10, object_mask_thr=0.2),
        'train_dataloader': dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(**data, pipeline=pipeline)),
        'val_dataloader': dict(num_workers=0, persistent_workers=False, dataset=dict(**data, pipeline=test)),
        'test_dataloader': dict(num_workers=0, persistent_workers=False, dataset=dict(**data, pipeline=test)),
        'val_evaluator': [metric], 'test_evaluator': [metric],
        'train_cfg': dict(max_iters=4, val_interval=4, dynamic_intervals=None), 'param_scheduler': [], 'randomness': dict(seed=1),
        'optim_wrapper.optimizer.lr': 0.002, 'default_hooks.checkpoint.interval': 4} | changes)


@pytest.fixture(scope='module')
def trained(folder: Path, tmp_path_factory: Any) -> tuple[Config, Path]:
    cfg, work_dir = narrowed('mask2former_r50_8xb2-lsj-50e_coco-panoptic', folder), tmp_path_factory.mktemp('run')
    runner = train(cfg, work_dir=work_dir)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 4 and all(torch.isfinite(torch.tensor(losses)))
    assert any(name.endswith('coco_panoptic/PQ') for name in runner.message_hub.log_scalars)
    return cfg, work_dir / 'iter_4.pth'


def test_it_trains_and_its_panoptic_quality_is_measured(trained: tuple[Config, Path], tmp_path: Path) -> None:
    metrics = evaluate(*trained, work_dir=tmp_path)
    assert set(NUMBERS) <= set(metrics) and all(0 <= metrics[name] <= 100 for name in NUMBERS)


def test_truth_from_the_samples_gives_the_same_numbers(trained: tuple[Config, Path], folder: Path, tmp_path: Path) -> None:
    cfg, checkpoint = trained
    own = narrowed('mask2former_r50_8xb2-lsj-50e_coco-panoptic', folder, test_evaluator=[dict(type='CocoPanopticMetric')])
    first, second = (evaluate(c, checkpoint, work_dir=tmp_path) for c in (cfg, own))
    assert [first[n] for n in NUMBERS] == [second[n] for n in NUMBERS]


def test_maps_are_written_for_a_test_server(trained: tuple[Config, Path], folder: Path, tmp_path: Path) -> None:
    writer = dict(type='CocoPanopticMetric', ann_file=str(folder / 'panoptic.json'), format_only=True, outfile_prefix=str(tmp_path / 'out'))
    evaluate(narrowed('mask2former_r50_8xb2-lsj-50e_coco-panoptic', folder, test_evaluator=[writer]), trained[1], work_dir=tmp_path / 'w')
    written = json.loads((tmp_path / 'out.panoptic.json').read_text())['annotations']
    assert len(written) == 8
    for entry in written:
        ids = read_segment_ids(tmp_path / 'out.panoptic' / entry['file_name'])
        assert {i for i in set(ids.ravel().tolist()) if i} == {s['id'] for s in entry['segments_info']}


def test_maps_alone_are_kept_as_tensors(folder: Path, trained: tuple[Config, Path], tmp_path: Path) -> None:
    cfg = narrowed('mask2former_r50_8xb2-lsj-50e_coco-panoptic', folder, **{'model.test_cfg.instance_on': False})
    evaluate(cfg, trained[1], work_dir=tmp_path / 'w', out=tmp_path / 'found.pkl', show_dir=tmp_path / 'pictures')
    found = pickle.loads((tmp_path / 'found.pkl').read_bytes())
    assert len(found) == 8 and all(f['pred_panoptic_seg']['sem_seg'].shape == (1, 64, 64) for f in found)
    with pytest.raises(ConfigError, match=r'instance_on.*\.pkl'):
        evaluate(cfg, trained[1], work_dir=tmp_path / 'w', out=tmp_path / 'found.json')
    cfg.test_evaluator = [dict(type='CocoMetric')]
    with pytest.raises(ConfigError, match='CocoMetric measures objects, and this model predicts none'):
        evaluate(cfg, trained[1], work_dir=tmp_path / 'w')


def test_instances_and_pictures_are_written_too(trained: tuple[Config, Path], tmp_path: Path) -> None:
    evaluate(*trained, work_dir=tmp_path / 'w', out=tmp_path / 'found.json', show_dir=tmp_path / 'pictures')
    assert len(json.loads((tmp_path / 'found.json').read_text())) == len(list((tmp_path / 'pictures').glob('*.jpg'))) == 8
