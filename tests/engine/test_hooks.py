"""What happens around training: checks, averages, checkpoints kept, pipelines switched."""
from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from detkit.engine import evaluate, train
from detkit.engine.checkpoint import load_checkpoint
from detkit.engine.hooks.checkpoint import CheckpointHook
from detkit.engine.hooks.early_stopping import EarlyStoppingHook, better_when
from detkit.engine.hooks.ema import ExpMomentumEMA
from detkit.engine.interrupt import TrainingFailed
from detkit.registry import TRANSFORMS, ConfigError


# --------------------------------------------------------------------------------------------------------------- EMA
def test_the_average_follows_fast_at_first_and_slowly_later() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0)
    ema = ExpMomentumEMA(model, momentum=0.1, gamma=10)
    ema.update_parameters(model)                                           # the first update copies
    model.weight.data.fill_(1)
    ema.update_parameters(model)                                           # steps = 1
    first = 0.9 * math.exp(-2 / 10) + 0.1
    assert ema.module.weight.item() == pytest.approx(first)
    ema.update_parameters(model)
    second = 0.9 * math.exp(-3 / 10) + 0.1
    assert ema.module.weight.item() == pytest.approx(first + (1 - first) * second)
    with pytest.raises(ConfigError, match='gamma=0'):
        ExpMomentumEMA(model, gamma=0)


def test_the_averages_are_what_is_evaluated_and_saved(toy: Any, tmp_path: Path) -> None:
    runner = train(toy(tmp_path))
    saved = load_checkpoint(tmp_path / 'epoch_3.pth')
    ema = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    assert not ema.swapped
    assert torch.equal(saved['state_dict']['head.weight'], ema.ema_model.module.head.weight)
    assert torch.equal(saved['ema_state_dict']['module.head.weight'], runner.model.head.weight)
    assert not torch.equal(runner.model.head.weight, ema.ema_model.module.head.weight)
    measured = runner.message_hub.get_scalar('val/toy/accuracy').current()
    assert evaluate(toy(tmp_path), tmp_path / 'epoch_3.pth')['toy/accuracy'] == measured


# ----------------------------------------------------------------------------------------------------------- classes
@pytest.mark.parametrize('classes, message', [
    (('a', 'b', 'c'), r'model\.num_classes=2, but the data of train_dataloader has 3 classes \(a, b, c\)'),
    ('cell', r"is the string 'cell'.*\('cell',\)")])
def test_another_number_of_classes_stops_before_training(toy: Any, tmp_path: Path, classes: Any, message: str) -> None:
    cfg = toy(tmp_path)
    cfg.train_dataloader.dataset.classes = classes
    with pytest.raises(ConfigError, match=message):
        train(cfg)
    assert not list(tmp_path.glob('*.pth'))


def test_the_test_set_is_checked_too(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path))
    cfg = toy(tmp_path)
    cfg.test_dataloader.dataset.classes = ('a',)
    with pytest.raises(ConfigError, match='test_dataloader has 1 classes'):
        evaluate(cfg, tmp_path / 'epoch_3.pth')


def test_a_test_in_the_same_process_keeps_the_labels_of_the_training(toy: Any, tmp_path: Path) -> None:
    cfg = toy(tmp_path)
    cfg.test_dataloader.dataset.classes = ('b', 'a')
    runner = train(cfg)
    with pytest.raises(ConfigError, match="label 0 is 'a' in train_dataloader and 'b' in test_dataloader"):
        runner.test()


# -------------------------------------------------------------------------------------------------------------- best
@pytest.mark.parametrize('rule, values, best', [
    ('greater', (-1, 0.2, -1, 0.1), 0.2), ('greater', (-1, float('nan'), -1), None), ('less', (0.5, -1, 0.1), -1)])
def test_an_undefined_precision_is_never_the_best(rule: str, values: tuple, best: float | None) -> None:
    hook = CheckpointHook(save_best='coco/bbox_mAP', rule=rule)
    hub: dict[str, Any] = {}
    lines: list[str] = []
    runner = SimpleNamespace(message_hub=SimpleNamespace(get_info=hub.get), logger=SimpleNamespace(warning=lines.append))
    for value in values:
        if hook.improves(runner, {'coco/bbox_mAP': value}, 'coco/bbox_mAP', rule):
            hub['best_score'] = value
    assert hub.get('best_score') == best
    assert len(lines) == (values.count(-1) if rule == 'greater' else 0)
    assert all('there was no object to measure against' in line for line in lines)


# --------------------------------------------------------------------------------------------------------------- nan
def bad(toy: Any, tmp_path: Path, indices: tuple, **changes: Any) -> Any:
    cfg = toy(tmp_path, **changes)
    cfg.train_dataloader.dataset.bad = indices
    cfg.train_dataloader.sampler.shuffle = False
    return cfg


def test_a_loss_that_is_nan_names_term_iteration_and_images(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed) as error:
        train(bad(toy, tmp_path, (5,)))
    text = str(error.value)
    for part in ('loss_cls = nan', 'epoch 1, iteration 2', 'picture_4.jpg, picture_5.jpg', 'optim_wrapper.clip_grad', 'tolerance'):
        assert part in text
    assert error.value.exit_status == 1 and not list(tmp_path.glob('*.pth'))


def test_tolerated_batches_leave_no_trace_in_the_weights(toy: Any, tmp_path: Path) -> None:
    hook = dict(type='CheckInvalidLossHook', tolerance=1)
    cfg = bad(toy, tmp_path, (5,), custom_hooks=[hook], model=dict(type='ToyDetector', norm='BN'))
    runner = train(cfg)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert [math.isnan(v) for v in losses] == [False, True, False] * 3
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


def test_more_bad_batches_in_a_row_than_tolerated_stop_the_run(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match='iteration 3'):
        train(bad(toy, tmp_path, (5, 9), custom_hooks=[dict(type='CheckInvalidLossHook', tolerance=1)]))


def test_tolerated_batches_keep_the_count_of_accumulated_steps(toy: Any, tmp_path: Path) -> None:
    wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1), accumulative_counts=3, loss_scale=8)
    runner = train(bad(toy, tmp_path, (9,), custom_hooks=[dict(type='CheckInvalidLossHook', tolerance=1)], optim_wrapper=wrapper))
    assert runner.optim_wrapper.inner_count == 9
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


# ------------------------------------------------------------------------------------------------------- checkpoints
def test_the_newest_and_the_best_are_kept(toy: Any, tmp_path: Path) -> None:
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='auto', rule='greater'))
    runner = train(toy(tmp_path, default_hooks=hooks))
    scores = list(runner.message_hub.get_scalar('val/toy/accuracy').data[0])
    best = scores.index(max(scores)) + 1
    names = sorted(p.name for p in tmp_path.glob('*.pth'))
    assert names == sorted(['epoch_2.pth', 'epoch_3.pth', f'best_toy_accuracy_epoch_{best}.pth'])
    assert (tmp_path / 'last_checkpoint').read_text() == 'epoch_3.pth'
    assert 'optimizer' not in load_checkpoint(tmp_path / f'best_toy_accuracy_epoch_{best}.pth')


def test_a_better_score_after_a_resume_replaces_the_best(toy: Any, tmp_path: Path) -> None:
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='toy/accuracy', rule='less'))
    train(toy(tmp_path, default_hooks=hooks))
    content = load_checkpoint(tmp_path / 'epoch_3.pth')
    content['message_hub']['runtime_info']['best_score'] = 2.
    torch.save(content, tmp_path / 'epoch_3.pth')
    train(toy(tmp_path, default_hooks=hooks, train_cfg=dict(max_epochs=4)), resume='auto')
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['best_toy_accuracy_epoch_4.pth', 'epoch_4.pth']


def test_a_score_that_is_not_measured_says_what_is(toy: Any, tmp_path: Path) -> None:
    hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='toy/acuracy', rule='greater'))
    with pytest.raises(ConfigError, match=r"no 'toy/acuracy'\. Did you mean 'toy/accuracy'"):
        train(toy(tmp_path, default_hooks=hooks))


def test_published_copies_hold_the_named_keys(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path, default_hooks=dict(checkpoint=dict(type='CheckpointHook', published_keys=['state_dict', 'meta']))))
    assert set(torch.load(tmp_path / 'epoch_3-published.pth')) == {'state_dict', 'meta'}


# ---------------------------------------------------------------------------------------------------------- pipeline
@TRANSFORMS.register_module(force=True)
class Brighten:
    random = False

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.by


@pytest.mark.parametrize('workers', [0, 1])
def test_the_pipeline_changes_at_its_epoch_with_persistent_workers_too(toy: Any, tmp_path: Path, workers: int,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(hook: Any, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        seen.append(round(float(torch.stack(data_batch['inputs']).mean())))

    from detkit.engine.hooks.replay import ReplayHook
    monkeypatch.setattr(ReplayHook, 'after_train_iter', look, raising=False)
    cfg = toy(tmp_path, custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=2, switch_pipeline=[dict(type='Brighten', by=100.)])])
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=bool(workers))
    train(cfg)
    assert [s > 50 for s in seen] == [False] * 6 + [True] * 3


# ----------------------------------------------------------------------------------------------------- early stopping
class Scores:
    """Runs an EarlyStoppingHook over evaluations; ``seen`` evaluations take place before it stops."""

    def __init__(self, hook: EarlyStoppingHook, scores: list[float]) -> None:
        runner = SimpleNamespace(training=True, message_hub=SimpleNamespace(update_info=lambda *args: None, runtime_info={}),
                                 train_loop=SimpleNamespace(stop_training=False), logger=logging.getLogger('scores'))
        hook.before_train(runner)
        self.seen = 0
        for score in scores:
            hook.after_val_epoch(runner, {hook.monitor: score})
            self.seen += 1
            if runner.train_loop.stop_training:
                return


@pytest.mark.parametrize('options, scores, seen', [
    ({}, [0.01 * i for i in range(40)], 40),                                   # rises by a point: mmengine's default stops after 6
    ({}, [0.0002 * i for i in range(40)], 40),                                 # slowly, but by more than 0.001 in ten evaluations
    ({}, [0.3] + [0.3005] * 40, 11), (dict(patience=2, min_delta=0.), [0.1, 0.2, 0.2, 0.2, 0.3], 4),
    (dict(monitor='val/loss', patience=2), [3., 2., 2., 2.], 4), (dict(rule='less', patience=1), [1., 2.], 2),
    (dict(stopping_threshold=0.5), [0.4, 0.6, 0.7], 2), ({}, [0.1, float('nan'), 0.2], 2),
    (dict(check_finite=False), [0.1, float('nan')], 2),
    (dict(monitor='crowd_human/mMR', patience=1), [0.5, 0.4, 0.45], 3)])
def test_early_stopping_fits_scores_between_0_and_1(options: dict, scores: list, seen: int) -> None:
    assert Scores(EarlyStoppingHook(**{'monitor': 'coco/bbox_mAP', **options}), scores).seen == seen


@pytest.mark.parametrize('scores, hinted', [([0., 0., 0.], True), ([0.2, 0.2, 0.2], False)])
def test_early_stopping_before_the_metric_rises_says_what_to_do(scores: list, hinted: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger='scores'):
        Scores(EarlyStoppingHook('coco/bbox_mAP', patience=2), scores)
    assert f'did not improve on {scores[0]} by more than 0.001 in 2 evaluations' in caplog.text
    assert ('it had not begun to rise: raise patience, or validate later by train_cfg.val_begin' in caplog.text) is hinted


def test_early_stopping_keeps_its_count_over_a_resume_and_says_when_it_is_finished(toy: Any, tmp_path: Path) -> None:
    def cfg(patience: int) -> Any:
        cfg = toy(tmp_path, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=9), param_scheduler=None)
        cfg.custom_hooks.append(dict(type='EarlyStoppingHook', monitor='toy/accuracy', min_delta=2., patience=patience))
        return cfg
    assert train(cfg(2)).epoch == 3                                            # the first is the best, two do not improve on it
    log = next(Path(train(cfg(2), resume=True).log_dir).glob('*.log')).read_text()
    assert 'is finished: it stopped early after epoch 3 of 9, because toy/accuracy did not improve on' in log
    assert "in 2 evaluations. To train on, raise EarlyStoppingHook's patience or remove the hook." in log
    assert train(cfg(4), resume=True).epoch == 5                               # goes on counting from 2


@pytest.mark.parametrize('options, message', [
    (dict(monitor='toy/acuracy'), r"EarlyStoppingHook: the evaluation has no 'toy/acuracy'\. Did you mean 'toy/accuracy'\? It has: toy"),
    (dict(monitor='toy/accuracy', rule='greatr'), r"rule='greatr' should be 'greater' or 'less'\. Did you mean 'greater'"),
    (dict(monitor='toy/accuracy', patience=0), 'patience: is 0; it should be at least 1')])
def test_early_stopping_checks_what_it_is_given(toy: Any, tmp_path: Path, options: dict, message: str) -> None:
    cfg = toy(tmp_path)
    cfg.custom_hooks.append(dict(type='EarlyStoppingHook', **options))
    with pytest.raises(ConfigError, match=message):
        train(cfg)


def test_early_stopping_that_is_not_strict_warns(toy: Any, tmp_path: Path) -> None:
    cfg = toy(tmp_path)
    cfg.custom_hooks.append(dict(type='EarlyStoppingHook', monitor='other', strict=False))
    assert "the evaluation has no 'other'" in next(Path(train(cfg).log_dir).glob('*.log')).read_text()


@pytest.mark.parametrize('metric, rule', [('coco/bbox_mAP', 'greater'), ('coco_panoptic/PQ', 'greater'), ('openimages/AP50', 'greater'),
                                          ('coco/AR@100', 'greater'), ('crowd_human/mMR', 'less'), ('loss_cls', 'less'), ('loss', 'less')])
def test_the_name_of_a_metric_tells_what_is_better(metric: str, rule: str) -> None:
    assert better_when(metric) == rule
    assert CheckpointHook(save_best=metric).rules == [rule]


def test_without_an_interval_the_newest_epoch_is_kept(toy: Any, tmp_path: Path) -> None:
    hook = CheckpointHook()
    assert (hook.interval, hook.max_keep_ckpts) == (1, 1)
    assert CheckpointHook(by_epoch=False).interval == -1 and CheckpointHook(interval=2).max_keep_ckpts == -1
