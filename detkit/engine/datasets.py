"""The innermost datasets in a config, and the list of classes that all splits share."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detkit.data.classes import class_difference, class_names, in_order_of, reorder_metainfo
from detkit.data.datasets.detection import DetDataset
from detkit.registry import DATASETS, ConfigError

WRAPPED = ('dataset', 'datasets')      # keys of the wrapped datasets in a wrapper's config


def leaves(described: Any) -> Iterator[dict]:
    """Yield the configs of the innermost datasets in ``described``; they are not copied."""
    inner = [described[key] for key in WRAPPED if described.get(key) is not None] if isinstance(described, dict) else []
    if isinstance(described, dict) and not inner:
        yield described
    for part in inner:
        for one in part if isinstance(part, (list, tuple)) else [part]:
            yield from leaves(one)


def with_leaves(described: Any, change: Callable[[dict], dict]) -> Any:
    """Return a copy of ``described`` with ``change`` applied to each of its ``leaves``."""
    if isinstance(described, (list, tuple)):
        return [with_leaves(one, change) for one in described]
    if not isinstance(described, dict):
        return described
    if any(described.get(key) is not None for key in WRAPPED):
        return {k: with_leaves(v, change) if k in WRAPPED else copy.deepcopy(v) for k, v in described.items()}
    return change(copy.deepcopy(dict(described)))


def unread(leaf: dict) -> DetDataset | None:
    """Build the dataset of a leaf config without reading its annotations; None if its class is not detkit's.

    Raises:
        ConfigError: it cannot be built; the ``cfg`` of the error is ``leaf``.
    """
    args = {k: v for k, v in copy.deepcopy(dict(leaf)).items() if k != 'cache'}
    try:
        kind = args.get('type')
        cls = DATASETS.get(kind) if isinstance(kind, str) else kind
        if not (isinstance(cls, type) and issubclass(cls, DetDataset)):
            return None
        return DATASETS.build({**args, 'lazy_init': True})
    except ConfigError as error:
        if error.cfg is None:                            # from the registry: the type does not exist
            error.path = ('type', *error.path)
        if error.cfg is None or error.cfg == {**args, 'lazy_init': True}:
            error.cfg = leaf
        raise


def follow_classes(described: Any, classes: Sequence[str] | None, name: str, source: str, notes: list[str]) -> Any:
    """Return a dataset's config with its labels in the order of ``classes``. This changes datasets that read their classes from their
    own file, and datasets that name the same classes in another order; the latter add a line to ``notes``.

    ``name``, ``source``: names of the dataset and of the origin of ``classes`` in messages.

    Raises:
        ConfigError: the dataset names other classes.
    """
    def change(leaf: dict) -> dict:
        dataset = unread(leaf)
        named = None if dataset is None else class_names(dataset._metainfo)
        if dataset is None or named == tuple(classes):
            return leaf
        order = tuple(classes) if named is None else names_in_order(classes, named, source, name)
        if named == order:                              # only the spelling differs
            return leaf
        if named is not None:
            notes.append(f'{name}: {class_difference(order, named, source, name)}. The order of {source} holds.')
        return {**leaf, 'metainfo': reorder_metainfo(leaf.get('metainfo') or {}, named, order)}
    return described if classes is None else with_leaves(described, change)


def check_resumed_classes(before: Sequence[str] | None, now: Sequence[str] | None, checkpoint: str) -> None:
    """Raise ConfigError if a resumed run had other classes ``before``, or another order of them. None means unknown."""
    if before is not None and now is not None and tuple(before) != tuple(now):
        raise ConfigError(f"'{checkpoint}' was trained on other classes than train_dataloader has: "
                          f'{class_difference(before, now, "the checkpoint", "train_dataloader")}. Resume with the same data and the same '
                          f'metainfo.classes, or fine-tune: load_from instead of resume.')


def names_in_order(classes: Sequence[str], names: Sequence[str], source: str, name: str) -> tuple[str, ...]:
    """Return ``names`` in the order of ``classes``.

    Raises:
        ConfigError: they are not the same names.
    """
    order = in_order_of(classes, names)
    if order is None:
        raise ConfigError(f'{name} has other classes than {source}: {class_difference(classes, names, source, name)}. Labels are matched '
                          f'by name: use the same names in both (metainfo=dict(classes=(...)) of the data set, and the names in its '
                          f'annotation file).')
    return order


def refuse_another_order(classes: Sequence[str] | None, names: Sequence[str] | None, source: str, name: str) -> None:
    """Raise ConfigError unless ``names`` gives the same labels as ``classes``. None means unknown."""
    if classes is not None and names is not None and names_in_order(classes, names, source, name) != tuple(names):
        raise ConfigError(f'{name}: {class_difference(classes, names, source, name)}. Bring its metainfo.classes into that order.')
