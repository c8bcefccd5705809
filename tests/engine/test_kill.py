"""Runs that are stopped by a signal or killed: what they leave, how they end, and that they go on.

tests/support/kill_moments.py does the same at random moments of real commands.
"""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_moments import Process
from mmengine.hooks import Hook

from detkit.cli import main
from detkit.config import dump_config, load_config
from detkit.data.synthetic import generate
from detkit.engine import checkpoint, train
from detkit.engine.checkpoint import INTERRUPTED, latest_checkpoint, load_checkpoint
from detkit.locks import file_lock
from detkit.registry import DATASETS, HOOKS, TRANSFORMS, ConfigError


@HOOKS.register_module(force=True)
class Signals(Hook):
    """Sends signals to the group of its process, ``pause`` seconds apart: in iteration ``at`` of training, in the second validation, or
    after the last one."""

    def __init__(self, signals: list[int], stage: str = 'train', at: int = 4, pause: float = 0.) -> None:
        self.signals, self.stage, self.at, self.pause = signals, stage, at, pause

    def send(self) -> None:
        for signum in self.signals:
            os.killpg(0, signum)
            time.sleep(self.pause)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.stage == 'train' and runner.iter + 1 == self.at:
            self.send()

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.stage == 'val' and runner.iter == 6 and batch_idx == 1:
            self.send()

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        if self.stage == 'end' and runner.iter == 9:
            self.send()


@HOOKS.register_module(force=True)
class KillWhileSaving(Hook):
    """The process is killed when half of the second epoch's checkpoint is written."""

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        if checkpoint['meta']['epoch'] == 2:
            self.patch()

    def patch(self) -> None:
        def half(content: Any, file: Any) -> None:
            file.write(b'half of it')
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.torch.save = half                 # of this process, which ends here


@DATASETS.register_module(force=True)
class StopsWhileBuilt:
    def __init__(self) -> None:
        os.killpg(0, signal.SIGTERM)


def command(cfg: Any, tmp_path: Path, *hooks: dict, workers: int = 2, **loader: Any) -> list[str]:
    """The arguments that train ``cfg``, with ``hooks``, from a file."""
    cfg = cfg.copy()
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    for name in ('train', 'val'):
        cfg[f'{name}_dataloader'].update(num_workers=workers, persistent_workers=workers > 0, **loader)
    dump_config(cfg, tmp_path / 'recipe.py')
    return ['train', str(tmp_path / 'recipe.py')]


def ended(argv: list[str], tmp_path: Path, expected: int) -> str:
    """What a process says that is expected to end with a status, and to leave no process."""
    process = Process(argv, tmp_path / 'log.txt')
    status = process.wait(60)
    assert status == expected, f'{status}\n{process.text()}'
    process.check_end(status, abs(expected) % 128)
    return process.text()


def same_weights(a: Path, b: Path) -> None:
    first, second = load_checkpoint(a)['state_dict'], load_checkpoint(b)['state_dict']
    assert first.keys() == second.keys() and all(v.equal(second[k]) for k, v in first.items())


@pytest.fixture(autouse=True, scope='module')
def one_thread() -> Any:
    """As in the processes: the last bits hang on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def whole(toy: Any, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    train(toy(folder))
    return folder


@pytest.mark.parametrize('signals, stage, workers', [
    ([signal.SIGTERM, signal.SIGTERM], 'train', 2), ([signal.SIGUSR1], 'val', 1), ([signal.SIGINT, signal.SIGINT], 'train', 1),
    ([signal.SIGHUP], 'val', 0)])
def test_a_signal_to_the_group_leaves_a_checkpoint_and_no_process(toy: Any, tmp_path: Path, whole: Path, signals: list, stage: str,
                                                                  workers: int) -> None:
    cfg = toy(tmp_path / 'w')
    text = ended(command(cfg, tmp_path, dict(type='Signals', signals=signals, stage=stage), workers=workers), tmp_path, 128 + signals[0])
    assert text.count('stopping after this iteration') == 1 and f'detkit: training was stopped by {signals[0].name}; --resume' in text
    assert latest_checkpoint(tmp_path / 'w') == tmp_path / 'w' / INTERRUPTED
    assert load_checkpoint(tmp_path / 'w' / INTERRUPTED)['meta']['iter'] == (4 if stage == 'train' else 6)
    assert not (tmp_path / 'w/run.lock').exists()
    runner = train(cfg, resume=True)
    same_weights(tmp_path / 'w/epoch_3.pth', whole / 'epoch_3.pth')
    assert len(runner.message_hub.get_scalar('val/toy/accuracy').data[0]) == 3        # the validation was broken off, and repeated


@pytest.mark.parametrize('train_cfg', [dict(type='EpochBasedTrainLoop', max_epochs=3),
                                       dict(type='IterBasedTrainLoop', max_iters=9, val_interval=3)])
def test_a_signal_after_the_last_evaluation_lets_the_run_finish(toy: Any, tmp_path: Path, train_cfg: dict) -> None:
    cfg = toy(tmp_path / 'w', train_cfg=train_cfg)
    cfg.default_hooks.checkpoint.by_epoch = 'max_epochs' in train_cfg
    text = ended(command(cfg, tmp_path, dict(type='Signals', signals=[signal.SIGTERM], stage='end', priority='LOWEST')), tmp_path, 0)
    assert not (tmp_path / 'w' / INTERRUPTED).exists() and not (tmp_path / 'w/run.lock').exists()
    assert latest_checkpoint(tmp_path / 'w').name == ('epoch_3.pth' if 'max_epochs' in train_cfg else 'iter_9.pth'), text


def test_a_second_ctrl_c_ends_at_once(toy: Any, tmp_path: Path) -> None:
    hook = dict(type='Signals', signals=[signal.SIGINT] * 2, pause=0.6)
    text = ended(command(toy(tmp_path / 'w'), tmp_path, hook), tmp_path, 130)
    assert text.endswith('detkit: stopped by SIGINT\n')
    assert latest_checkpoint(tmp_path / 'w') == tmp_path / 'w/epoch_1.pth'


def test_a_signal_before_the_first_iteration_is_one_line(toy: Any, tmp_path: Path) -> None:
    text = ended(command(toy(tmp_path / 'w'), tmp_path, dataset=dict(type='StopsWhileBuilt')), tmp_path, 143)
    assert text.endswith('detkit: stopped by SIGTERM\n') and latest_checkpoint(tmp_path / 'w') is None


def test_killed_while_a_checkpoint_is_written(toy: Any, tmp_path: Path, whole: Path) -> None:
    cfg = toy(tmp_path / 'w')
    ended(command(cfg, tmp_path, dict(type='KillWhileSaving')), tmp_path, -signal.SIGKILL)
    assert latest_checkpoint(tmp_path / 'w') == tmp_path / 'w/epoch_1.pth'
    assert len(list((tmp_path / 'w').glob('.epoch_2.*'))) == 1 and (tmp_path / 'w/run.lock').exists()
    runner = train(cfg, resume=True)
    same_weights(tmp_path / 'w/epoch_3.pth', whole / 'epoch_3.pth')
    assert not list((tmp_path / 'w').glob('.epoch_2.*')) and not (tmp_path / 'w/run.lock').exists()
    assert 'removed 1 unfinished files' in next(Path(runner.log_dir).glob('*.log')).read_text()


def test_a_second_training_in_the_folder_is_refused_until_the_first_is_dead(toy: Any, tmp_path: Path) -> None:
    cfg = toy(tmp_path / 'w', train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=100_000), param_scheduler=None)
    process = Process(command(cfg, tmp_path), tmp_path / 'log.txt')
    assert process.wait_for(lambda: 'epoch 2/' in process.text(), 60), process.text()
    for options in (dict(resume=True), dict(fresh=True), dict()):
        with pytest.raises(ConfigError, match=rf'w is in use: process {process.pid} on .* trains there\. Wait for it to end, or choose'):
            train(cfg, **options)
    assert process.stop(signal.SIGKILL, whole_group=False) == -signal.SIGKILL
    with file_lock(tmp_path / 'w/run.lock'):                      # at once, although its workers may not have noticed yet
        pass
    process.check_end(-signal.SIGKILL, signal.SIGKILL)


@TRANSFORMS.register_module(force=True)
class StopsAfter:
    """Lets a number of samples through, then sends a SIGTERM to its process."""

    random = False

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, results: dict) -> dict:
        self.count -= 1
        if not self.count:
            os.kill(os.getpid(), signal.SIGTERM)
        return results


def test_a_signal_while_a_cache_is_built_keeps_what_is_made(tmp_path: Path, capsys: Any) -> None:
    generate(tmp_path / 'shapes', 48, 1, size=48, progress=False)
    cfg = load_config('rtmdet_nano_shapes', {'data_root': f'{tmp_path}/shapes/'})
    steps = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [*steps[:2], dict(type='StopsAfter', count=50), *steps[2:]]     # 8 are tried, 32 are a batch
    dump_config(cfg, tmp_path / 'recipe.py')
    argv = ['cache-dataset', str(tmp_path / 'recipe.py'), '--split', 'train', '--workers', '1']
    assert ended(argv, tmp_path, 143).endswith('detkit: stopped by SIGTERM\n')
    assert main([*argv, '--verify']) == 0
    said = capsys.readouterr().out
    assert '32 records read, 0 damaged' in said and '; 16 made in' in said
