"""What a config can be wrong about, and what a Runner decides by itself."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detkit.engine import build_runner, evaluate, train
from detkit.engine.checkpoint import load_checkpoint
from detkit.registry import ConfigError


@pytest.mark.parametrize('changes, message', [
    (dict(model=None), "there is no 'model'"),
    (dict(visualiser=dict(type='Visualizer')), "the config has 'visualiser', which nothing reads. Did you mean 'visualizer'"),
    (dict(train_dataloader=None), "there is no 'train_dataloader': training needs train_dataloader, train_cfg, optim_wrapper"),
    (dict(val_evaluator=None), "there is no 'val_evaluator'"),
    (dict(model=dict(type='ToyDetectr')), "model.type: no 'ToyDetectr' in the registry 'model'. Did you mean 'ToyDetector'"),
    (dict(model=dict(type='ToyDetector', classes=3)), "model: ToyDetector takes no argument 'classes'"),
    (dict(model=dict(type='ToyDetector', data_preprocessor=dict(type='X'))), "no 'X'"),
    (dict(custom_hooks=[dict(type='EMAHok')]), "custom_hooks[0].type: no 'EMAHok' in the registry 'hook'. Did you mean 'EMAHook'"),
    (dict(custom_hooks=[dict(type='EMAHook', ema_type='ExpEMA')]), "no 'ExpEMA'"),
    (dict(custom_hooks=[dict(type='EMAHook', ema_type='ExpMomentumEMA', gama=3)]), "takes no argument 'gama'. Did you mean 'gamma'"),
    (dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epoch=3)), 'train_cfg: EpochBasedTrainLoop'),
    (dict(optim_wrapper=dict(type='OptimWraper', optimizer=dict(type='SGD', lr=1.))), "'OptimWraper'"),
    (dict(optim_wrapper=dict(optimizer=dict(type='SDG', lr=1.))), "optim_wrapper.optimizer.type: no 'SDG'"),
    (dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=1., moment=0.9))),
     "optim_wrapper.optimizer: SGD takes no argument 'moment'. Did you mean 'momentum'"),
    (dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.), paramwise_cfg=dict(norm_decay=0))), "Did you mean 'norm_decay_mult'"),
    (dict(param_scheduler=[dict(type='LinearLRR')]), "param_scheduler[0].type: no 'LinearLRR'"),
    (dict(param_scheduler=[dict(type='LinearLR', start=3)]), 'param_scheduler[0]: LinearLR'),
    (dict(val_evaluator=dict(type='CocoMetrics')), "val_evaluator.type: no 'CocoMetrics'"),
    (dict(auto_scale_lr=dict(enable=True)), "no 'base_batch_size'"),
    (dict(randomness=dict(seed=1), launcher='pytorch'), 'torchrun'),
])
def test_what_cannot_be_built_is_named_with_its_key(toy: Any, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(toy(tmp_path, **changes))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def loader(**changes: Any) -> dict:
    return dict(dict(batch_size=4, dataset=dict(type='ToyData'), sampler=dict(type='DefaultSampler')), **changes)


@pytest.mark.parametrize('changes, message', [
    (dict(dataset=dict(type='ToyDat')), "train_dataloader.dataset.type: no 'ToyDat' in the registry 'dataset'"),
    (dict(dataset=dict(type='ToyData', lenght=3)), "train_dataloader.dataset: ToyData takes no argument 'lenght'. Did you mean 'length'"),
    (dict(dataset=dict(type='ToyData', length=3), drop_last=True),
     'train_dataloader: yields no batch: 3 images, batch_size=4, drop_last=True'),
    (dict(sampler=dict(type='DefaultSampler', shufle=True)),
     "train_dataloader.sampler: DefaultSampler takes no argument 'shufle'. Did you mean 'shuffle'"),
    (dict(batch_sampler=dict(type='AspectBatchSampler')), "train_dataloader.batch_sampler.type: no 'AspectBatchSampler'"),
    (dict(collate_fn=dict(type='pseudo_colate')), "no 'pseudo_colate'"),
    (dict(num_worker=3), "train_dataloader: a data loader has no 'num_worker'. Did you mean 'num_workers'"),
])
def test_a_data_set_that_cannot_be_built_is_named_with_its_key(toy: Any, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(toy(tmp_path, train_dataloader=loader(**changes)))
    assert message in str(error.value) and not str(error.value).startswith('train_cfg')


def test_a_data_loader_without_sampler_says_so(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_dataloader: has no 'sampler'"):
        train(toy(tmp_path, train_dataloader=dict(batch_size=4, dataset=dict(type='ToyData'))))


def test_equal_seeds_give_equal_runs_and_others_do_not(toy: Any, tmp_path: Path) -> None:
    losses = [train(toy(tmp_path / str(i)), seed=seed).message_hub.get_scalar('train/loss').data[0]
              for i, seed in enumerate((7, 7, 8))]
    assert np.array_equal(losses[0], losses[1]) and not np.array_equal(losses[0], losses[2])


def test_the_seed_of_a_run_without_one_is_in_its_log(toy: Any, tmp_path: Path) -> None:
    runner = train(toy(tmp_path, randomness=dict(seed=None)))
    assert f'seed {runner.seed}' in next(Path(runner.log_dir).glob('*.log')).read_text()
    assert load_checkpoint(tmp_path / 'epoch_3.pth')['meta']['seed'] == runner.seed


def test_deterministic_is_a_switch(toy: Any, tmp_path: Path) -> None:
    try:
        runner = train(toy(tmp_path, randomness=dict(seed=1, deterministic=True)))
        assert runner.deterministic and torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_learning_rate_scales_with_the_batch(toy: Any, tmp_path: Path) -> None:
    cfg = toy(tmp_path, auto_scale_lr=dict(enable=False, base_batch_size=16))
    cfg.param_scheduler = None
    assert train(cfg, auto_scale_lr=True).message_hub.get_scalar('train/lr').current() == pytest.approx(0.01 * 4 / 16)


def test_the_end_of_the_schedule_is_scaled_where_the_rate_would_rise(toy: Any, tmp_path: Path) -> None:
    cosine = dict(type='CosineAnnealingLR', eta_min=0.004, by_epoch=True, begin=0, end=3)
    cfg = toy(tmp_path, auto_scale_lr=dict(enable=True, base_batch_size=16), param_scheduler=[cosine])
    runner = train(cfg)                                    # 4 images a step: a quarter of 0.01, falling to a quarter of 0.004
    assert runner.param_schedulers[0].eta_min == pytest.approx(0.001)
    assert runner.optim_wrapper.get_lr()['lr'][0] == pytest.approx(0.001 + (0.0025 - 0.001) * 0.25)       # in the last of 3 epochs
    assert cfg.param_scheduler[0].eta_min == 0.004
    falling = dict(cosine, eta_min=0.002)                  # lies below the scaled rate: MMDetection's numbers
    kept = train(toy(tmp_path / 'kept', auto_scale_lr=dict(enable=True, base_batch_size=16), param_scheduler=[falling]))
    assert kept.param_schedulers[0].eta_min == 0.002
    plain = train(toy(tmp_path / 'plain', param_scheduler=[cosine]))
    assert plain.param_schedulers[0].eta_min == 0.004


def test_sync_bn_becomes_bn_without_cuda(toy: Any, tmp_path: Path) -> None:
    runner = train(toy(tmp_path, model=dict(type='ToyDetector', norm='SyncBN')))
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in runner.model.modules())
    assert 'SyncBN became BN' in next(Path(runner.log_dir).glob('*.log')).read_text()


def test_two_runs_in_one_process_keep_their_logs_apart(toy: Any, tmp_path: Path) -> None:
    visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
    first = train(toy(tmp_path / 'a', visualizer=visualizer))
    second = train(toy(tmp_path / 'b', visualizer=visualizer))
    for runner, folder in ((first, tmp_path / 'a'), (second, tmp_path / 'b')):
        assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 9
        scalars = list(folder.rglob('scalars.json')) + list(folder.rglob('vis_data/*.json'))
        assert scalars and folder in scalars[0].parents


def test_the_config_given_is_not_changed_and_is_dumped_readable(toy: Any, tmp_path: Path) -> None:
    from detkit.config import load_config
    cfg = toy(tmp_path)
    text = cfg.pretty_text
    runner = build_runner(cfg)
    assert cfg.pretty_text == text
    dumped = next(tmp_path.glob('*.py'))
    assert load_config(dumped).train_cfg == cfg.train_cfg and runner.cfg.default_scope == 'detkit'


def test_the_work_dir_is_named_for_the_config(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = toy(tmp_path)
    cfg.pop('work_dir')
    (tmp_path / 'my_recipe.py').write_text(cfg.pretty_text)
    runner = train(tmp_path / 'my_recipe.py')
    assert (tmp_path / 'work_dirs/my_recipe/epoch_3.pth').is_file() and Path(runner.work_dir) == tmp_path / 'work_dirs/my_recipe'


def test_tensorboard_missing_is_one_line(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    for name in ('tensorboard', 'tensorboardX', 'torch.utils.tensorboard'):
        monkeypatch.setitem(sys.modules, name, None)
    visualizer = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')], name='v')
    with pytest.raises(ConfigError, match='tensorboard'):
        train(toy(tmp_path, visualizer=visualizer))


def test_a_logger_that_cannot_start_is_one_line(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.visualization import LocalVisBackend

    def refuse(self: Any) -> None:
        raise RuntimeError('No API key configured.\nLog in first.')
    monkeypatch.setattr(LocalVisBackend, '_init_env', refuse)
    visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name='v')
    with pytest.raises(ConfigError, match=r'^visualizer.vis_backends: LocalVisBackend cannot start: No API key configured. Log in first.$'):
        train(toy(tmp_path, visualizer=visualizer))


def test_a_test_needs_all_weights_and_no_training_data(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path))
    cfg = toy(tmp_path / 'test', train_dataloader=None, train_cfg=None, optim_wrapper=None, param_scheduler=None)
    assert 0 <= evaluate(cfg, tmp_path / 'epoch_3.pth')['toy/accuracy'] <= 1
    with pytest.raises(ConfigError, match='does not fit this model'):
        evaluate(toy(tmp_path / 'test', model=dict(type='ToyDetector', width=5)), tmp_path / 'epoch_3.pth')
    with pytest.raises(ConfigError, match="there is no 'test_dataloader'"):
        evaluate(toy(tmp_path / 'test', test_dataloader=None, test_cfg=None, test_evaluator=None), tmp_path / 'epoch_3.pth')


def test_the_log_line_is_for_people(toy: Any, tmp_path: Path) -> None:
    runner = train(toy(tmp_path))
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    line = next(line for line in log.splitlines() if 'epoch 2/3' in line)
    for part in ('2/3', 'lr ', 'loss ', '(cls ', 'size ', 's/it', 'eta 0:00:', 'GB'):
        assert part in line
    assert 'val after epoch 3:  toy/accuracy' in log


def test_fine_tuning_takes_what_fits_and_says_in_one_line_what_did_not(toy: Any, tmp_path: Path) -> None:
    train(toy(tmp_path / 'a'))
    data = loader(dataset=dict(type='ToyData', classes=('a', 'b', 'c')))
    more = dict(model=dict(type='ToyDetector', num_classes=3), train_dataloader=data)
    runner = train(toy(tmp_path / 'b', load_from=str(tmp_path / 'a/epoch_3.pth'), val_dataloader=None, val_cfg=None, val_evaluator=None,
                       train_cfg=dict(max_epochs=1), **more))
    lines = [line for line in next(Path(runner.log_dir).glob('*.log')).read_text().splitlines() if 'had another shape' in line]
    assert len(lines) == 1 and '6 of the 8 tensors' in lines[0] and 'head.weight, (2, 4) there, (3, 4) here' in lines[0]


def test_the_checkpoint_of_a_run_is_readable_by_plain_torch(toy: Any, tmp_path: Path) -> None:
    scheduler = [dict(type='OneCycleLR', eta_max=0.1, total_steps=9, by_epoch=False), dict(type='MultiStepMomentum', milestones=[1])]
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    train(toy(tmp_path, param_scheduler=scheduler, optim_wrapper=wrapper))
    content = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)
    assert content['meta']['dataset_meta'] == dict(classes=('a', 'b')) and content['meta']['epoch'] == 3
    assert set(content) == {'meta', 'state_dict', 'ema_state_dict', 'message_hub', 'optimizer', 'param_schedulers'}
