"""Compare lists of class names: of two splits, of data and a checkpoint, of the annotation files of one dataset.

A label is a position in a list of names, so two lists in different orders give labels different meanings. Lists are compared by name.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_NAMED = 5      # maximum number of names listed in a message


def class_names(meta: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Return the classes that ``meta`` names, or None.

    ``meta``: the metainfo of a dataset, or the ``meta`` of an MMDetection checkpoint: version 3 (``dataset_meta`` with ``classes`` or
    ``CLASSES``) or 2 (``CLASSES``).
    """
    meta = meta or {}
    for holder in (meta.get('dataset_meta') or {}, meta):
        for key in ('classes', 'CLASSES'):
            if holder.get(key) is not None:
                names = holder[key]
                return (names,) if isinstance(names, str) else tuple(map(str, names))
    return None


def class_difference(first: Sequence[str], second: Sequence[str], first_name: str, second_name: str) -> str:
    """Return a description of how two lists of class names differ; '' if they are equal.

    ``first_name``, ``second_name``: names of the lists in the message.
    """
    if tuple(first) == tuple(second):
        return ''
    if same_names(first, second):
        label = next(i for i, (a, b) in enumerate(zip(first, second)) if a != b)
        return (f"the same names stand in another order: label {label} is '{first[label]}' in {first_name} and '{second[label]}' in "
                f'{second_name}')
    only = [(name, [c for c in mine if c not in set(other)]) for name, mine, other in
            ((first_name, first, second), (second_name, second, first))]
    return ', '.join(f'only {name} has {quoted(names)}' for name, names in only if names)


def same_names(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two lists contain the same names, in any order."""
    return len(first) == len(second) and set(first) == set(second)


def in_order_of(classes: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """Return ``names`` in the order of ``classes``; None if they are not the same names.

    Names that differ only in case, spaces, '_' and '-' are equal if this is unambiguous: 'Traffic light' and 'traffic_light'.
    """
    if same_names(classes, names):
        return tuple(classes)
    by_key = {spelling_key(name): name for name in names}
    keys = [spelling_key(name) for name in classes]
    if len(names) != len(classes) or len(by_key) != len(names) or set(keys) != set(by_key):
        return None
    return tuple(by_key[key] for key in keys)


def spelled_otherwise(names: Sequence[str], classes: Sequence[str]) -> tuple[str, str] | None:
    """Return the first of ``names`` that differs from a class only in case, spaces, '_' and '-', and that class; None if there is none."""
    by_key = {spelling_key(name): name for name in classes}
    return next(((name, by_key[spelling_key(name)]) for name in names if name not in classes and spelling_key(name) in by_key), None)


def similar_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names in a list that differ only in case, spaces, '_' and '-'."""
    first: dict[str, str] = {}
    return [(first[spelling_key(n)], n) for n in names if first.setdefault(spelling_key(n), n) != n]


def spelling_key(name: str) -> str:
    return ''.join(c for c in name.casefold() if c not in ' _-')


def quoted(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ', '.join(f"'{n}'" for n in names[:MAX_NAMED]) + (f' and {more} more' if more > 0 else '')


def reorder_metainfo(metainfo: Mapping[str, Any], before: Sequence[str] | None, classes: Sequence[str]) -> dict[str, Any]:
    """Return ``metainfo`` with ``classes``. A palette for the same classes ``before`` is reordered; any other palette is removed."""
    changed = {**metainfo, 'classes': tuple(classes)}
    palette = changed.get('palette')
    if isinstance(palette, (list, tuple)) and before is not None:
        changed.pop('palette')
        if same_names(before, classes) and len(palette) == len(before):
            changed['palette'] = [palette[list(before).index(name)] for name in classes]
    return changed


# ----------------------------------------------------------------------------------------------- categories of COCO dicts
def join_categories(content: dict) -> tuple[dict, list[str]]:
    """Return a COCO dict in which categories with the same name are merged into the first, and one message per merged category.

    ``content`` is not changed; without such categories it is returned unchanged.
    """
    first: dict[str, Any] = {}
    joined: dict[Any, Any] = {}
    lines = []
    for category in content['categories']:
        name, number = category['name'], category['id']
        if name in first and number != first[name]:
            joined[number] = first[name]
            lines.append(f"joined: category {number} with category {first[name]}, both are called '{name}'")
        first.setdefault(name, number)
    if not joined:
        return content, []
    categories = [c for c in content['categories'] if c['id'] not in joined]
    annotations = [{**a, 'category_id': joined.get(a['category_id'], a['category_id'])} for a in content['annotations']]
    return {**content, 'categories': categories, 'annotations': annotations}, lines


def number_categories(contents: Mapping[str, dict]) -> dict[str, dict]:
    """Return the COCO dicts of several splits with one common list of categories, matched by name.

    The list is that of the first split, followed by names found only in later splits. Ids of the first split are kept; a later name
    keeps its id if the id is free. The input is not changed.
    """
    joined = {split: join_categories(content)[0] for split, content in contents.items()}
    categories: dict[str, dict] = {}
    taken: set[Any] = set()
    for content in joined.values():
        for category in content['categories']:
            if category['name'] in categories:
                continue
            number = category['id']
            if number in taken:
                number = max((i for i in taken if isinstance(i, int)), default=0) + 1
            taken.add(number)
            categories[category['name']] = {**category, 'id': number}
    shared = list(categories.values())
    out = {}
    for split, content in joined.items():
        ids = {c['id']: categories[c['name']]['id'] for c in content['categories']}
        out[split] = {**content, 'categories': [dict(c) for c in shared],
                      'annotations': [{**a, 'category_id': ids[a['category_id']]} for a in content['annotations']]}
    return out
