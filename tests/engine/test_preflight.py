"""Problems that can be known before the first step are reported before it, together, and before a work dir is made."""
from __future__ import annotations

import copy
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kinds import DETECTORS
from mmengine.config import Config
from torch import Tensor

from detkit.config import dump_config, load_config
from detkit.download import DownloadError
from detkit.engine import build_runner, train
from detkit.engine.checkpoint import write_checkpoint
from detkit.engine.preflight import Prepared, predicts_masks, preflight
from detkit.engine.prepare import prepare
from detkit.registry import MODELS, ConfigError

CLASSES = ('cat', 'dog')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
PACK = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'))


def config(root: Path, work_dir: Path | None = None, **changes: Any) -> Config:
    """A run of two epochs on the set of the fixture ``coco``; ``changes`` are dotted keys with '__' for '.'."""
    def loader(training: bool) -> dict:
        dataset = dict(type='CocoDataset', data_root=str(root), ann_file='a.json', data_prefix=dict(img='images'),
                       metainfo=dict(classes=CLASSES), pipeline=[*LOAD, PACK], test_mode=not training,
                       serialize_data=False)
        return dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=training), dataset=dataset)
    model = copy.deepcopy(DETECTORS['retinanet'])
    model['bbox_head']['num_classes'] = 2
    evaluator = dict(type='CocoMetric', ann_file=str(root / 'a.json'))
    cfg = Config(dict(
        model=model, work_dir=str(work_dir or root / 'work'), randomness=dict(seed=0),
        train_dataloader=loader(True), val_dataloader=loader(False), test_dataloader=loader(False),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2), val_cfg=dict(type='ValLoop'), test_cfg=dict(type='TestLoop'),
        val_evaluator=evaluator, test_evaluator=copy.deepcopy(evaluator),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.001)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', save_best='auto', rule='greater'))))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return cfg


def checked(cfg: Config) -> Prepared:
    return preflight(prepare(cfg)[0])


def for_test(cfg: Config, checkpoint: Path) -> Config:
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None
    cfg.load_from = str(checkpoint)
    return cfg


def checkpoint_of(path: Path, classes: Any, key: str = 'classes') -> Path:
    write_checkpoint(dict(state_dict=dict(w=torch.zeros(1)), meta=dict(dataset_meta={key: classes})), path)
    return path


def rewritten(root: Path, change: Any, name: str = 'b.json') -> str:
    content = json.loads((root / 'a.json').read_text())
    for a in content['annotations']:
        change(a)
    (root / name).write_text(json.dumps(content))
    return name


def test_a_sound_config_passes_and_what_was_read_is_handed_over(coco):
    prepared = checked(config(coco))
    assert list(prepared.datasets) == ['train', 'val'] and list(prepared.evaluators) == ['val']
    assert len(prepared.datasets['train']) == 5 and prepared.notes == []
    runner = build_runner(config(coco))
    dataset = runner.prepared.datasets['train']
    assert runner.train_dataloader.dataset is dataset and 'train' not in runner.prepared.datasets


def test_a_cache_is_built_after_the_checks(coco):
    cfg = config(coco, train_dataloader__dataset__cache=dict(type='lmdb', dir=str(coco / 'cache'), workers=1))
    runner = build_runner(cfg)
    assert not (coco / 'cache').exists()
    assert runner.train_dataloader.dataset.pipeline.stored is not None and (coco / 'cache').is_dir()


@pytest.mark.parametrize('changes, messages', [
    (dict(train_dataloader__dataset__data_root='/nowhere', val_dataloader__dataset__data_root='/nowhere',
          test_dataloader__dataset__data_root='/nowhere'),
     ['train_dataloader.dataset, val_dataloader.dataset, test_dataloader.dataset: data_root: /nowhere does not exist']),
    (dict(train_dataloader__dataset__ann_file='aa.json', val_dataloader__dataset__data_prefix__img='image'),
     ['2 problems: (1) train_dataloader.dataset.ann_file: ', "aa.json does not exist. Did you mean 'a.json'",
      '(2) val_dataloader.dataset.data_prefix.img: the folder of the images, ', "/image, does not exist. Did you mean 'images'"]),
    (dict(val_evaluator__ann_file='/nowhere/a.json'), ["val_evaluator: CocoMetric ann_file: no file '/nowhere/a.json'"]),
    (dict(val_evaluator__metric='segm'), ["val_evaluator: metric='segm' compares masks", 'predicts boxes alone']),
    (dict(model__bbox_head__num_classes=3),
     ['model.bbox_head.num_classes=3, but the data of train_dataloader has 2', 'of val_dataloader has 2']),
    (dict(default_hooks__checkpoint__save_best='coco/bbox_map'),
     ["default_hooks.checkpoint.save_best: the evaluation has no 'coco/bbox_map'. Did you mean 'coco/bbox_mAP'"]),
    (dict(custom_hooks=[dict(type='EarlyStoppingHook', monitor='bbox_mAP')]),
     ["custom_hooks[0].monitor: the evaluation has no 'bbox_mAP'. Did you mean 'coco/bbox_mAP'"]),
    (dict(train_dataloader__batch_size=8, train_dataloader__drop_last=True),
     ['train_dataloader: yields no batch: 5 images, batch_size=8, drop_last=True', 'Set its batch_size to 5 or less, or drop_last=False']),
    (dict(train_dataloader__batchsize=4, val_dataloader__num_workers=-1),
     ["train_dataloader: a data loader has no 'batchsize'. Did you mean 'batch_size'",
      'val_dataloader.num_workers: is -1; it should be a whole number, 0 or more']),
    (dict(param_scheduler=[dict(type='CosineAnnealingLR', begin=1, end=1)]), ['param_scheduler[0]: begin=1 is not before end=1']),
    (dict(model__backbone__init_cfg=dict(type='Pretrained', checkpoint='/nowhere/w.pth')),
     ["model.backbone.init_cfg.checkpoint: there is no checkpoint '/nowhere/w.pth'. Its folder /nowhere does not exist"]),
    (dict(load_from='/nowhere/w.pth'), ["load_from: there is no checkpoint '/nowhere/w.pth'"]),
    (dict(model__bbox_head__type='RetinaHed'), ["model.bbox_head.type: no 'RetinaHed'"]),
    (dict(train_dataloader__dataset__pipeline=[dict(type='Flip')]), ["train_dataloader.dataset.pipeline[0].type: no 'Flip'"])])
def test_what_cannot_be_is_told_with_its_key_before_a_work_dir_is_made(coco, changes, messages):
    with pytest.raises(ConfigError) as error:
        train(config(coco, **changes))
    assert all(m in str(error.value) for m in messages), str(error.value)
    assert '\n' not in str(error.value) and not (coco / 'work').exists()


def test_classwise_names_may_be_the_best(coco):
    names = dict(val_evaluator__classwise=True)
    assert checked(config(coco, default_hooks__checkpoint__save_best='coco/cat_precision', **names)).notes == []
    with pytest.raises(ConfigError, match="has no 'coco/cow_precision'"):
        checked(config(coco, default_hooks__checkpoint__save_best='coco/cow_precision', **names))


def test_a_rule_that_cannot_be_is_one_line(coco):
    with pytest.raises(ConfigError, match=r"^default_hooks.checkpoint: CheckpointHook: rule='more' should be 'greater' or 'less'"):
        train(config(coco, default_hooks__checkpoint__rule='more'))
    assert not (coco / 'work').exists()


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(train_dataloader__sampler__type='DefaultSamplr'), r"^train_dataloader.sampler.type: no 'DefaultSamplr'.*'DefaultSampler'"),
    (dict(train_dataloader__sampler__shufle=True), r"^train_dataloader.sampler: DefaultSampler takes no argument 'shufle'.*'shuffle'"),
    (dict(val_dataloader__collate_fn=dict(type='pseudo_colate')), r"^val_dataloader.collate_fn.type: no 'pseudo_colate'"),
    (dict(train_dataloader__batch_sampler=dict(typ='AspectRatioBatchSampler')), r"^train_dataloader.batch_sampler: has no 'type'"),
    (dict(param_scheduler=[dict(type='CosinLR')]), r"^param_scheduler\[0\].type: no 'CosinLR'"),
    (dict(optim_wrapper__optimizer__type='AdamWW'), r"^optim_wrapper.optimizer.type: no 'AdamWW'.*'AdamW'"),
    (dict(optim_wrapper__optimizer__lr='0.01'), r"^optim_wrapper.optimizer.lr: is '0.01'; it should be a number"),
    (dict(optim_wrapper__optimizer__lr=-1), '^optim_wrapper.optimizer.lr: is -1; it should'),
    (dict(optim_wrapper__optimizer__lr=float('nan')), '^optim_wrapper.optimizer.lr: is nan; it should'),
    (dict(optim_wrapper__optimizer__momentun=.9), r"^optim_wrapper.optimizer: SGD takes no argument 'momentun'.*'momentum'"),
    (dict(default_hooks__checkpoint__interval='x'), "^default_hooks.checkpoint.interval: is 'x'; it should be a whole number"),
    (dict(default_hooks__checkpoint__save_best=5), '^default_hooks.checkpoint.save_best: is 5; it should be text'),
    (dict(custom_hooks=[dict(type='EMAHok')]), r"^custom_hooks\[0\].type: no 'EMAHok'.*'EMAHook'"),
    (dict(default_hooks__checkpoint__max_keep_ckpt=1), "CheckpointHook takes no argument 'max_keep_ckpt'.*'max_keep_ckpts'"),
    (dict(custom_hooks=['EMAHook']), r"^custom_hooks\[0\] is 'EMAHook'; it should be a dict with a type"),
    (dict(custom_hooks=[dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', patience='x')]),
     r"^custom_hooks\[0\].patience: is 'x'; it"),
    (dict(optim_wrapper__clip_grad=dict(max_nrm=3)), "^optim_wrapper.clip_grad: .* takes no argument 'max_nrm'.*'max_norm'"),
    (dict(optim_wrapper__clip_grad=35), r'^optim_wrapper.clip_grad: is 35; it should be dict\(max_norm=35\)'),
    (dict(optim_wrapper__accumulative_counts='x'), "^optim_wrapper.accumulative_counts: is 'x'; it should"),
    (dict(param_scheduler=[dict(type='MultiStepLR', milestones=[1], gama=.1)]), r"^param_scheduler\[0\]: MultiStepLR takes no .*'gamma'"),
    (dict(param_scheduler=[dict(type='MultiStepLR')]), r"^param_scheduler\[0\]: MultiStepLR needs 'milestones'"),
    (dict(train_cfg__type='EpochBasedTrainLop'), "^train_cfg.type: no 'EpochBasedTrainLop'"),
    (dict(visualizer=dict(type='DetLocalVisualiser')), "^visualizer.type: no 'DetLocalVisualiser'"),
    (dict(visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorbordVisBackend')])),
     r"^visualizer.vis_backends\[1\].type: no 'TensorbordVisBackend'.*'TensorboardVisBackend'"),
    (dict(visualizer=dict(type='DetLocalVisualizer', vis_backends=['LocalVisBackend'])),
     r"^visualizer.vis_backends\[0\]: is 'LocalVisBackend'; it should be a dict with a type"),
    (dict(visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend', img_dir='a')])),
     r"^visualizer.vis_backends\[0\]: LocalVisBackend takes no argument 'img_dir'"),
    (dict(visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='NeptuneVisBackend')])),
     r"^visualizer.vis_backends\[0\]: NeptuneVisBackend needs the package 'neptune', which is not installed: pip install neptune"),
    (dict(visualizer=dict(type='DetLocalVisualizer', line_with=2)), "^visualizer: DetLocalVisualizer takes no .*'line_width'"),
    (dict(log_processor=dict(windw_size=50)), "^log_processor: LogProcessor takes no argument 'windw_size'.*'window_size'"),
    (dict(env_cfg=dict(mp_cfg=dict(mp_start_method='frok'))),
     r"^env_cfg.mp_cfg.mp_start_method: is 'frok'; it should be 'fork', 'spawn' or 'forkserver'. Did you mean 'fork'"),
    (dict(env_cfg=dict(mp_cfg=dict(opencv_num_threads=-1))), '^env_cfg.mp_cfg.opencv_num_threads: is -1; it should be a whole number'),
    (dict(env_cfg=dict(mp_cfg=dict(start_method='fork'))), "^env_cfg.mp_cfg: there is no 'start_method'.*'mp_start_method'"),
    (dict(custom_hooks=[dict(type='EMAHook', momentm=.1)]),
     r"^custom_hooks\[0\]: ExponentialMovingAverage takes no argument 'momentm'.*'momentum'"),
    (dict(custom_hooks=[dict(type='EMAHook', ema_type='ExpMomentmEMA')]), r"^custom_hooks\[0\].ema_type: no 'ExpMomentmEMA'"),
    (dict(custom_hooks=[dict(type='EMAHook', ema_type='ExpMomentumEMA', gamma=0)]), r'^custom_hooks\[0\]: .*gamma=0 should be positive'),
    (dict(custom_hooks=[dict(type='EMAHook', momentum=2)]), r'^custom_hooks\[0\]\.momentum: is 2; it should be in \[0, 1\]'),
    (dict(custom_hooks=[dict(type='EMAHook', begin_epoch=-1)]), r'^custom_hooks\[0\]\.begin_epoch: is -1; it should be at least 0'),
    (dict(default_hooks__logger=dict(type='LoggerHook', intervall=5)), "^default_hooks.logger: LoggerHook takes no .*'interval'"),
    (dict(custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=LOAD)]),
     r'^custom_hooks\[0\].switch_pipeline: the pipeline ends with LoadAnnotations and gives no .inputs. to the model'),
    (dict(custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=[dict(type='LoadImage'), PACK])]),
     r"^custom_hooks\[0\].switch_pipeline\[0\].type: no 'LoadImage'"),
    (dict(randomness__seed='x'), "^randomness.seed is 'x'; it should be a whole number"),
    (dict(val_evaluator__metric=[]), r'^val_evaluator: CocoMetric metric=\[\] measures nothing. It has: bbox, segm, proposal')])
def test_parts_that_cannot_be_built_are_told_before_a_work_dir_is_made(coco, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(config(coco, **changes))
    assert not (coco / 'work').exists()


def test_the_metric_and_the_data_have_the_same_images(coco):
    content = json.loads((coco / 'a.json').read_text())
    other = {**content, 'images': [{**i, 'file_name': f"x{i['file_name']}y.png"} for i in content['images']]}
    (coco / 'other.json').write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"^val_evaluator: '.*other.json' has other images than .*a.json of val_dataloader: the id 1 is "
                                          r"'x.*y.png' there and '.*' here. .*the same ann_file"):
        checked(config(coco, val_evaluator__ann_file=str(coco / 'other.json')))
    shifted = {**content, 'images': [{**i, 'id': i['id'] + 90} for i in content['images']],
               'annotations': [{**a, 'image_id': a['image_id'] + 90} for a in content['annotations']]}
    (coco / 'other.json').write_text(json.dumps(shifted))
    with pytest.raises(ConfigError, match=r'it has no image of the id 1 \('):
        checked(config(coco, val_evaluator__ann_file=str(coco / 'other.json')))


def test_a_val_set_whose_boxes_all_lie_outside_is_refused(coco):
    name = rewritten(coco, lambda a: a.update(bbox=[900, 900, 10, 10]))
    with pytest.raises(ConfigError, match=r'^val_evaluator: .*no object to measure against: .*have boxes that are left out: they lie '
                                          'outside their image'):
        checked(config(coco, val_dataloader__dataset__ann_file=name, val_evaluator__ann_file=str(coco / name)))


def test_corners_in_place_of_width_and_height_are_told(coco):
    def corners(a: dict) -> None:
        image = next(i for i in images if i['id'] == a['image_id'])
        a['bbox'] = [image['width'] // 2, image['height'] // 2, image['width'] - 1, image['height'] - 1]
    images = json.loads((coco / 'a.json').read_text())['images']
    notes = [line for _, line in checked(config(coco, train_dataloader__dataset__ann_file=rewritten(coco, corners))).notes]
    assert len(notes) == 1 and 'b.json: ' in notes[0]
    assert 'boxes leave their image. Read as x1, y1, x2, y2 they would fit, and COCO writes x, y, width, height' in notes[0]


def test_images_that_do_not_lie_where_the_prefix_says_are_looked_for(coco):
    (coco / 'empty').mkdir()
    with pytest.raises(ConfigError, match=r'train_dataloader.dataset: 5 of the 5 images .*1.png\). Check data_root and data_prefix.$'):
        checked(config(coco, train_dataloader__dataset__data_prefix__img='empty'))
    (coco / 'images/2.png').unlink()
    with pytest.raises(ConfigError, match=r"1 of the 5 images.*2.png.*on_error='skip'"):
        checked(config(coco, val_dataloader=None, val_cfg=None, val_evaluator=None))
    assert checked(config(coco, train_dataloader__dataset__on_error='skip', val_dataloader=None, val_cfg=None, val_evaluator=None))


def test_a_test_set_that_training_does_not_need_is_a_warning(coco):
    notes = checked(config(coco, test_dataloader__dataset__ann_file='test.json',
                           test_dataloader__dataset__metainfo=dict(classes=('cat', 'cow')))).notes
    assert [level for level, _ in notes] == [logging.WARNING] * 2
    assert 'test.json does not exist' in notes[0][1] and 'training does without it' in notes[0][1]
    assert "only train_dataloader has 'dog', only test_dataloader has 'cow'" in notes[1][1]


# ------------------------------------------------------------------------------------------------------------- classes
def labels(dataset: Any) -> list[list[int]]:
    return [[i['bbox_label'] for i in dataset.get_data_info(n)['instances']] for n in range(len(dataset))]


def test_val_follows_the_order_of_train(coco):
    prepared = checked(config(coco, val_dataloader__dataset__metainfo=dict(classes=('dog', 'cat'), palette=[(1, 1, 1), (2, 2, 2)])))
    train_set, val = prepared.datasets['train'], prepared.datasets['val']
    assert val.metainfo['classes'] == CLASSES and val.metainfo['palette'] == [(2, 2, 2), (1, 1, 1)]
    assert labels(val) == labels(train_set)
    assert prepared.notes == [(logging.WARNING, "val_dataloader: the same names stand in another order: label 0 is 'cat' in "
                               "train_dataloader and 'dog' in val_dataloader. The order of train_dataloader holds.")]


@pytest.mark.parametrize('classes, words', [
    (('cat', 'cow'), "only train_dataloader has 'dog', only val_dataloader has 'cow'"), (('cat',), "only train_dataloader has 'dog'")])
def test_val_with_other_names_is_refused(coco, classes, words):
    with pytest.raises(ConfigError, match=f'val_dataloader has other classes than train_dataloader: {words}'):
        checked(config(coco, val_dataloader__dataset__metainfo=dict(classes=classes)))


def table(root: Path, name: str, rows: list[tuple[int, str]]) -> dict:
    (root / name).write_text(''.join(f'{i}.png,2,3,20,30,{c}\n' for i, c in rows))
    return dict(_delete_=True, type='CSVDataset', data_root=str(root), ann_file=name, data_prefix=dict(img='images'),
                pipeline=[*LOAD, PACK], serialize_data=False)


def test_a_list_that_a_file_gives_by_itself_gives_way_to_that_of_train(coco):
    cfg = config(coco, train_dataloader__dataset=table(coco, 'train.csv', [(1, 'ant'), (2, 'bee')]),
                 val_dataloader__dataset=table(coco, 'val.csv', [(3, 'bee'), (4, 'bee')]), val_evaluator__ann_file=None)
    prepared = checked(cfg)
    assert prepared.datasets['val'].metainfo['classes'] == ('ant', 'bee') and labels(prepared.datasets['val']) == [[1], [1]]
    saved = checkpoint_of(coco / 'c.pth', ('emu', 'bee', 'ant'))
    cfg = for_test(config(coco, model__bbox_head__num_classes=3, test_dataloader__dataset=table(coco, 'test.csv', [(3, 'bee')]),
                          test_evaluator__ann_file=None), saved)
    assert labels(checked(cfg).datasets['test']) == [[1]]


@pytest.mark.parametrize('key', ['classes', 'CLASSES'])
def test_a_test_follows_the_order_of_the_checkpoint(coco, key):
    prepared = checked(for_test(config(coco), checkpoint_of(coco / 'c.pth', ('dog', 'cat'), key)))
    assert prepared.datasets['test'].metainfo['classes'] == ('dog', 'cat')
    assert [['dog', 'cat'][n] for n in labels(prepared.datasets['test'])[0]] == ['cat', 'dog']
    assert "label 0 is 'dog' in the checkpoint and 'cat' in test_dataloader" in prepared.notes[0][1]
    with pytest.raises(ConfigError, match="than the checkpoint: only the checkpoint has 'cow', only test_dataloader has 'dog'"):
        checked(for_test(config(coco), checkpoint_of(coco / 'c.pth', ('cat', 'cow'), key)))


def test_another_spelling_is_the_same_name(coco):
    prepared = checked(for_test(config(coco), checkpoint_of(coco / 'c.pth', ('Dog', 'CAT'))))
    assert prepared.datasets['test'].metainfo['classes'] == ('dog', 'cat')


def test_weights_for_other_classes_are_told_and_a_resumed_run_keeps_its_own(coco):
    saved = checkpoint_of(coco / 'c.pth', ('dog', 'cat'))
    (level, line), = checked(config(coco, load_from=saved)).notes               # a Path
    assert level == logging.WARNING and "label 0 is 'dog' in the checkpoint" in line and 'loaded as they are' in line
    assert checked(config(coco, load_from=str(checkpoint_of(saved, tuple('abc'))))).notes == []   # another number: other layers are told
    with pytest.raises(ConfigError, match="was trained on other classes than train_dataloader has: label|only the checkpoint has 'a'"):
        checked(config(coco, load_from=str(saved), resume=True))


# ---------------------------------------------------------------------------------------------------- nothing to learn
def to_share(a: dict) -> None:
    a['bbox'] = [v / 64 for v in a['bbox']]


@pytest.mark.parametrize('change, filter_cfg, words', [
    (to_share, None, '6 have a box between 0 and 1: a share of the image'),
    (lambda a: a.update(iscrowd=1), None, '6 are regions to ignore'),
    (lambda a: a.update(ignore=True), None, "6 are marked 'ignore'"),
    (lambda a: a.update(bbox=[5, 5, 0, 0]), None, '6 have boxes that are left out: a side is shorter than a pixel'),
    (lambda a: a.update(bbox=[500, 500, 9, 9]), None, '6 have boxes that are left out: they lie outside their image'),
    (lambda a: None, dict(bbox_min_size=100), '5 have a side below filter_cfg.bbox_min_size; 1 are regions to ignore'),
    (lambda a: a.update(iscrowd=1), dict(filter_empty_gt=True), '6 are regions to ignore')])
def test_a_training_set_without_a_usable_object_is_refused_with_the_reasons(coco, change, filter_cfg, words):
    name = rewritten(coco, change)
    said = f'train_dataloader.dataset: there is nothing to learn: .*b.json: of 6 objects 0 are left: {words}'
    with pytest.raises(ConfigError, match=said):
        train(config(coco, train_dataloader__dataset__ann_file=name, train_dataloader__dataset__filter_cfg=filter_cfg))
    assert not (coco / 'work').exists()


def test_masks_asked_of_data_without_masks_leave_nothing(coco):
    name = rewritten(coco, lambda a: a.pop('segmentation'))
    masks = [LOAD[0], dict(type='LoadAnnotations', with_mask=True), PACK]
    with pytest.raises(ConfigError, match=r'1 are regions to ignore|5 have no mask, which LoadAnnotations\(with_mask=True\) asks for'):
        checked(config(coco, train_dataloader__dataset__ann_file=name, train_dataloader__dataset__pipeline=masks))
    assert checked(config(coco, train_dataloader__dataset__pipeline=masks)).datasets['train'].counts.masks == 5


def test_labels_that_lie_elsewhere_are_looked_for_in_words(coco):
    (coco / 'data.yaml').write_text('path: .\nnames: [cat, dog]\ntrain: images\nval: images\n')
    dataset = dict(_delete_=True, type='YOLODataset', data_root=str(coco), ann_file='data.yaml', pipeline=[*LOAD, PACK],
                   serialize_data=False)
    with pytest.raises(ConfigError, match=r'lists no object; the labels of its first image are looked for in .*labels/1.txt, which does'):
        checked(config(coco, train_dataloader__dataset=dataset))


def test_many_objects_left_out_are_a_warning_and_empty_images_are_none(coco):
    name = rewritten(coco, lambda a: a.update(ignore=a['id'] in (1, 2, 3)))
    (_, line), = checked(config(coco, train_dataloader__dataset__ann_file=name)).notes
    assert "of 6 objects 2 are left: 3 are marked 'ignore'; 1 are regions to ignore" in line
    content = json.loads((coco / 'a.json').read_text())
    content['annotations'] = content['annotations'][:1]
    (coco / 'few.json').write_text(json.dumps(content))
    assert checked(config(coco, train_dataloader__dataset__ann_file='few.json')).notes == []


def test_negatives_beside_other_data_are_a_genuine_training_set(coco):
    content = json.loads((coco / 'a.json').read_text())
    (coco / 'none.json').write_text(json.dumps(dict(content, annotations=[])))
    both = [dict(config(coco).train_dataloader.dataset, ann_file=name) for name in ('a.json', 'none.json')]
    cfg = config(coco, train_dataloader__dataset=dict(_delete_=True, type='ConcatDataset', datasets=both))
    assert len(checked(cfg).datasets['train']) == 10
    cfg.train_dataloader.dataset.datasets = both[1:] * 2
    with pytest.raises(ConfigError, match='it lists no object'):
        checked(cfg)


def test_a_set_without_objects_cannot_be_measured_but_written(coco):
    content = json.loads((coco / 'a.json').read_text())
    (coco / 'none.json').write_text(json.dumps(dict(content, annotations=[])))
    empty = dict(val_dataloader__dataset__ann_file='none.json', val_evaluator__ann_file=str(coco / 'none.json'))
    with pytest.raises(ConfigError, match='val_evaluator: .*none.json.: there is no object to measure against'):
        checked(config(coco, **empty))
    with pytest.raises(ConfigError, match='val_evaluator: val_dataloader.dataset: there is no object .*it lists no object'):
        checked(config(coco, **dict(empty, val_evaluator__ann_file=None)))
    assert checked(config(coco, **empty, val_evaluator__format_only=True, val_evaluator__outfile_prefix=str(coco / 'x')))
    assert checked(config(coco, val_dataloader__dataset__ann_file='none.json'))     # the evaluator has the objects


def test_masks_are_not_measured_against_boxes(coco):
    name = rewritten(coco, lambda a: a.pop('segmentation'))
    mask_rcnn = copy.deepcopy(DETECTORS['mask_rcnn'])
    mask_rcnn['roi_head']['bbox_head']['num_classes'] = mask_rcnn['roi_head']['mask_head']['num_classes'] = 2
    masks = config(coco, val_evaluator__metric=['bbox', 'segm'])
    masks.model = mask_rcnn
    assert checked(masks)
    masks.val_evaluator.ann_file = str(coco / name)
    with pytest.raises(ConfigError, match="metric='segm' compares masks, and none of its 5 objects has one"):
        checked(masks)
    name = rewritten(coco, lambda a: a['id'] == 2 and a.pop('segmentation'), 'c.json')
    masks.val_dataloader.dataset.ann_file, masks.val_evaluator.ann_file = name, str(coco / name)
    with pytest.raises(ConfigError, match='compares masks, and 1 of . annotations have none \\(first: 2\\)'):
        checked(masks)


# --------------------------------------------------------------------------------------------------------------- model
@pytest.mark.parametrize('kind, has_masks', [
    ('retinanet', False), ('faster_rcnn', False), ('rpn', False), ('deformable_detr', False), ('mask_rcnn', True), ('cascade_rcnn', True),
    ('rtmdet_ins', True), ('mask2former', True)])
def test_a_model_is_asked_without_memory_for_its_weights(kind, has_masks):
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(DETECTORS[kind]))
    assert next(model.parameters()).is_meta
    assert predicts_masks(model) is has_masks


@MODELS.register_module()
class BranchingResNet(MODELS.get('ResNet')):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images * 2 if images.sum() > 0 else images)


def test_a_model_that_cannot_be_exported_is_one_warning_where_exporting_is_installed(coco, monkeypatch):
    changes = dict(model__backbone__type='BranchingResNet')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: sys)
    assert checked(config(coco, **changes)).notes == [(logging.WARNING, (
        'RetinaNet cannot be exported to ONNX: model.backbone (BranchingResNet) does one thing or another depending on the values of a '
        'tensor. Training and testing do without it.'))]
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert checked(config(coco, **changes)).notes == []


@pytest.mark.parametrize('changes, message', [
    (dict(model__neck__in_channels=[8, 16, 32, 63]),
     'model.neck: its layer lateral_convs.2.conv (Conv2d) takes 63 channels and gets 64 (backbone gives 4 maps of 8, 16, 32, 64 channels). '
     'Make these equal.'),
    (dict(model__neck__num_outs=4), 'model.bbox_head: AnchorGenerator has strides for 5 levels; the head was given 4 feature maps.'),
    (dict(model__data_preprocessor__mean=[120., 120.], model__data_preprocessor__std=[60., 60.]),
     'model.data_preprocessor: DetDataPreprocessor takes mean and std as lists of 3 numbers, or of 1 for all channels, and no std of 0; '
     'here they are [120.0, 120.0] and [60.0, 60.0].')])
def test_parts_of_a_model_that_do_not_fit_are_one_line_before_a_work_dir_is_made(coco, changes, message):
    with pytest.raises(ConfigError) as error:
        train(config(coco, **changes))
    assert str(error.value) == message and not (coco / 'work').exists()


def test_a_value_that_was_edited_at_the_top_of_a_dumped_config_is_a_warning(coco):
    dump_config(config(coco, max_epochs=3), coco / 'dumped.py')
    cfg = load_config(coco / 'dumped.py')
    (level, line), = checked(cfg).notes
    assert level == logging.WARNING
    assert 'dumped.py:' in line and line.endswith(
        ': max_epochs=3 changes nothing in this dumped config: train_cfg.max_epochs is 2. Set train_cfg.max_epochs.')


def test_weights_that_cannot_be_fetched_are_told_before_a_work_dir_is_made(coco, monkeypatch):
    def refuse(url: str, target: Path) -> Path:
        raise DownloadError(f'{url}: no network')
    monkeypatch.setattr('detkit.engine.sources.download', refuse)
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(coco / 'hub'))
    url = 'https://example.org/r18.pth'
    with pytest.raises(ConfigError, match=f'^model.backbone.init_cfg.checkpoint: {url}: no network'):
        train(config(coco, model__backbone__init_cfg=dict(type='Pretrained', checkpoint=url)))
    assert not (coco / 'work').exists()


def test_weights_of_timm_that_cannot_be_fetched_are_told_before_a_work_dir_is_made(coco, monkeypatch):
    def refuse(*args: Any) -> None:
        raise ConfigError('the weights cannot be had')
    monkeypatch.setattr('detkit.models.backbones.timm_backbone.fetched', refuse)
    cfg = config(coco)
    cfg.model = Config(DETECTORS['timm'])._cfg_dict
    cfg.model.bbox_head.num_classes = 2
    cfg.model.backbone.pretrained = True
    with pytest.raises(ConfigError, match='^model.backbone.pretrained: the weights cannot be had'):
        train(cfg)
    assert not (coco / 'work').exists()


def test_the_checks_change_no_random_number(coco):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    checked(config(coco))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize('steps', [[PACK], [LOAD[1], PACK]])
def test_a_pipeline_that_loads_no_image_is_refused(coco: Path, steps: list[dict]) -> None:
    with pytest.raises(ConfigError, match=r'^train_dataloader.dataset: the pipeline loads no image. Put dict\(type=.LoadImageFromFile'):
        train(config(coco, train_dataloader__dataset__pipeline=steps))
    assert not (coco / 'work').exists()


@pytest.mark.parametrize('steps, last', [(LOAD, 'LoadAnnotations'), ([], 'no step at all')])
def test_a_pipeline_that_packs_nothing_is_refused(coco: Path, steps: list[dict], last: str) -> None:
    with pytest.raises(ConfigError, match=f'^train_dataloader.dataset: the pipeline ends with {last} and gives no .inputs. to the model'):
        checked(config(coco, train_dataloader__dataset__pipeline=steps))
