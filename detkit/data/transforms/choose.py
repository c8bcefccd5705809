"""Transforms that contain pipelines."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.transforms.base import BaseTransform
from detkit.registry import TRANSFORMS, ConfigError


def run_all(transforms: Sequence[Any], results: dict[str, Any] | None) -> dict[str, Any] | None:
    for transform in transforms:
        if results is None:
            return None
        results = transform(results)
    return results


@TRANSFORMS.register_module()
class RandomChoice(BaseTransform):
    """Apply one of several pipelines, drawn by ``prob`` (default: equal probabilities)."""

    random = True

    def __init__(self, transforms: Sequence[Sequence[dict] | dict], prob: Sequence[float] | None = None) -> None:
        if prob is not None and (len(prob) != len(transforms) or abs(sum(prob) - 1) > 1e-6):
            raise ConfigError(f'RandomChoice prob={prob} must give one probability for each of {len(transforms)} pipelines, 1 in all.')
        self.pipelines = [[TRANSFORMS.build(t) for t in ([p] if isinstance(p, dict) else p)] for p in transforms]
        self.prob = None if prob is None else list(prob)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return run_all(self.pipelines[int(results['rng'].choice(len(self.pipelines), p=self.prob))], results)


@TRANSFORMS.register_module()
class RandomApply(BaseTransform):
    """Apply a pipeline with probability ``prob``."""

    random = True

    def __init__(self, transforms: Sequence[dict] | dict, prob: float = 0.5) -> None:
        self.transforms = [TRANSFORMS.build(t) for t in ([transforms] if isinstance(transforms, dict) else transforms)]
        self.prob = prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return run_all(self.transforms, results) if results['rng'].random() < self.prob else results


@TRANSFORMS.register_module()
class RandomOrder(BaseTransform):
    """Apply all transforms or pipelines in random order."""

    random = True

    def __init__(self, transforms: Sequence[Sequence[dict] | dict]) -> None:
        self.pipelines = [[TRANSFORMS.build(t) for t in ([p] if isinstance(p, dict) else p)] for p in transforms]

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return run_all([t for i in results['rng'].permutation(len(self.pipelines)) for t in self.pipelines[i]], results)


@TRANSFORMS.register_module()
class MultiBranch(BaseTransform):
    """Return several packed views of one image, one per branch (semi-supervised training).

    Args:
        branch_field: names of all branches, including branches that other datasets fill.
        **branches: name -> the pipeline of the branch, including its PackDetInputs.

    Returns ``inputs`` and ``data_samples`` as dicts by branch, None for branches not filled here; None if a pipeline returns None.

    Raises:
        ConfigError: a branch is not in ``branch_field``.
    """

    random = True

    def __init__(self, branch_field: Sequence[str], **branches: Sequence[dict] | dict) -> None:
        unknown = [b for b in branches if b not in branch_field]
        if unknown:
            raise ConfigError(f"MultiBranch has a pipeline for '{unknown[0]}', which is not in branch_field={list(branch_field)}.")
        self.branch_field = list(branch_field)
        self.pipelines = {name: [TRANSFORMS.build(t) for t in ([p] if isinstance(p, dict) else p)] for name, p in branches.items()}

    def transform(self, results: dict[str, Any]) -> dict[str, dict] | None:
        views = {name: run_all(p, {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in results.items()})
                 for name, p in self.pipelines.items()}
        if any(view is None for view in views.values()):
            return None
        return {key: {name: views.get(name, {}).get(key) for name in self.branch_field} for key in ('inputs', 'data_samples')}


@TRANSFORMS.register_module()
class TestTimeAug(BaseTransform):
    """Return one packed sample per combination of one option from each list: ``[[resize_a, resize_b], [flip, no_flip], [pack]]``.

    Returns ``inputs`` and ``data_samples`` as lists with one entry per combination.
    """

    random = True
    __test__ = False   # pytest collects classes whose name starts with Test

    def __init__(self, transforms: Sequence[Sequence[dict]]) -> None:
        self.pipelines: list[list] = [[]]
        for alternatives in transforms:
            self.pipelines = [[*p, step] for p in self.pipelines for step in map(TRANSFORMS.build, alternatives)]

    def transform(self, results: dict[str, Any]) -> dict[str, list]:
        views = [run_all(p, {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in results.items()}) for p in self.pipelines]
        return {key: [view[key] for view in views] for key in views[0]}
