"""An argument is honoured or refused, everywhere: one fault put into each place of every recipe and of every kind of detector.

A mutation is an unknown key in a dict, a value of a wrong type, a number out of range or an unknown ``type``. Each has to raise one
ConfigError that holds the full key and, for names, the nearest known one. Parts that are not touched are built once and shared.
"""
from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kinds import DETECTORS
from mmengine.config import Config

from detkit.config import load_config
from detkit.engine.loader_settings import loader_problems
from detkit.engine.part_checks import part_problems
from detkit.engine.preflight import Problems
from detkit.engine.schedule_checks import schedule_problems
from detkit.registry import (
    DATASETS,
    METRICS,
    MODELS,
    TASK_UTILS,
    TRANSFORMS,
    ConfigError,
    join_keys,
    register_all_modules,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.relative_to(ROOT / 'configs').as_posix() for path in (ROOT / 'configs').rglob('*.py')
                 if '_base_' not in path.parts)
LOADERS, EVALUATORS = ('train_dataloader', 'val_dataloader', 'test_dataloader'), ('val_evaluator', 'test_evaluator')
RUN_PARTS = ('optim_wrapper', 'param_scheduler', 'default_hooks', 'custom_hooks', 'train_cfg', 'val_cfg', 'test_cfg')
UNKNOWN_KEY, WRONG_TYPE, OUT_OF_RANGE, UNKNOWN_TYPE = 'unknown key', 'wrong type', 'out of range', 'unknown type'

# Dicts in which any key is legal, by their own key, each with the reason; below metainfo, any value is as well.
FREE_DICTS = {
    'metainfo': 'a data set may know anything about itself',
    'custom_keys': 'its keys are names of parameters of the model, and each of its values holds options of any optimizer',
    'default_hooks': 'a user gives hooks names',
}
# Arguments that may have any number, each with the reason; a NaN is none.
FREE_NUMBERS = {
    'mean': 'of images, which a loader may give in any unit',
    'target_means': 'a shift in either direction',
    'border': 'a negative one of RandomAffine makes the image smaller',
    'offset': 'of SinePositionalEncoding, in either direction',
}


@dataclass(frozen=True)
class Mutation:
    keys: tuple[str | int, ...]        # to the value that is set
    kind: str
    value: Any
    nearest: str = ''                  # the name that the message has to offer

    @property
    def text(self) -> str:
        """The full key, as a message has it; of an unknown key the dict's."""
        keys = self.keys[:-1] if self.kind == UNKNOWN_KEY else self.keys
        return join_keys(f'[{key}]' if isinstance(key, int) else key for key in keys)


def mutations(part: Any, keys: tuple = ()) -> Iterator[Mutation]:
    if isinstance(part, dict):
        name = next((key for key in part if key != 'type'), '')
        if keys[-1] not in FREE_DICTS and 'custom_keys' not in keys:
            yield Mutation((*keys, f'{name or "no_such_key"}x'), UNKNOWN_KEY, copy.deepcopy(part.get(name, 1)), name)
        for key, value in part.items():
            if key == 'type' and isinstance(value, str):
                yield Mutation((*keys, 'type'), UNKNOWN_TYPE, f'{value}x', value.rpartition('.')[2])
            elif key != 'metainfo':
                yield from mutations(value, (*keys, key))
    elif isinstance(part, (list, tuple)):
        for i, value in enumerate(part):
            yield from mutations(value, (*keys, i))
    elif isinstance(part, (bool, int, float, str)):
        yield from scalar_mutations(part, keys)


def scalar_mutations(value: Any, keys: tuple) -> Iterator[Mutation]:
    yield Mutation(keys, WRONG_TYPE, 7 if isinstance(value, str) else 'x' if isinstance(value, bool) else str(value))
    if isinstance(value, (bool, str)):
        return
    yield Mutation(keys, WRONG_TYPE, True)
    name = next(key for key in reversed(keys) if isinstance(key, str))
    if isinstance(value, float):
        yield Mutation(keys, OUT_OF_RANGE, math.nan)
    if name not in FREE_NUMBERS:
        yield Mutation(keys, OUT_OF_RANGE, -10**7 if isinstance(value, int) else -1e7)


# --------------------------------------------------------------------------------------------------------------- building
@contextmanager
def shared_parts() -> Iterator[None]:
    """Inside, a registry builds equal configs once."""
    built: dict[tuple, Any] = {}

    def sharing(build: Callable) -> Callable:
        def once(cfg: Any, registry: Any, **context: Any) -> Any:
            key = (registry.name, repr(cfg), repr({k: v if isinstance(v, (dict, list, int, str, type, type(None))) else id(v)
                                                   for k, v in context.items()}))
            if key not in built:
                built[key] = build(cfg, registry=registry, **context)
            return built[key]
        return once

    registries = (MODELS, TASK_UTILS, TRANSFORMS)
    before = [registry.build_func for registry in registries]
    for registry in registries:
        registry.build_func = sharing(registry.build_func)
    try:
        yield
    finally:
        for registry, build in zip(registries, before):
            registry.build_func = build


def errors_of(cfg: Config, section: str) -> list[ValueError]:
    """What the checks before a run say about ``section``."""
    problems = Problems(cfg)
    part = cfg._cfg_dict[section]
    if section == 'model':
        with problems.collecting('model'), torch.device('meta'):
            MODELS.build(part)
    elif section in LOADERS:
        for error in loader_problems(part):
            problems.add(error, section)
        with problems.collecting(section, 'dataset'):
            DATASETS.build(part['dataset'])
        for error in part_problems(Config({section: {k: v for k, v in part.items() if k != 'dataset'}}), [section.split('_')[0]]):
            problems.add(error)
    elif section in EVALUATORS:
        for one in part if isinstance(part, list) else [part]:
            with problems.collecting(section):
                METRICS.build(one)
    else:
        rest = Config({k: v for k, v in cfg._cfg_dict.items() if k in RUN_PARTS})
        for error in (*schedule_problems(rest).errors, *part_problems(rest, ['train', 'val', 'test'])):
            problems.add(error)
    return problems.errors


def plain(part: Any) -> Any:
    """A copy in which equal parts are not one object."""
    if isinstance(part, dict):
        return {key: plain(value) for key, value in part.items()}
    return [plain(value) for value in part] if isinstance(part, (list, tuple)) else part


def lazy(dataset: dict) -> dict:
    """Without annotations being read, and without a folder that would have to exist."""
    inner = dict(dataset=lazy(dataset['dataset'])) if 'dataset' in dataset else dict(data_root='')
    return {**dataset, **inner, 'lazy_init': True}


def prepared(cfg: dict) -> Config:
    cfg = {key: value for key, value in plain(cfg).items() if key in ('model', *LOADERS, *EVALUATORS, *RUN_PARTS)}
    for key in LOADERS:
        if cfg.get(key):
            cfg[key]['dataset'] = lazy(cfg[key]['dataset'])
    for key in EVALUATORS:
        for one in cfg[key] if isinstance(cfg.get(key), list) else [cfg[key]] if cfg.get(key) else []:
            one.pop('ann_file', None)
            one.pop('seg_prefix', None)
    return Config(cfg)


def outcome(cfg: Config, mutation: Mutation) -> str:
    """'' when the mutation is refused as it should be."""
    holder: Any = cfg._cfg_dict
    for key in mutation.keys[:-1]:
        holder = holder[key]
    key = mutation.keys[-1]
    before = holder[key] if isinstance(holder, list) or key in holder else None
    was_there = isinstance(holder, list) or key in holder
    holder[key] = mutation.value
    try:
        errors = errors_of(cfg, mutation.keys[0])
    except Exception as error:
        return f'crash: {type(error).__name__}: {error}'
    finally:
        if was_there:
            holder[key] = before
        else:
            del holder[key]
    if not errors:
        return 'accepted'
    if len(errors) > 1:
        return f'{len(errors)} errors: {" || ".join(map(str, errors))}'
    text = str(errors[0])
    if not isinstance(errors[0], ConfigError) or mutation.text not in text:
        return f'no full key: {text}'
    return f'no nearest name: {text}' if mutation.nearest not in text else ''


def signature(cfg: Config, mutation: Mutation) -> tuple:
    """Equal for mutations that ask the same of the same classes."""
    types, part = [], cfg._cfg_dict
    for key in mutation.keys[:-1]:
        part = part[key]
        if isinstance(part, dict):
            types.append(str(part.get('type', key)))
    return (*types, mutation.keys[0], str(mutation.keys[-1] if isinstance(mutation.keys[-1], str) else mutation.keys[-2:]),
            mutation.kind, type(mutation.value))


def faults(cfgs: dict[str, dict], every: bool) -> tuple[Counter, list[str]]:
    """How many mutations of each kind were tried, and those that were not refused as they should be."""
    tried, seen, found = Counter(), set(), []
    for name, described in cfgs.items():
        with shared_parts():
            cfg = prepared(described)
            for section in cfg._cfg_dict:
                assert [str(error) for error in errors_of(cfg, section)] == [], (name, section)
                for mutation in mutations(cfg._cfg_dict[section], (section,)):
                    known = signature(cfg, mutation)
                    if known in seen and not every:
                        continue
                    seen.add(known)
                    tried[mutation.kind] += 1
                    result = outcome(cfg, mutation)
                    if result:
                        found.append(f'{name}: {mutation.text} = {mutation.value!r} ({mutation.kind}): {result}')
    return tried, found


# ------------------------------------------------------------------------------------------------------------- the proof
@pytest.fixture(autouse=True)
def our_scope():
    register_all_modules(init_default_scope=True)


def recipes(names: list[str]) -> dict[str, dict]:
    return {name: load_config(ROOT / 'configs' / name).to_dict() for name in names}


def test_every_fault_in_a_kind_of_detector_is_refused_with_its_full_key():
    tried, found = faults({name: dict(model=cfg) for name, cfg in DETECTORS.items()}, every=False)
    assert found == []
    assert tried.total() > 2500 and min(tried.values()) > 150, tried


def test_every_fault_in_a_recipe_is_refused_with_its_full_key():
    """Each argument of each class once in each place; of equal places in several recipes, the first."""
    tried, found = faults(recipes(CONFIGS), every=False)
    assert found == []
    assert tried.total() > 5000 and min(tried.values()) > 400, tried


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_fault_in_this_recipe_is_refused_with_its_full_key(name: str):
    assert faults(recipes([name]), every=True)[1] == []
