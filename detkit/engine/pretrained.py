"""Find the pretrained weights that a model's config loads."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detkit.engine.prepare import kind as type_name


def pretrained_parts(node: Any) -> Iterator[dict]:
    """Yield each ``init_cfg`` that loads weights from a file or URL."""
    for part in dicts_in(node):
        if type_name(part) == 'Pretrained' and isinstance(part.get('checkpoint'), str):
            yield part


def dicts_in(node: Any) -> Iterator[dict]:
    """Yield every dict of a config, outer ones first."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from dicts_in(value)
