"""Batches follow from seed and epoch: not from workers, cache or buffers, nor from where a run was broken off."""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from detkit.config import load_config
from detkit.data.datasets.wrappers import set_dataset_epoch
from detkit.data.synthetic import generate
from detkit.engine import train
from detkit.engine.loaders import build_loader
from detkit.engine.ring import RingLoader
from detkit.registry import MODELS, register_all_modules
from detkit.structures.train_state import TrainState

MIX = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='Resize', scale=(64, 64)),
       dict(type='CachedMosaic', img_scale=(64, 64), max_cached_images=4),
       dict(type='RandomResize', scale=(96, 96), ratio_range=(0.6, 1.4)), dict(type='RandomCrop', crop_size=(64, 64)),
       dict(type='YOLOXHSVRandomAug'), dict(type='RandomFlip', prob=0.5),
       dict(type='CachedMixUp', img_scale=(64, 64), max_cached_images=4), dict(type='PackDetInputs')]


EVERY = [*MIX[:3], dict(type='CopyPaste'), dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3)), dict(type='Expand', ratio_range=(1, 1.5)),
         dict(type='RandomAffine'), dict(type='RandomShift'), dict(type='RandAugment', aug_num=2), dict(type='AutoAugment'),
         dict(type='RandomErasing', n_patches=(1, 3), ratio=(0, 0.2)), dict(type='CutOut', n_holes=2, cutout_shape=(5, 5)),
         dict(type='PhotoMetricDistortion'),
         dict(type='Albu', transforms=[dict(type='HorizontalFlip', p=0.5), dict(type='GaussNoise', p=0.9)]),
         dict(type='RandomOrder', transforms=[dict(type='YOLOXHSVRandomAug'), dict(type='Rotate')]),
         dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs')]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp('replay') / 'shapes', 10, 1, size=64, progress=False)['root']


def hashes(root: Path, epochs: tuple[int, ...] = (0, 1), seed: int = 5, **options: object) -> list[str]:
    """One of every batch's tensors, in the order in which they come."""
    register_all_modules(init_default_scope=True)
    cfg = load_config('rtmdet_nano_shapes', {'data_root': f'{root}/'}).train_dataloader.to_dict()
    cache, pipeline = options.pop('cache', None), options.pop('pipeline', MIX)
    cfg.update(dict(batch_size=3, drop_last=False, num_workers=0, persistent_workers=False), **options)
    cfg['dataset'].update(pipeline=pipeline, cache=cache)
    loader = build_loader(cfg, seed)
    is_uint8 = dict(type='PhotoMetricDistortion') not in pipeline           # which gives float32: shared buffers hold uint8
    assert isinstance(loader, RingLoader) == bool(options.get('num_workers') and options.get('shared_batches', True) and is_uint8)
    found = []
    for epoch in epochs:
        set_dataset_epoch(loader.dataset, epoch)
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            total = hashlib.sha256()
            for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
                gt = sample.gt_instances
                for part in (image.numpy(), gt.bboxes.numpy(), gt.labels.numpy(), gt.masks.to_ndarray()):
                    total.update(repr(part.shape).encode() + part.tobytes())
                total.update(repr((sample.img_id, sample.seed)).encode())
            found.append(total.hexdigest())
    return found


@pytest.mark.parametrize('options', [
    dict(num_workers=1), dict(num_workers=2), dict(num_workers=2, persistent_workers=True), dict(num_workers=2, shared_batches=False),
    dict(cache=dict(type='lmdb', workers=1)), dict(num_workers=2, cache=dict(type='lmdb', workers=1)),
    dict(num_workers=1, cache=dict(type='lmdb', workers=1, store='encoded'))], ids=str)
def test_batches_do_not_depend_on_how_they_are_made(root: Path, options: dict):
    assert hashes(root, **options) == hashes(root)


def test_a_later_epoch_needs_no_earlier_one(root: Path):
    both = hashes(root)
    assert hashes(root, (1,), num_workers=2) == both[len(both) // 2:]
    assert len(set(both)) == len(both) == 8


def test_another_seed_gives_other_batches(root: Path):
    assert not set(hashes(root, seed=6)) & set(hashes(root))


def test_every_random_transform_can_be_replayed(root: Path):
    found = hashes(root, pipeline=EVERY)
    assert hashes(root, pipeline=EVERY, num_workers=2) == found
    assert hashes(root, pipeline=EVERY, num_workers=1, cache=dict(type='lmdb', workers=1)) == found
    assert len(set(found)) == len(found)


# ------------------------------------------------------------------------------------------------- the epoch, in the model
def test_modules_that_ask_are_given_the_state_of_the_training(toy: Any, tmp_path: Path):
    told, states = [], []

    class Asks(nn.Module):
        train_state = TrainState()

        def set_epoch(self, epoch: int) -> None:                       # MMDetection's form
            told.append(epoch)

        def forward(self) -> None:
            states.append(self.train_state)

    register_asking_detector(Asks)

    def run(**options: Any) -> list[TrainState]:
        states.clear()
        cfg = toy(tmp_path / 'run')
        cfg.model.type = 'AskingDetector'
        train(cfg, seed=7, **options)
        return list(states)
    whole = run()
    assert told == [0, 1, 2] and {(s.max_epochs, s.max_iters, s.seed) for s in whole} == {(3, 9, 7)}
    assert [(s.epoch, s.iteration) for s in whole] == [(i // 3, i) for i in range(9)]
    resumed = run(resume=tmp_path / 'run' / 'epoch_1.pth')
    assert resumed == whole[3:] and Asks().train_state == TrainState()


def register_asking_detector(part: type[nn.Module]) -> None:
    @MODELS.register_module(force=True)
    class AskingDetector(MODELS.get('ToyDetector')):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            self.part = part()

        def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
            if mode == 'loss':
                self.part()
            return super().forward(inputs, data_samples, mode)
