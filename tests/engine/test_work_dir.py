"""A work dir that holds a run is not written over unless that is asked for, and a finished run says that it is."""
from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from detkit.engine import evaluate, train
from detkit.engine.checkpoint import load_checkpoint
from detkit.registry import ConfigError

SHORT = dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1), param_scheduler=None)
BEST = dict(checkpoint=dict(type='CheckpointHook', save_best='toy/accuracy', max_keep_ckpts=1))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix != '.py')


def log_of(runner: Any) -> str:
    return next(Path(runner.log_dir).glob('*.log')).read_text()


def test_a_new_run_over_another_is_refused_with_the_three_choices(toy: Any, tmp_path: Path) -> None:
    cfg = toy(tmp_path / 'w', **SHORT)
    train(cfg)
    (tmp_path / 'w/epoch_1.pth').touch()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'w').rglob('*')}
    with pytest.raises(ConfigError, match=r'w holds a run already \(newest checkpoint epoch_1\.pth\)\. Choose: --resume to go on with it, '
                                          r'--fresh to remove its 2 checkpoint files and start again, or another folder by --work-dir\.'):
        train(cfg)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'w').rglob('*')} == before


def test_fresh_removes_the_old_run_and_nothing_else(toy: Any, tmp_path: Path) -> None:
    folder = tmp_path / 'w'
    train(toy(folder, default_hooks=BEST))
    torch.save({}, folder / 'best_coco_bbox_mAP_epoch_9.pth')      # of an even older run
    torch.save({}, folder / 'interrupted.pth')
    for mine in ('best_pretrained.pth', 'epoch_1_of_mine.pth', 'notes.txt'):
        (folder / mine).write_text('mine')
    runner = train(toy(folder, default_hooks=BEST, **SHORT), fresh=True)
    assert names(folder) == ['best_pretrained.pth', 'best_toy_accuracy_epoch_1.pth', 'epoch_1.pth', 'epoch_1_of_mine.pth',
                             'last_checkpoint', 'notes.txt']
    assert 'removed 5 files of an earlier run' in log_of(runner) and 'best_coco_bbox_mAP_epoch_9.pth' in log_of(runner)


def test_fresh_with_a_config_that_cannot_be_built_removes_nothing(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path / 'w', **SHORT))
    with pytest.raises(ConfigError):
        train(toy(tmp_path / 'w', train_dataloader=dict(batch_size=4, dataset=dict(type='ToyDate'), sampler=dict(type='DefaultSampler'))),
              fresh=True)
    assert names(tmp_path / 'w') == ['epoch_1.pth', 'last_checkpoint']


def test_fresh_does_not_remove_what_the_run_starts_from(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path / 'w', **SHORT))
    with pytest.raises(ConfigError, match=r'--fresh would remove .*epoch_1\.pth, from which the config starts'):
        train(toy(tmp_path / 'w', load_from=str(tmp_path / 'w/epoch_1.pth')), fresh=True)
    with pytest.raises(ConfigError, match='choose one of them'):
        train(toy(tmp_path / 'w'), fresh=True, resume=True)


def test_checkpoints_in_another_folder_belong_to_the_run(toy: Any, tmp_path: Path) -> None:
    hooks = dict(checkpoint=dict(type='CheckpointHook', out_dir=str(tmp_path / 'large')))
    train(toy(tmp_path / 'w', default_hooks=hooks, **SHORT))
    (tmp_path / 'w/last_checkpoint').unlink()
    with pytest.raises(ConfigError, match=r'holds a run already \(epoch_1\.pth\)'):
        train(toy(tmp_path / 'w', default_hooks=hooks))


def test_resuming_without_a_note_of_the_newest_names_it(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path, **SHORT))
    (tmp_path / 'last_checkpoint').unlink()
    with pytest.raises(ConfigError, match=rf'but no note last_checkpoint .* Name it: --resume {tmp_path}/epoch_1\.pth'):
        train(toy(tmp_path), resume=True)


def test_resuming_another_run_over_one_is_refused(toy: Any, tmp_path: Path) -> None:
    for name in ('a', 'b'):
        train(toy(tmp_path / name, **SHORT))
    with pytest.raises(ConfigError, match='b holds a run already'):
        train(toy(tmp_path / 'b'), resume=tmp_path / 'a/epoch_1.pth')


def test_a_finished_run_says_so_and_gives_its_weights(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path))
    before = (tmp_path / 'epoch_3.pth').stat().st_mtime_ns
    runner = train(toy(tmp_path), resume=True)
    assert f'the run in {tmp_path} is finished: epoch 3 of 3. To train on, raise max_epochs.' in log_of(runner)
    weights = load_checkpoint(tmp_path / 'epoch_3.pth')['state_dict']
    assert all(v.equal(weights[k]) for k, v in runner.model.state_dict().items())
    assert len(runner.message_hub.get_scalar('val/toy/accuracy').data[0]) == 3
    assert (tmp_path / 'epoch_3.pth').stat().st_mtime_ns == before
    assert train(toy(tmp_path, train_cfg=dict(max_epochs=4)), resume=True).epoch == 4


def test_a_run_that_counts_iterations_says_that_it_is_finished(toy: Any, tmp_path: Path) -> None:
    changes = dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=5), param_scheduler=None,
                   default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)))
    train(toy(tmp_path, **changes))
    assert 'is finished: iteration 2 of 2. To train on, raise max_iters.' in log_of(train(toy(tmp_path, **changes), resume=True))


def test_a_last_evaluation_that_was_broken_off_takes_place(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path, **SHORT))
    content = load_checkpoint(tmp_path / 'epoch_1.pth')
    content['message_hub']['runtime_info']['evaluated_iter'] = 0
    torch.save(content, tmp_path / 'epoch_1.pth')
    runner = train(toy(tmp_path, **SHORT), resume=True)
    assert 'val after epoch 1' in log_of(runner)
    assert load_checkpoint(tmp_path / 'epoch_1.pth')['message_hub']['runtime_info']['evaluated_iter'] == 3


def test_the_lock_of_another_host_says_how_to_remove_it(toy: Any, tmp_path: Path) -> None:
    owner = dict(pid=7, host='elsewhere', started='2026-01-02 03:04:05')
    (tmp_path / 'run.lock').write_text(json.dumps(owner))
    with pytest.raises(ConfigError, match=rf'{tmp_path} is in use: process 7 on elsewhere \(since 2026-01-02 03:04:05\) trains there\. '
                                          r'Wait for it to end, or choose another --work-dir; if it has ended already .*, remove .*/run'):
        train(toy(tmp_path, **SHORT))
    (tmp_path / 'run.lock').write_text(json.dumps(dict(owner, host=socket.gethostname())))
    train(toy(tmp_path, **SHORT))
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint']


def test_a_test_beside_a_training_is_not_refused_and_changes_nothing_of_it(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path, **SHORT))
    (tmp_path / 'run.lock').write_text(json.dumps(dict(pid=7, host='elsewhere', started='')))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.is_file()}
    assert evaluate(toy(tmp_path), tmp_path / 'epoch_1.pth').keys() == {'toy/accuracy'}
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.is_file()} == before
