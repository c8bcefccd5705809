"""A run that was stopped and resumed is the run that was not, to the last bit."""
from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook

from detkit.engine import train
from detkit.engine.checkpoint import INTERRUPTED, latest_checkpoint, load_checkpoint
from detkit.engine.interrupt import TrainingInterrupted
from detkit.registry import HOOKS, ConfigError


@HOOKS.register_module(force=True)
class CtrlC(Hook):
    """Sends itself a SIGINT in the middle of iteration ``at`` (of training, or of validation)."""

    def __init__(self, at: int, stage: str = 'train') -> None:
        self.at, self.stage = at, stage

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.stage == 'train' and runner.iter + 1 == self.at:
            signal.raise_signal(signal.SIGINT)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.stage == 'val' and runner.iter == self.at:
            signal.raise_signal(signal.SIGINT)


def interrupted(cfg: Any, at: int, stage: str = 'train', resume: bool = False) -> Any:
    cfg = cfg.copy()
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='CtrlC', at=at, stage=stage)]
    with pytest.raises(TrainingInterrupted) as stop:
        train(cfg, resume=resume)
    assert stop.value.exit_status == 130


def same(a: Path, b: Path) -> None:
    """Weights, averages, optimizer and schedules of two checkpoints are equal to the last bit."""
    first, second = load_checkpoint(a), load_checkpoint(b)
    for part in ('state_dict', 'ema_state_dict'):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(v, second[part][k]) for k, v in first[part].items()), part
    for i, state in first['optimizer']['state'].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(second['optimizer']['state'][i][k])) for k, v in state.items())
    assert [g['lr'] for g in first['optimizer']['param_groups']] == [g['lr'] for g in second['optimizer']['param_groups']]
    assert first['param_schedulers'] == second['param_schedulers']
    assert (first['meta']['epoch'], first['meta']['iter']) == (second['meta']['epoch'], second['meta']['iter'])


@pytest.fixture(scope='module')
def whole(toy: Any, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    train(toy(folder))
    return folder


@pytest.mark.parametrize('at, stage', [(2, 'train'), (3, 'train'), (5, 'train'), (6, 'val')])
def test_a_run_stopped_anywhere_and_resumed_equals_the_whole_run(toy: Any, tmp_path: Path, whole: Path, at: int, stage: str) -> None:
    cfg = toy(tmp_path)
    interrupted(cfg, at, stage)
    assert latest_checkpoint(tmp_path) == tmp_path / INTERRUPTED
    train(cfg, resume='auto')
    same(whole / 'epoch_3.pth', tmp_path / 'epoch_3.pth')
    assert not (tmp_path / INTERRUPTED).exists()          # a later checkpoint made it superfluous


def test_an_evaluation_that_is_broken_off_twice_takes_place(toy: Any, tmp_path: Path, whole: Path) -> None:
    cfg = toy(tmp_path)
    interrupted(cfg, 6, 'val')
    interrupted(cfg, 6, 'val', resume=True)
    runner = train(cfg, resume=True)
    same(whole / 'epoch_3.pth', tmp_path / 'epoch_3.pth')
    assert len(runner.message_hub.get_scalar('val/toy/accuracy').data[0]) == 3


def test_resuming_after_an_epoch_equals_the_whole_run_without_a_seed_in_the_config(toy: Any, tmp_path: Path) -> None:
    cfg = toy(tmp_path / 'a', randomness=dict(seed=None))
    runner = train(cfg)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    cfg.work_dir = str(tmp_path / 'b')
    resumed = train(cfg, resume=tmp_path / 'b/epoch_1.pth')
    assert resumed.seed == runner.seed
    same(tmp_path / 'a/epoch_3.pth', tmp_path / 'b/epoch_3.pth')


def test_iteration_based_runs_resume_exactly_with_workers(toy: Any, tmp_path: Path) -> None:
    changes = dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=7, val_interval=4),
                   param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7)],
                   default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False)))
    loader = dict(batch_size=4, num_workers=1, dataset=dict(type='ToyData'), sampler=dict(type='InfiniteSampler'))
    train(toy(tmp_path / 'a', train_dataloader=loader, **changes))
    cfg = toy(tmp_path / 'b', train_dataloader=loader, **changes)
    interrupted(cfg, 5)
    train(cfg, resume='auto')
    same(tmp_path / 'a/iter_7.pth', tmp_path / 'b/iter_7.pth')


def test_interrupting_waits_for_accumulated_gradients(toy: Any, tmp_path: Path, whole: Path) -> None:
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=2)
    train(toy(tmp_path / 'a', optim_wrapper=wrapper))
    cfg = toy(tmp_path / 'b', optim_wrapper=wrapper)
    interrupted(cfg, 1)
    assert load_checkpoint(tmp_path / 'b' / INTERRUPTED)['meta']['iter'] == 2
    train(cfg, resume='auto')
    same(tmp_path / 'a/epoch_3.pth', tmp_path / 'b/epoch_3.pth')


def test_a_copied_work_dir_goes_on_with_its_own_files(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path / 'a'))
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    shutil.rmtree(tmp_path / 'a')
    assert latest_checkpoint(tmp_path / 'b') == tmp_path / 'b/epoch_3.pth'
    (tmp_path / 'b/last_checkpoint').write_text('/elsewhere/epoch_2.pth')     # as mmengine writes it
    assert latest_checkpoint(tmp_path / 'b') == tmp_path / 'b/epoch_2.pth'
    assert latest_checkpoint(tmp_path) is None


def rates(runner: Any) -> list[float]:
    return list(runner.message_hub.get_scalar('train/lr').data[0])


def test_a_longer_schedule_on_resume_is_the_new_config_s(toy: Any, tmp_path: Path) -> None:
    longer = dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=6),
                  param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
                                   dict(type='CosineAnnealingLR', T_max=6, by_epoch=True, begin=0, end=6)])
    whole = rates(train(toy(tmp_path / 'whole', **longer)))
    train(toy(tmp_path / 'short'))
    runner = train(toy(tmp_path / 'short', **longer), resume='auto')
    assert rates(runner)[9:] == pytest.approx(whole[9:], rel=1e-12)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'param_scheduler[1].T_max: 3 became 6' in log


def test_another_learning_rate_on_resume_is_the_new_config_s(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path))
    cfg = toy(tmp_path, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=4),
              optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.02, weight_decay=0.3)))
    cfg.param_scheduler = None
    runner = train(cfg, resume='auto')
    assert rates(runner)[-1] == 0.02
    assert runner.optim_wrapper.optimizer.param_groups[0]['weight_decay'] == 0.3


def test_resuming_with_another_batch_size_begins_the_next_epoch(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path))
    cfg = toy(tmp_path, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=4))
    cfg.train_dataloader.batch_size = 2
    runner = train(cfg, resume='auto')
    assert (runner.epoch, runner.iter) == (4, 24)


@pytest.mark.parametrize('change, message', [
    (dict(custom_hooks=[]), 'its weights are averages'),
    (dict(model=dict(type='ToyDetector', width=5)), 'does not fit this model'),
    (dict(train_dataloader=dict(batch_size=4, dataset=dict(type='ToyData', classes=('a', 'c')), sampler=dict(type='DefaultSampler'))),
     "only the checkpoint has 'b', only train_dataloader has 'c'"),
    (dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1), paramwise_cfg=dict(norm_decay_mult=0))),
     'optimizer does not fit')])
def test_resuming_something_else_is_one_message(toy: Any, tmp_path: Path, whole: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(toy(tmp_path, **change), resume=whole / 'epoch_1.pth')


def test_a_checkpoint_of_weights_only_cannot_be_resumed(toy: Any, tmp_path: Path, whole: Path) -> None:
    content = load_checkpoint(whole / 'epoch_1.pth')
    del content['optimizer']
    torch.save(content, tmp_path / 'weights.pth')
    with pytest.raises(ConfigError, match='load_from='):
        train(toy(tmp_path), resume=tmp_path / 'weights.pth')


def test_nothing_to_resume_starts_from_the_beginning(toy: Any, tmp_path: Path) -> None:
    runner = train(toy(tmp_path), resume='auto')
    assert runner.epoch == 3
