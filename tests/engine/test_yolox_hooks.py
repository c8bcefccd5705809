"""YOLOX's last epochs: nothing is mixed and an L1 loss is added; norm statistics of all processes are one before an evaluation."""
from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.config import Config
from torch import nn

from detkit.config import load_config
from detkit.data.synthetic import CLASSES, generate
from detkit.engine import evaluate, train
from detkit.engine.hooks.yolox import SyncNormHook, YOLOXModeSwitchHook
from detkit.registry import ConfigError


class Mixing:
    names, skipped = ['Mosaic', 'RandomAffine', 'PackDetInputs'], None

    def update_skip_type_keys(self, keys: list[str]) -> None:
        self.skipped = keys


class Head(nn.Module):
    use_l1 = False


def runner_of(dataset: Any, head: nn.Module | None, max_epochs: int = 20) -> Any:
    return SimpleNamespace(epoch=0, max_epochs=max_epochs, model=SimpleNamespace(bbox_head=head), logger=logging.getLogger('test'),
                           train_dataloader=SimpleNamespace(dataset=dataset))


# -------------------------------------------------------------------------------------------------------- mode switch
@pytest.mark.parametrize(('last', 'switched_at'), [(15, 4), (0, 19), (30, 0)])
def test_the_switch_comes_an_epoch_before_the_last_ones(last: int, switched_at: int):
    data, head = Mixing(), Head()
    hook, runner = YOLOXModeSwitchHook(num_last_epochs=last), runner_of(data, head)
    hook.before_train(runner)
    for runner.epoch in range(20):
        hook.before_train_epoch(runner)
        assert head.use_l1 == (data.skipped is not None) == (runner.epoch >= switched_at)


def test_only_what_the_pipeline_has_is_left_out():
    data, wrapped = Mixing(), SimpleNamespace(dataset=None)
    wrapped.dataset = data
    hook, runner = YOLOXModeSwitchHook(num_last_epochs=30), runner_of(wrapped, Head())
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert data.skipped == ['Mosaic', 'RandomAffine']


def test_a_second_run_begins_with_mixed_images_again():
    hook, head = YOLOXModeSwitchHook(num_last_epochs=30), Head()
    hook.before_train(runner_of(Mixing(), head))
    hook.before_train_epoch(runner_of(Mixing(), head))
    hook.before_train(runner_of(Mixing(), head))
    assert head.use_l1 is False and hook.done is False


@pytest.mark.parametrize(('data', 'head', 'said'), [
    (SimpleNamespace(), Head(), 'transforms of a MultiImageMixDataset, and train_dataloader.dataset is none'),
    (Mixing(), nn.Identity(), "Identity has no 'use_l1'"), (Mixing(), None, "NoneType has no 'use_l1'")])
def test_what_cannot_be_switched_is_named(data: Any, head: nn.Module | None, said: str):
    with pytest.raises(ConfigError, match=said):
        YOLOXModeSwitchHook().before_train(runner_of(data, head))


@pytest.fixture(scope='module')
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """YOLOX-nano's recipe, narrowed, on eight drawn images, three epochs, the last two of them plain."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    generate(folder, num_train=8, num_val=4, size=64, max_objects=3, progress=False)
    data = dict(metainfo=dict(classes=CLASSES), data_root=str(folder) + '/', data_prefix=dict(img='images/'))
    cfg = load_config('yolox_nano_8xb8-300e_coco', {
        'model.data_preprocessor.batch_augments': [dict(type='BatchSyncRandomResize', random_size_range=(64, 128), interval=1)],
        'model.backbone': dict(widen_factor=0.125), 'model.neck': dict(in_channels=[32, 64, 128], out_channels=16),
        'model.bbox_head': dict(in_channels=16, feat_channels=16, num_classes=len(CLASSES)),
        'train_dataloader': dict(batch_size=4, num_workers=1, dataset=dict(dataset=dict(**data, ann_file='annotations/train.json'))),
        'val_dataloader': dict(batch_size=2, num_workers=0, dataset=dict(**data, ann_file='annotations/val.json')),
        'test_dataloader': dict(batch_size=2, num_workers=0, dataset=dict(**data, ann_file='annotations/val.json')),
        'val_evaluator.ann_file': str(folder / 'annotations/val.json'), 'test_evaluator.ann_file': str(folder / 'annotations/val.json'),
        'train_cfg': dict(max_epochs=3, val_interval=3), 'param_scheduler': [], 'randomness': dict(seed=1),
        'default_hooks.checkpoint.interval': 1})
    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline):
        for step in pipeline:
            step.update({key: value for key, value in dict(img_scale=(64, 64), scale=(64, 64), border=(-32, -32)).items() if key in step})
    cfg.custom_hooks[0].num_last_epochs = 1
    return cfg


def test_a_run_switches_and_one_that_is_resumed_after_the_switch_stays_switched(recipe: Config, tmp_path: Path):
    runner = train(recipe, work_dir=tmp_path / 'whole')
    scalars = runner.message_hub.log_scalars
    losses, added = scalars['train/loss'].data[0], scalars['train/loss_l1'].data[0]
    assert (len(losses), len(added)) == (6, 4) and all(torch.isfinite(torch.tensor([*losses, *added])))
    dataset = runner.train_dataloader.dataset
    assert [n for n, skipped in zip(dataset.names, dataset._skipped) if skipped] == ['Mosaic', 'RandomAffine']
    again = train(recipe, work_dir=tmp_path / 'resumed', resume=tmp_path / 'whole/epoch_2.pth')
    assert again.message_hub.log_scalars['train/loss_l1'].data[0][-2:] == pytest.approx(list(added[-2:]), rel=1e-5)
    assert 0 <= evaluate(recipe, tmp_path / 'whole/epoch_3.pth', work_dir=tmp_path / 'test')['coco/bbox_mAP'] <= 1


# ---------------------------------------------------------------------------------------------------------- sync norm
def process(rank: int, store: str, results: Any) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.BatchNorm2d(1))
    model[0].running_mean.fill_(float(rank))
    model[2].running_var.fill_(3. + 2 * rank)
    model[0].num_batches_tracked.fill_(7)
    SyncNormHook().before_val_epoch(SimpleNamespace(model=model))
    results[rank] = {k: v.tolist() for k, v in model.state_dict().items()}
    torch.distributed.destroy_process_group()


def test_statistics_of_two_processes_become_their_mean(tmp_path: Path):
    with mp.get_context('spawn').Manager() as manager:
        results = manager.dict()
        mp.spawn(process, (str(tmp_path / 'store'), results), nprocs=2)
        first, second = results[0], results[1]
    assert first == second
    assert (first['0.running_mean'], first['0.running_var'], first['2.running_var']) == ([.5, .5], [1., 1.], [4.])
    assert first['0.num_batches_tracked'] == 7


def test_one_process_alone_keeps_its_statistics():
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(2.)
    SyncNormHook().before_val_epoch(SimpleNamespace(model=norm))
    assert norm.running_mean.item() == 2
