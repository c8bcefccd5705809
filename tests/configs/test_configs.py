"""Every shipped recipe is whole: it loads, its model builds, and where MMDetection has it the state-dict keys are the same."""
from __future__ import annotations

import ast
import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from detkit.compat import digest, known_keys
from detkit.config import load_config
from detkit.data.compose import Compose
from detkit.registry import DATASETS, METRICS, MODELS, TRANSFORMS, register_all_modules

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.relative_to(ROOT / 'configs').as_posix() for path in (ROOT / 'configs').rglob('*.py')
                 if '_base_' not in path.parts)
DIGESTS = known_keys()


@pytest.fixture(autouse=True)
def our_scope():
    register_all_modules(init_default_scope=True)


@cache
def config(name: str) -> Config:
    """The resolved recipe; shared by the tests, which leave it as it is."""
    return load_config(ROOT / 'configs' / name)


def with_pipeline(dataset: dict) -> dict:
    """The data set that has one: this, or the one that it wraps."""
    return dataset if 'pipeline' in dataset else with_pipeline(dataset.dataset)


def build_on_meta(name: str) -> torch.nn.Module:
    with torch.device('meta'):
        return MODELS.build(copy.deepcopy(config(name).model))


@pytest.mark.parametrize('name', CONFIGS)
def test_a_recipe_loads_and_its_model_builds(name: str):
    model = build_on_meta(name)
    assert sum(p.numel() for p in model.parameters()) > 100_000
    assert {p.device.type for p in model.parameters()} == {'meta'}


@pytest.mark.parametrize('name', CONFIGS)
def test_what_a_recipe_names_exists(name: str):
    cfg = config(name)
    for part in ('train', 'val', 'test'):
        dataset = with_pipeline(cfg[f'{part}_dataloader'].dataset)
        assert DATASETS.get(dataset.type) is not None
        assert len(Compose(dataset.pipeline).transforms) == len(dataset.pipeline)
    for part in ('val', 'test'):
        metrics = cfg[f'{part}_evaluator']
        assert all(METRICS.get(metric.type) is not None for metric in (metrics if isinstance(metrics, list) else [metrics]))
    assert [step.type for step in with_pipeline(cfg.train_dataloader.dataset).pipeline][-1] == 'PackDetInputs'
    assert all(step.type in TRANSFORMS for step in cfg.test_dataloader.dataset.pipeline)


@pytest.mark.parametrize('name', sorted(set(CONFIGS) & set(DIGESTS)))
def test_state_dict_keys_are_mmdetections(name: str):
    assert digest(build_on_meta(name)) == {key: DIGESTS[name][key] for key in ('n', 'params', 'sha')}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_recipe_opens_with_its_paper_and_the_command(name: str):
    text = ast.get_docstring(ast.parse((ROOT / 'configs' / name).read_text()))
    assert text, 'no docstring'
    assert f'configs/{name}' in text
