"""A loader's config: what of it reaches the loader."""
from __future__ import annotations

from typing import Any

import pytest

from detkit.engine.loaders import build_loader


@pytest.mark.parametrize('workers', [0, 1])
def test_an_epoch_of_so_many_batches(toy: Any, tmp_path: Any, workers: int):
    cfg = toy(tmp_path).train_dataloader
    cfg.update(num_batch_per_epoch=2, num_workers=workers, sampler=dict(type='DefaultSampler', shuffle=False))
    loader = build_loader(cfg, seed=0)
    names = [sample.img_path for batch in loader for sample in batch['data_samples']]
    assert names == [f'picture_{i}.jpg' for i in range(8)]
    assert loader.dataset.metainfo['classes'] == ('a', 'b')
