"""A pipeline: a sequence of transforms, each with its own random numbers."""
from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from detkit.registry import TRANSFORMS

DECODED_KEPT = 40   # images that a worker caches for mixing transforms without max_cached_images


class Compose:
    """Apply transforms in sequence.

    Before each transform, ``results['rng']`` is set to a generator keyed by (seed, epoch, sample, position), so a sample does not depend on
    the order or the process in which samples are made. A transform that mixes samples calls ``results['partner'](index)``: sample
    ``index`` of the same dataset, after the transforms before the mixing one. Steps before the first random transform (reading, decoding)
    give the same result for every use of an image; the last few results are cached.

    Args:
        transforms: configs or callables.
        load: index -> the input of the first transform; may be None if no transform mixes samples.
        num_samples: returns the number of valid indices for ``load``.
    """

    def __init__(self, transforms: Sequence[dict | Callable] | None, load: Callable[[int], dict] | None = None,
                 num_samples: Callable[[], int] = int) -> None:
        self.transforms = [TRANSFORMS.build(t) for t in transforms or []]
        self.load, self.num_samples = load, num_samples
        self.fixed = next((i for i, t in enumerate(self.transforms) if getattr(t, 'random', True)), len(self.transforms))
        asked = [t.max_cached_images for t in self.transforms if hasattr(t, 'max_cached_images')]
        self.keep = max(asked, default=DECODED_KEPT)
        self.decoded: OrderedDict[int, dict] = OrderedDict()
        self.stored: Callable[[int], dict | None] | None = None      # index -> its sample after ``fixed`` steps, from the cache on disk

    def __call__(self, results: dict, key: Sequence[int] = (0, 0, 0)) -> dict | None:
        """Run all transforms on ``results``. ``key``: seed, epoch and index of the sample."""
        return self.run(results, 0, len(self.transforms), tuple(key))

    def sample(self, index: int, key: Sequence[int]) -> dict | None:
        """Return sample ``index`` after all transforms."""
        found = self.stored(index) if self.stored else None
        results = self.prepared(self.load(index)) if found is None else found
        return self.run(results, self.fixed, len(self.transforms), tuple(key))

    def prepared(self, results: dict) -> dict | None:
        """Return ``results`` after the transforms before the first random one."""
        return self.run(results, 0, self.fixed, ())

    def run(self, results: dict | None, start: int, stop: int, key: tuple[int, ...]) -> dict | None:
        for position in range(start, stop):
            if results is None:
                return None
            transform = self.transforms[position]
            if getattr(transform, 'random', True):
                results['rng'] = np.random.default_rng([*key, position])
                results['num_samples'] = self.num_samples()
                results['partner'] = self.partner_of(position, key)
            results = transform(results)
        return results

    def partner_of(self, position: int, key: tuple[int, ...]) -> Callable[[int], dict | None]:
        """Return the function with which a mixing transform at ``position`` gets other samples."""
        calls = iter(range(1, 1 << 30))

        def partner(index: int) -> dict | None:
            return self.run(self.prefix(int(index)), min(self.fixed, position), position, (*key, next(calls), int(index)))
        return partner

    def prefix(self, index: int) -> dict | None:
        """Return a copy of sample ``index`` after the transforms before the first random one."""
        found = self.stored(index) if self.stored else None
        if found is not None:
            return found
        found = self.decoded.pop(index, None) or self.prepared(self.load(index))
        self.decoded[index] = found                # the newest is last
        if len(self.decoded) > self.keep:
            self.decoded.popitem(last=False)
        return copied(found)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, 'decoded': OrderedDict()}   # each worker starts with its own cache

    def __repr__(self) -> str:
        return 'Compose(\n    ' + '\n    '.join(map(repr, self.transforms)) + ')'


def copied(results: dict | None) -> dict | None:
    """Return a copy that a transform may change in place; the image itself is copied, as flips and crops return views of it."""
    return None if results is None else {k: v.copy() if isinstance(v, np.ndarray) else copy.copy(v) for k, v in results.items()}
