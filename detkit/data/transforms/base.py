"""What a step of a pipeline is."""
from __future__ import annotations

from typing import Any


class BaseTransform:
    """One step: takes the dict of an image, returns it changed, or None to have another sample drawn.

    A subclass writes ``transform(results)``. ``random`` says whether it draws numbers; those come from
    ``results['rng']``, a ``numpy.random.Generator`` that belongs to this run, epoch, sample and step alone.
    """

    random = False

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return self.transform(results)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        raise NotImplementedError(f'{type(self).__name__} defines no transform().')

    def __repr__(self) -> str:
        settings = ', '.join(f'{k}={v!r}' for k, v in vars(self).items() if not k.startswith('_'))
        return f'{type(self).__name__}({settings})'
