"""A loop that goes on in the middle sees the batches that the whole run would have seen there, whatever its loader is like."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from batch_hashes import Runner, batch_hashes

from detkit.data.synthetic import generate
from detkit.engine.loaders import build_loader, stop_workers
from detkit.engine.loops import EpochBasedTrainLoop
from detkit.engine.ring import RingLoader
from detkit.registry import ConfigError, register_all_modules

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='Resize', scale=(32, 32)),
            dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
MOSAIC = [dict(type='Mosaic', img_scale=(32, 32)), dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
EPOCHS, STEPS = 3, 9          # of a whole run of either loop; 3 or 4 batches are an epoch

SHUFFLED, ENDLESS = dict(type='DefaultSampler', shuffle=True), dict(type='InfiniteSampler', shuffle=True)
ORDERS = {
    'epochs': dict(sampler=SHUFFLED),
    'epochs, drop_last': dict(sampler=SHUFFLED, drop_last=True),
    'epochs, aspect ratio': dict(sampler=SHUFFLED, batch_sampler=dict(type='AspectRatioBatchSampler')),
    'epochs, aspect ratio, drop_last': dict(sampler=SHUFFLED, batch_sampler=dict(type='AspectRatioBatchSampler', drop_last=True)),
    'epochs, class aware': dict(sampler=dict(type='ClassAwareSampler')),
    'epochs, num_batch_per_epoch': dict(sampler=SHUFFLED, num_batch_per_epoch=3),
    'epochs, mosaic': dict(sampler=SHUFFLED, mosaic=True),
    'iterations': dict(sampler=SHUFFLED),
    'iterations, endless': dict(sampler=ENDLESS),
    'iterations, endless, aspect ratio': dict(sampler=ENDLESS, batch_sampler=dict(type='AspectRatioBatchSampler')),
    'iterations, endless, mosaic': dict(sampler=ENDLESS, mosaic=True)}
WORKERS = {
    '0': dict(num_workers=0, persistent_workers=True), '1': dict(num_workers=1), '2': dict(num_workers=2, prefetch_factor=3),
    '2 persistent': dict(num_workers=2, persistent_workers=True), '1 plain': dict(num_workers=1, shared_batches=False),
    '2 persistent plain': dict(num_workers=2, persistent_workers=True, shared_batches=False)}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp('loops') / 'shapes', 11, 1, size=48, progress=False)['root']


def loader_of(root: Path, order: str, workers: str) -> Any:
    register_all_modules(init_default_scope=True)
    options = dict(ORDERS[order])
    data = dict(type='CocoDataset', ann_file='annotations/train.json', data_root=f'{root}/', data_prefix=dict(img='images/'),
                metainfo=dict(classes=('circle', 'square', 'triangle', 'star')), pipeline=PIPELINE)
    if options.pop('mosaic', False):
        data = dict(type='MultiImageMixDataset', dataset=dict(data, pipeline=PIPELINE[:3]), pipeline=MOSAIC)
    return build_loader(dict(batch_size=3, dataset=data, **options, **WORKERS[workers]), seed=4)


def hashes(root: Path, order: str, workers: str, start: int = 0) -> list[str]:
    """A hash of each batch from iteration ``start`` on."""
    total = dict(epochs=EPOCHS) if order.startswith('epochs') else dict(iterations=STEPS)
    return batch_hashes(loader_of(root, order, workers), start, **total)


def check(root: Path, order: str, workers: str, starts: tuple[int, ...]) -> None:
    whole = hashes(root, order, '0')
    assert len(set(whole)) == len(whole) >= STEPS
    for start in starts:
        assert hashes(root, order, workers, start) == whole[start:], start


@pytest.mark.parametrize('order', ORDERS)
def test_every_order_goes_on_where_it_stopped(root: Path, order: str) -> None:
    check(root, order, '2 persistent', (4,))


@pytest.mark.parametrize('workers', WORKERS)
@pytest.mark.parametrize('order', ['epochs', 'iterations, endless'])
def test_every_kind_of_loader_goes_on_where_it_stopped(root: Path, order: str, workers: str) -> None:
    check(root, order, workers, (1,))


def test_the_resumed_loader_is_the_loader(root: Path) -> None:
    loader = loader_of(root, 'epochs, aspect ratio', '2 persistent')
    loop = EpochBasedTrainLoop(Runner(loader), loader, max_epochs=1)
    loop.skip, loop.run_iter, loop.runner.loop = 1, lambda *args: None, loop
    loop.run()
    assert loop.dataloader is loader and isinstance(loader, RingLoader) and loader.persistent_workers and len(loader) == 4
    assert loader.batch_sampler.batch_size == 3 and len(loader._iterator._workers) == 2
    stop_workers(loader)


def test_epochs_of_an_endless_sampler_are_refused(root: Path) -> None:
    loader = loader_of(root, 'iterations, endless', '0')
    with pytest.raises(ConfigError, match=r"an epoch of InfiniteSampler never ends\. Use dict\(type='DefaultSampler'"):
        EpochBasedTrainLoop(Runner(loader), loader, max_epochs=1)
