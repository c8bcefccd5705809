"""Derive train, val, an optional test split, and the classes from the data found."""
from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from detkit.data.classes import spelled_otherwise
from detkit.data.discover import FoundData, Split
from detkit.data.edit import split as split_content

VAL_SHARE, SPLIT_SEED = 0.2, 0     # fraction of images held out if there is no val split
MIN_IMAGES_TO_SPLIT = 5


def complete_splits(found: FoundData, say: Callable[[str], None]) -> dict[str, Split]:
    """Return splits including ``train`` and ``val``: those found, or parts of them that must still be written.

    Raises:
        ValueError: no val split and too few images to hold some out, or no objects to train on.
    """
    splits = dict(found.splits)
    if 'train' in splits and 'val' in splits and same_images(splits['train'], splits['val']):
        say(f"note: val is the same {len(splits['val'].content['images'])} images as train ({splits['val'].source}); a part of train is "
            f'held out instead.')
        del splits['val']
    if 'test' in splits and not splits['test'].content['annotations']:
        say(f"note: test ({splits['test'].source}) has no annotations and is left out; docs/coco_results.md tells how to predict on it.")
        del splits['test']
    whole = splits.pop('all', None)
    if 'train' not in splits:
        name = next(iter(splits), None)
        whole = whole or splits.pop(name)
        if name:
            say(f'note: the only split is {name} ({whole.source}); it is split into train and val.')
    if whole is not None:
        splits = {'train': whole, **splits}
    train = splits['train']
    if not train.content['annotations']:
        raise ValueError(f"{train.source}: {len(train.content['images'])} images and no object: there is nothing to learn.")
    if 'val' not in splits:
        count = len(train.content['images'])
        if count < MIN_IMAGES_TO_SPLIT:
            raise ValueError(f'{train.source}: no val split, and {count} images are too few to hold some out (at least '
                             f'{MIN_IMAGES_TO_SPLIT}). Add images, or name the files: --data train=FILE val=FILE.')
        parts = split_content(train.content, dict(train=1 - VAL_SHARE, val=VAL_SHARE), SPLIT_SEED)
        splits = {**{s: replaced(train, content) for s, content in parts.items()}, **{s: p for s, p in splits.items() if s != 'train'}}
    refuse_spellings(splits)
    return {s: splits[s] for s in ('train', 'val', 'test') if s in splits}


def replaced(split: Split, content: dict) -> Split:
    """Return ``split`` with other content, not yet written to a file."""
    return dataclasses.replace(split, content=content, dataset=None)


def same_images(first: Split, second: Split) -> bool:
    paths = [{str(s.images / i['file_name']) for i in s.content['images']} for s in (first, second)]
    return paths[0] == paths[1]


def class_names(found_format: str, splits: dict[str, Split]) -> tuple[str, ...]:
    """Return the classes listed in the train annotations; for formats without a list (VOC, CSV), those that occur, sorted by name.

    A COCO category that only groups others (the first one in Roboflow's exports) is left out.
    """
    if found_format in ('voc', 'csv'):
        return tuple(sorted({c['name'] for s in splits.values() for c in s.content['categories']}))
    content = splits['train'].content
    used = {a['category_id'] for s in splits.values() for a in s.content['annotations']}
    groups = {c.get('supercategory') for c in content['categories']}
    return tuple(dict.fromkeys(c['name'] for c in by_id(content['categories']) if c['id'] in used or c['name'] not in groups))


def by_id(categories: Sequence[dict]) -> list[dict]:
    numbers = all(isinstance(c['id'], (int, float)) for c in categories)
    return sorted(categories, key=lambda c: c['id']) if numbers else list(categories)


def refuse_spellings(splits: dict[str, Split]) -> None:
    """Raise ValueError if another split spells a class of train differently: its objects would be left out."""
    train = splits['train']
    known = [c['name'] for c in train.content['categories']]
    for split in splits.values():
        found = spelled_otherwise([c['name'] for c in split.content['categories']], known)
        if found:
            raise ValueError(f"{split.source} has the class '{found[0]}', and {train.source} has '{found[1]}': two spellings of one name. "
                             f'Write both alike.')


def with_all_classes(splits: dict[str, Split], classes: tuple[str, ...], say: Callable[[str], None]) -> dict[str, Split]:
    """Return ``splits``, with COCO content replaced if it lacks one of ``classes``, which a dataset does not accept.

    Objects of other classes than ``classes`` give a note.
    """
    done = {}
    for name, split in splits.items():
        names = {c['id']: c['name'] for c in split.content['categories']}
        missing = [c for c in classes if c not in names.values()]
        others = Counter(names[a['category_id']] for a in split.content['annotations'] if names[a['category_id']] not in classes)
        if missing and split.dataset is not None and split.dataset['type'] == 'CocoDataset':
            say(f"note: {split.source} does not list {', '.join(missing[:5])}; a copy that lists all classes is written.")
            split = replaced(split, with_classes(split.content, classes))
        if others:
            say(f"note: {others.total()} objects of {name} are left out, whose classes train does not have: {', '.join(others)}.")
        done[name] = split
    return done


def with_classes(content: dict, classes: Sequence[str]) -> dict:
    """Return ``content`` with categories 1 to K in the order of ``classes``; objects of other classes are left out."""
    numbers = {name: n for n, name in enumerate(classes, 1)}
    names = {c['id']: c['name'] for c in content['categories']}
    kept = [{**a, 'category_id': numbers[names[a['category_id']]]} for a in content['annotations'] if names[a['category_id']] in numbers]
    return {**content, 'annotations': kept, 'categories': [dict(id=n, name=name) for name, n in numbers.items()]}


def share_with_masks(splits: dict[str, Split]) -> float:
    objects = [a for a in splits['train'].content['annotations'] if not a.get('iscrowd')]
    return sum(bool(a.get('segmentation')) for a in objects) / max(len(objects), 1)
