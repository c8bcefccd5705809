"""Impossible schedules are refused; those that change nothing give a warning."""
from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from detkit.config import config_folder, load_config
from detkit.engine.schedule_checks import schedule_problems


def found(batches: int | None = 10, loop: dict | None = None, hooks: tuple = (), **changes: Any) -> tuple[list[str], list[str]]:
    cfg = Config(dict(train_cfg=loop or dict(max_epochs=12), val_dataloader=dict(), custom_hooks=list(hooks), **changes))
    problems = schedule_problems(cfg, batches)
    return [str(e) for e in problems.errors], problems.notes


@pytest.mark.parametrize('loop, message', [
    (dict(max_epochs=0), 'train_cfg.max_epochs is 0; it should be a whole number, 1 or more'),
    (dict(max_epochs='12'), "train_cfg.max_epochs is '12'"), (dict(max_epochs=2.5), 'train_cfg.max_epochs is 2.5'),
    (dict(max_epochs=3, val_interval=0), 'train_cfg.val_interval is 0'), (dict(max_iters=-5), 'train_cfg.max_iters is -5'),
    (dict(max_epochs=3, val_begin=-1), 'train_cfg.val_begin is -1; it should be a whole number, 0 or more')])
def test_a_length_that_cannot_be_is_refused(loop, message):
    errors, _ = found(loop=loop)
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize('scheduler, message', [
    (dict(type='CosineAnnealingLR', begin=30, end=20), 'param_scheduler[0]: begin=30 is not before end=20'),
    (dict(type='CosineAnnealingLR', begin=12), 'begin=12 is not before the 12 epochs of the training'),
    (dict(type='LinearLR', by_epoch=False, begin=500), 'begin=500 is not before the 120 iterations of the training')])
def test_a_schedule_without_a_step_is_refused(scheduler, message):
    errors, _ = found(param_scheduler=[scheduler])
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize('scheduler, words', [
    (dict(type='MultiStepLR', milestones=[8, 14]), 'the milestones [14] lie beyond the 12 epochs'),
    (dict(type='LinearLR', by_epoch=False, begin=0, end=500), 'the warm-up lasts until 500, the training has 120 iterations'),
    (dict(type='mmengine.LinearLR', by_epoch=True, begin=0, end=13), 'the warm-up lasts until 13, the training has 12 epochs'),
    (dict(type='CosineAnnealingLR', begin=0, end=24), 'CosineAnnealingLR lasts until 24, the training has 12 epochs'),
    (dict(type='StepLR', begin=20, end=30), 'begins at 20, the training has 12 epochs: it never comes into force')])
def test_what_never_happens_is_told_and_refuses_nothing(scheduler, words):
    errors, notes = found(param_scheduler=[scheduler])
    assert errors == [] and len(notes) == 1 and words in notes[0]


def test_iterations_are_compared_once_the_batches_are_known():
    warm_up = dict(type='LinearLR', by_epoch=False, begin=0, end=500)
    assert found(None, param_scheduler=warm_up) == ([], [])
    assert found(None, loop=dict(max_iters=300), param_scheduler=[warm_up])[1][0].startswith('param_scheduler[0]: the warm-up')
    counts_epochs = found(loop=dict(max_iters=300), param_scheduler=[dict(type='MultiStepLR', milestones=[2])])[1]
    assert len(counts_epochs) == 1 and 'it never moves. Set by_epoch=False' in counts_epochs[0]
    assert found(loop=dict(max_iters=9), param_scheduler=dict(type='StepLR', convert_to_iter_based=True))[1] == []


def test_schedules_of_several_optimizers_are_named():
    errors, _ = found(param_scheduler=dict(a=[dict(type='StepLR', begin=3, end=2)], b=dict(type='StepLR')))
    assert len(errors) == 1 and errors[0].startswith('param_scheduler.a[0]: begin=3')


@pytest.mark.parametrize('hook, words', [
    (dict(type='PipelineSwitchHook', switch_epoch=12, switch_pipeline=[]), 'the pipeline is never switched'),
    (dict(type='mmdet.PipelineSwitchHook', switch_epoch=90, switch_pipeline=[]), 'PipelineSwitchHook.switch_epoch=90'),
    (dict(type='YOLOXModeSwitchHook'), 'YOLOXModeSwitchHook.num_last_epochs=15, the training has 12 epochs: images are never mixed'),
    (dict(type='EMAHook', begin_epoch=12), 'EMAHook.begin_epoch=12, the training has 12 epochs: nothing is averaged')])
def test_a_hook_that_comes_too_late_is_told(hook, words):
    errors, notes = found(hooks=(hook,))
    assert errors == [] and len(notes) == 1 and words in notes[0]


def test_an_evaluation_that_never_comes_is_told():
    assert 'val_begin=20 lies beyond the 12 epochs' in found(loop=dict(max_epochs=12, val_begin=20))[1][0]
    assert found(loop=dict(max_epochs=12, val_interval=50)) == ([], [])              # there is one at the end


def test_nothing_is_said_of_shipped_recipes():
    for name in ('rtmdet/rtmdet_nano_bccd', 'detr/detr_r50_8xb2-150e_coco', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco',
                 'yolox/yolox_s_8xb8-300e_coco', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco'):
        problems = schedule_problems(load_config(config_folder() / f'{name}.py'), 1000)
        assert (problems.errors, problems.notes) == ([], []), name
