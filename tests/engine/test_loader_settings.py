"""Settings of data loaders: unknown keys, values of another kind, and loaders without a batch."""
from __future__ import annotations

import inspect
from typing import Any

import pytest
from torch.utils.data import DataLoader

from detkit.config import config_folder, load_config
from detkit.engine.loader_settings import SETTINGS, check_loader, loader_problems, no_batch
from detkit.registry import ConfigError


def loader(**changes: Any) -> dict:
    return dict(dict(dataset=dict(type='X'), sampler=dict(type='DefaultSampler'), batch_size=2), **changes)


@pytest.mark.parametrize('changes, message', [
    (dict(batchsize=4), "a data loader has no 'batchsize'. Did you mean 'batch_size'"),
    (dict(worker=4), "a data loader has no 'worker'"),
    (dict(shuffle=True), "It belongs to the sampler: sampler=dict(type='DefaultSampler', shuffle=...)"),
    (dict(samples_per_gpu=2), 'It is written batch_size now'), (dict(workers_per_gpu=2), 'It is written num_workers now'),
    (dict(batch_size='four'), "batch_size: is 'four'; it should be a whole number, 1 or more"),
    (dict(batch_size=0), 'batch_size: is 0;'), (dict(batch_size=2.), 'batch_size: is 2.0;'),
    (dict(batch_size=True), 'batch_size: is True;'),
    (dict(batch_size=None), 'batch_size: is None;'), (dict(batch_size=-4), 'batch_size: is -4;'),
    (dict(num_workers=-1), 'num_workers: is -1; it should be a whole number, 0 or more'),
    (dict(num_workers='2'), "num_workers: is '2';"), (dict(persistent_workers='yes'), "persistent_workers: is 'yes'; it should be True or"),
    (dict(drop_last=2), 'drop_last: is 2; it should be True or False'), (dict(prefetch_factor=0), 'prefetch_factor: is 0;'),
    (dict(prefetch_factor='2'), "prefetch_factor: is '2';"), (dict(timeout=-1), 'timeout: is -1; it should be a number of seconds'),
    (dict(pin_memory='cuda'), "pin_memory: is 'cuda';"), (dict(collate_fn='pseudo_collate'), 'collate_fn: is'),
    (dict(sampler='DefaultSampler'), 'sampler: is'), (dict(dataset=None), 'dataset: is None; it should be a dict with a type'),
    (dict(multiprocessing_context='thread'), "multiprocessing_context: is 'thread'; it should be 'fork', 'spawn' or 'forkserver'")])
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(ConfigError) as error:
        check_loader(loader(**changes))
    assert message in str(error.value)


def test_all_of_them_are_found_and_what_torch_takes_is_known():
    assert len(list(loader_problems(dict(batch_size='x', workers=2)))) == 4           # no data set and no sampler either
    assert set(inspect.signature(DataLoader).parameters) - {'shuffle'} <= set(SETTINGS)
    check_loader(loader(num_workers=0, persistent_workers=True, prefetch_factor=2, pin_memory=True, drop_last=1, timeout=0,
                        collate_fn=dict(type='pseudo_collate'), batch_sampler=None))
    check_loader({k: v for k, v in loader(batch_sampler=dict(type='X')).items() if k != 'batch_size'})


def test_shipped_recipes_have_known_settings():
    for name in ('rtmdet/rtmdet_nano_bccd', 'detr/detr_r50_8xb2-150e_coco', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco',
                 'yolox/yolox_s_8xb8-300e_coco'):
        cfg = load_config(config_folder() / f'{name}.py')
        for split in ('train', 'val', 'test'):
            assert list(loader_problems(cfg[f'{split}_dataloader'])) == []


def test_the_message_for_a_loader_without_a_batch_says_which_setting_helps():
    assert no_batch(22, 64, True) == ('yields no batch: 22 images, batch_size=64, drop_last=True: the only batch is not full and is '
                                      'dropped. Set its batch_size to 22 or less, or drop_last=False.')
    assert 'batch_size to 11 or less' in no_batch(22, 64, True, 2) and 'for 2 processes' in no_batch(22, 64, True, 2)
    assert 'there are no images. Look at ann_file' in no_batch(0, 2, False)
