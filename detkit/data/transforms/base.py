"""The base class of pipeline transforms."""
from __future__ import annotations

from typing import Any


class BaseTransform:
    """One pipeline step: returns the result dict of an image after a change, or None to request another sample.

    A subclass implements ``transform(results)``. ``random`` says whether it uses random numbers; they must come from
    ``results['rng']``, a ``numpy.random.Generator`` that is unique to this run, epoch, sample and step.
    """

    random = False

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return self.transform(results)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        raise NotImplementedError(f'{type(self).__name__} defines no transform().')

    def __repr__(self) -> str:
        settings = ', '.join(f'{k}={v!r}' for k, v in vars(self).items() if not k.startswith('_'))
        return f'{type(self).__name__}({settings})'
