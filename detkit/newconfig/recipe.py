"""The recipe that a new config starts from."""
from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from detkit.config import config_folder, find_config, load_config
from detkit.config_files import FileTree
from detkit.newconfig.numbers import Numbers
from detkit.registry import ConfigError


@dataclass(frozen=True)
class Recipe:
    """A config used as the base of a new config."""

    base: str                      # value of _base_ in the new file
    cfg: Config
    variables: frozenset[str]      # variables that a file based on it may set; see detkit.recipe_variables

    @property
    def with_masks(self) -> bool:
        return any('segm' in metrics_of(m) for m in evaluators(self.cfg))

    @property
    def pretrained(self) -> bool:
        init = self.cfg.model.get('backbone', {}).get('init_cfg') or {}
        return bool(self.cfg.get('load_from')) or 'checkpoint' in init

    @property
    def batch_size(self) -> int:
        return int(self.cfg.train_dataloader.get('batch_size') or 1)

    @property
    def counts_iterations(self) -> bool:
        return 'max_iters' in (self.cfg.get('train_cfg') or {})

    @property
    def tests_at_another_size(self) -> bool:
        """Whether the recipe uses a size other than ``image_size`` for validation and test."""
        return self.has('test_size') and tuple(self.cfg.test_size) != tuple(self.cfg.image_size)

    def kept(self, numbers: Numbers) -> Numbers:
        """Return ``numbers`` with the recipe's epochs if it has no variable for them."""
        epochs = (self.cfg.get('train_cfg') or {}).get('max_epochs')
        return numbers if self.has('max_epochs') or not epochs else replace(numbers, max_epochs=int(epochs))

    def has(self, name: str) -> bool:
        return name in self.variables


def evaluators(cfg: Config) -> list[dict]:
    given = cfg.get('val_evaluator') or []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def metrics_of(evaluator: dict) -> list[str]:
    metric = evaluator.get('metric', [])
    return [metric] if isinstance(metric, str) else list(metric)


def read_recipe(name: str, out: Path) -> Recipe:
    """Read the recipe ``name``: a shipped one, or a config file.

    Raises:
        ConfigError: the config does not exist (the message has the nearest name), or new-config cannot use it (with the reason).
    """
    path, cfg = find_config(name), load_config(name)
    if path == out.resolve():
        raise ConfigError(f'--out {out} is the file of --model. Choose another --out.')
    kinds = {str(dataset.get('type')) for dataset in (innermost(cfg, s) for s in ('train', 'val')) if dataset}
    if any('Panoptic' in kind for kind in kinds):
        raise ConfigError(f'--model {name}: learns panoptic maps, which need a map of segments for each image; COCO, YOLO, VOC and CSV '
                          f'files of objects have none. Choose a model of boxes or masks.')
    for key in ('model', 'train_dataloader', 'val_dataloader'):
        if not isinstance(cfg.get(key), dict):
            raise ConfigError(f"--model {name}: has no '{key}'; name a whole recipe, not a part of one.")
    if innermost(cfg, 'train') is None:
        raise ConfigError(f'--model {name}: its training data are a list of data sets, which this command does not fill in.')
    tree = FileTree(path)
    folder = config_folder()
    base = f'detkit::{path.relative_to(folder).as_posix()}' if folder in path.parents else os.path.relpath(path, out.parent)
    return Recipe(base, cfg, frozenset(tree.variables([path, *tree.below(path)])))


def innermost(cfg: Config, split: str) -> dict | None:
    """Return the dataset config that reads the annotations, without wrappers; None if there are several."""
    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    while isinstance(dataset, dict) and 'dataset' in dataset:
        dataset = dataset['dataset']
    return None if not isinstance(dataset, dict) or 'datasets' in dataset else dataset


def depth(cfg: Config, split: str) -> int:
    """Return the number of wrappers of the dataset of ``split``."""
    dataset, count = cfg[f'{split}_dataloader']['dataset'], 0
    while 'dataset' in dataset:
        dataset, count = dataset['dataset'], count + 1
    return count


def default_model(on_gpu: bool) -> str:
    return 'rtmdet_tiny_8xb32-300e_coco' if on_gpu else 'rtmdet_nano_small-data'
