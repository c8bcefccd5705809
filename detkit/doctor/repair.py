"""Repair a copy of an annotation file and list the changes. Entries that cannot be repaired are left out; nothing is guessed."""
from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.classes import join_categories
from detkit.data.datasets.entries import mask_fault
from detkit.data.formats.coco import sift
from detkit.doctor.pictures import Picture
from detkit.doctor.reading import Part
from detkit.files import write_json
from detkit.structures.masks import clip_polygon

UNREADABLE = ('picture missing', 'picture unreadable', 'picture cut short', 'picture too large to decode')


def repair(content: dict, pictures: Mapping[Any, Picture]) -> tuple[dict, list[str]]:
    """Repair ``content``, a COCO dict with any errors; it is not changed. ``pictures``: image id -> what is known of its file.

    Returns a valid copy, and one message per change.
    """
    said: list[str] = []
    sound, faults = sift(copy.deepcopy(content))
    said += [f'removed: {fault.place} {fault.what}' if fault.place else f'id given anew: {fault.what}' for fault in faults]
    sound, joined = join_categories(sound)
    said += joined
    check_pictures(sound, pictures, said)
    join_images(sound, said)
    images = {i['id']: i for i in sound['images']}
    kept, seen = [], set()
    for a in sound['annotations']:
        if a['image_id'] in images and mend(a, images[a['image_id']], seen, said):
            kept.append(a)
    sound['annotations'] = kept
    renumber(sound, said)
    return sound, said


def name_of(annotation: dict) -> str:
    return f"annotation {annotation.get('id')}"


def check_pictures(content: dict, pictures: Mapping[Any, Picture], said: list[str]) -> None:
    """Drop images that cannot be read; set sizes to those of the files."""
    kept = []
    for image in content['images']:
        found = pictures.get(image['id'])
        trouble = next((t for t in found.trouble if t[1] in UNREADABLE), None) if found else None
        if trouble:
            n = sum(a['image_id'] == image['id'] for a in content['annotations'])
            said.append(f"removed: image {image['id']} ({image['file_name']}) and its {n} annotations: {trouble[1]}, {trouble[2]}")
            continue
        if found and found.width and (image['width'], image['height']) != (found.width, found.height):
            said.append(f"size: image {image['id']} ({image['file_name']}) from {image['width']}x{image['height']} to "
                        f'{found.width}x{found.height}, as its file is; look whether its boxes still fit')
            image.update(width=found.width, height=found.height)
        kept.append(image)
    content['images'] = kept


def join_images(content: dict, said: list[str]) -> None:
    """Merge image entries of the same file and their annotations, if the entries agree in size."""
    first: dict[str, dict] = {}
    moved, dropped = {}, set()
    for image in content['images']:
        other = first.setdefault(image['file_name'], image)
        if other is image:
            continue
        same = (image['width'], image['height']) == (other['width'], other['height'])
        moved[image['id']] = other['id'] if same else None
        dropped.add(image['id'])
        said.append(f"{'joined' if same else 'removed'}: image {image['id']}, the same file as image {other['id']} ({image['file_name']})"
                    + ('' if same else ', of another size, with its annotations'))
    content['images'] = [i for i in content['images'] if i['id'] not in dropped]
    for a in content['annotations']:
        a['image_id'] = moved.get(a['image_id'], a['image_id'])


def mend(a: dict, image: dict, seen: set, said: list[str]) -> bool:
    """Clip box and mask to the image and drop unusable parts; return False if the annotation must be left out."""
    width, height = image['width'], image['height']
    x, y, w, h = a['bbox']
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x2 <= x1 or y2 <= y1:
        said.append(f"removed: {name_of(a)}, its box {a['bbox']} has no area inside the {width}x{height} image")
        return False
    if (x1, y1, x2, y2) != (x, y, x + w, y + h):
        said.append(f"cut: {name_of(a)}, its box from {a['bbox']} to {[x1, y1, x2 - x1, y2 - y1]}")
        a['bbox'] = [x1, y1, x2 - x1, y2 - y1]
    key = (a['image_id'], a['category_id'], *a['bbox'])
    if key in seen:
        said.append(f'removed: {name_of(a)}, it repeats another')
        return False
    seen.add(key)
    mend_mask(a, width, height, said)
    if 'area' not in a:
        a['area'] = a['bbox'][2] * a['bbox'][3]
        said.append(f'added: area and iscrowd of {name_of(a)}')
    a.setdefault('iscrowd', 0)
    a.setdefault('segmentation', [])
    return True


def mend_mask(a: dict, width: int, height: int, said: list[str]) -> None:
    mask = a.get('segmentation')
    if not mask:
        return
    if mask_fault(mask, width, height):
        said.append(f'removed: the mask of {name_of(a)}: {mask_fault(mask, width, height)}')
        a['segmentation'] = []
        return
    if not isinstance(mask, list):
        return
    whole = [p for p in mask if len(p) >= 6 and len(p) % 2 == 0]
    inside = [clip_polygon(np.asarray(p, float).reshape(-1, 2), width, height).tolist() for p in whole]
    inside = [p for p in inside if len(p) >= 6]
    if inside != [[float(v) for v in p] for p in mask]:
        said.append(f'cut: the mask of {name_of(a)}, to {len(inside)} of {len(mask)} polygons inside the image')
        a['segmentation'] = inside


def renumber(content: dict, said: list[str]) -> None:
    """Give duplicate annotation ids new ids; other ids are kept."""
    used: set = set()
    free = max((a['id'] for a in content['annotations'] if isinstance(a.get('id'), int)), default=0) + 1
    for a in content['annotations']:
        if a.get('id') is None or a['id'] in used:
            said.append(f"id: an annotation of image {a['image_id']} from {a.get('id')} to {free}")
            a['id'] = free
            free += 1
        used.add(a['id'])


def write_repaired(folder: Path, name: str, part: Part, pictures: Mapping[Any, Picture]) -> tuple[Path, int]:
    """Write ``folder/NAME.json`` and ``folder/NAME_changes.json``; return the path of the first, and the number of changes."""
    mended, said = repair(part.content, pictures)
    said = [f'removed: {fault}' for fault in part.faults] + said
    path = folder / f'{name}.json'
    write_json(path, mended)
    write_json(folder / f'{name}_changes.json', dict(source=part.source, changes=said), indent=1)
    return path, len(said)
