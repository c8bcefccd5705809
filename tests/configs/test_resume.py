"""Every recipe that stands in configs/ goes on in the middle of an epoch with the batches that the whole run would have seen."""
from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_hashes import batch_hashes
from panoptic_set import CLASSES, write_panoptic

from detkit.config import load_config
from detkit.data.synthetic import generate
from detkit.engine.loaders import build_loader
from detkit.registry import register_all_modules

ROOT = Path(__file__).resolve().parents[2]


def distinct_loaders() -> dict[str, list[str]]:
    """The recipes by what their training loader does, whatever its data: a recipe's name, and those that load as it does."""
    groups: dict[str, list[str]] = {}
    for path in sorted((ROOT / 'configs').rglob('*.py')):
        if '_base_' not in path.parts:
            loader = load_config(path).train_dataloader.to_dict()
            for dataset in leaves(loader['dataset']):
                for key in ('data_root', 'ann_file', 'data_prefix', 'metainfo', 'seg_prefix'):
                    dataset.pop(key, None)
            groups.setdefault(json.dumps(loader, sort_keys=True, default=str), []).append(path.stem)
    return {names[0]: names for names in groups.values()}


def leaves(dataset: dict) -> list[dict]:
    """The datasets that read files, inside their wrappers."""
    return leaves(dataset['dataset']) if 'dataset' in dataset else [dataset]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = generate(tmp_path_factory.mktemp('resume') / 'shapes', 7, 1, size=96, progress=False)['root']
    return dict(data_root=f'{root}/', ann_file='annotations/train.json', data_prefix=dict(img='images/'),
                metainfo=dict(classes=('circle', 'square', 'triangle', 'star')))


@pytest.fixture(scope='module')
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> dict:
    ids = np.full((80, 96), 3)
    ids[:40], ids[20:60, 10:40], ids[30:70, 50:90] = 4, 1, 2
    segments = {i: dict(category_id=category) for i, category in zip((1, 2, 3, 4), (5, 9, 90, 200))}
    path = write_panoptic(tmp_path_factory.mktemp('resume_panoptic'), [(np.roll(ids, 3 * n, 1), segments) for n in range(7)])
    return dict(data_root=f'{path.parent}/', ann_file='panoptic.json', data_prefix=dict(img='images/', seg='panoptic/'), metainfo=CLASSES)


def loader_of(name: str, data: dict, **changes: Any) -> Any:
    register_all_modules(init_default_scope=True)
    cfg = copy.deepcopy(load_config(name).train_dataloader.to_dict())
    cfg.update(batch_size=2, **changes)
    for dataset in leaves(cfg['dataset']):
        dataset.update(data)
    return build_loader(cfg, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize('name', distinct_loaders())
def test_a_recipe_goes_on_where_it_stopped(name: str, shapes: dict, panoptic: dict) -> None:
    cfg = load_config(name)
    data = panoptic if 'Panoptic' in leaves(cfg.train_dataloader.dataset)[0]['type'] else shapes
    total = dict(iterations=6) if cfg.train_cfg.type == 'IterBasedTrainLoop' else dict(epochs=2)
    whole = batch_hashes(loader_of(name, data, num_workers=0, persistent_workers=False), **total)
    assert len(set(whole)) == len(whole) >= 6
    assert batch_hashes(loader_of(name, data), 1, **total) == whole[1:]        # with the recipe's own workers
