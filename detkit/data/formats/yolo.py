"""YOLO's text files: a line an object, ``class cx cy w h`` in shares of the image, or ``class x1 y1 x2 y2 x3 y3 ...`` for a polygon.

A ``data.yaml`` names the classes and, for each split, a folder of images, a text file that lists them, or several of these. The labels
of ``.../images/a.jpg`` are ``.../labels/a.txt``; an image without that file has no objects.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.data.formats.coco import coco_dict, whole
from detkit.data.formats.faults import BrokenAnnotations, OnFault, stop
from detkit.data.formats.pictures import pictures_below, size_of

SPLITS = ('train', 'val', 'test')
SLACK = 1e-3        # shares by which rounding may carry a box over the image's border
DIGITS = 9          # decimals written; a share of a million pixels is still exact to a thousandth


def read_names(path: Path) -> tuple[dict, list[str]]:
    """A data.yaml's content and its class names, in the order of their numbers.

    Raises:
        BrokenAnnotations: no YAML, or without usable names.
    """
    import yaml
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BrokenAnnotations(f'{path}: cannot be read as YAML ({str(error).splitlines()[0]}). Give the data.yaml of the set.') from None
    names = content.get('names') if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, (str, int, float)) for n in names):
        raise BrokenAnnotations(f"{path}: 'names' is missing, or neither a list of names nor names by number from 0 on. Name the classes "
                                f"there, as names: [cat, dog].")
    if len(set(map(str, names))) < len(names):
        raise BrokenAnnotations(f"{path}: a name stands twice in 'names'. Each class needs a name of its own.")
    return content, [str(n) for n in names]


def split_images(path: Path, content: dict, split: str) -> list[Path]:
    """The pictures of one split.

    Raises:
        BrokenAnnotations: the split is not named, or its folder or list is not there.
    """
    given = content.get(split)
    if not given:
        raise BrokenAnnotations(f"{path}: it names no '{split}'. It has: {', '.join(s for s in SPLITS if content.get(s)) or 'no split'}.")
    root = Path(str(content.get('path') or '.'))
    root = root if root.is_absolute() and root.is_dir() else next((p for p in (path.parent / root, path.parent) if p.is_dir()), path.parent)
    found: list[Path] = []
    for entry in given if isinstance(given, list) else [given]:
        place = next((p for p in (root / str(entry), path.parent / str(entry)) if p.exists()), None)
        if place is None:
            raise BrokenAnnotations(f"{path}: {root / str(entry)}, named by '{split}', does not exist. Check 'path' and '{split}' there.")
        found += pictures_below(place) if place.is_dir() else listed_images(place)
    return found


def listed_images(path: Path) -> list[Path]:
    """The pictures that a text file lists, a line each, relative to it unless absolute."""
    lines = [line.strip() for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
    return [Path(line) if Path(line).is_absolute() else path.parent / line for line in lines]


def label_file(image: Path) -> Path:
    """The label file of an image: the last folder called ``images`` becomes ``labels``; without one, beside it."""
    parts = list(image.parts)
    if 'images' in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index('images')] = 'labels'
    return Path(*parts).with_suffix('.txt')


def read_labels(path: Path, classes: int, width: int, height: int) -> list[dict[str, Any]]:
    """The objects of one label file: ``label``, ``bbox`` (x, y, width, height; pixels) and, for a polygon, ``segmentation``.

    Raises:
        BrokenAnnotations: naming file and line.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenAnnotations(f'{path}: cannot be read as text ({error}).') from None
    found = []
    for number, line in enumerate(lines, 1):
        values = line.split()
        if not values:
            continue

        def broken(what: str, remedy: str, where: str = f'{path}: line {number}') -> BrokenAnnotations:
            return BrokenAnnotations(f'{where} {what}. {remedy}')
        try:
            numbers = [float(v) for v in values]
        except ValueError:
            raise broken(f'has {line.strip()[:60]!r}', 'A line is numbers: class, and shares of the image.') from None
        label = numbers.pop(0)
        if label != int(label if abs(label) < 1e9 else -1) or not 0 <= label < classes:
            raise broken(f'has the class {values[0]}', f'The set has {classes} classes, numbered from 0.')
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            raise broken(f'has {len(values)} numbers', 'A box has five (class cx cy w h), a polygon class and three or more points.')
        if not all(-SLACK <= v <= 1 + SLACK for v in numbers):        # False for NaN
            raise broken(f'has {line.strip()[:60]!r}', 'Coordinates are shares of the image, between 0 and 1, not pixels.')
        found.append(dict(label=int(label), **(box_of if len(numbers) == 4 else polygon_of)(numbers, width, height)))
        x, y, w, h = found[-1]['bbox']
        if w <= 0 or h <= 0:
            raise broken('has a box without width or height', 'Remove the line.')
        if x < -SLACK * width or y < -SLACK * height or x + w > (1 + SLACK) * width or y + h > (1 + SLACK) * height:
            raise broken('has a box that leaves the image', 'Cut it at the border.')
    return found


def box_of(numbers: Sequence[float], width: int, height: int) -> dict[str, Any]:
    cx, cy, w, h = numbers
    return dict(bbox=[tidy(v) for v in ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)])


def polygon_of(numbers: Sequence[float], width: int, height: int) -> dict[str, Any]:
    xs, ys = [tidy(v * width) for v in numbers[0::2]], [tidy(v * height) for v in numbers[1::2]]
    box = [min(xs), min(ys), tidy(max(xs) - min(xs)), tidy(max(ys) - min(ys))]
    return dict(bbox=box, segmentation=[[v for pair in zip(xs, ys) for v in pair]])


def tidy(value: float) -> float:
    """To a ten-thousandth of a pixel, so that what was a whole pixel before it was divided is one again."""
    return whole(round(value, 4))


def yolo_to_coco(path: Path, split: str, on_fault: OnFault = stop) -> dict:
    """One split of the set that a data.yaml describes -> a COCO dict; ``file_name`` is relative to the yaml's folder where it lies below.

    Raises:
        BrokenAnnotations: naming file and line; of pictures and their labels, as ``on_fault`` decides.
    """
    content, names = read_names(path)
    images, annotations = [], []
    for number, picture in enumerate(split_images(path, content, split), 1):
        labels = label_file(picture)
        try:
            width, height = size_of(picture, path)
            objects = read_labels(labels, len(names), width, height) if labels.is_file() else []
        except BrokenAnnotations as error:
            on_fault(error)
            continue
        inside = picture.is_relative_to(path.parent)
        images.append(dict(id=number, file_name=(picture.relative_to(path.parent) if inside else picture).as_posix(), width=width,
                           height=height))
        for o in objects:
            annotations.append(dict(image_id=number, category=names[o.pop('label')], **o))
    return coco_dict(images, annotations, names)


def yolo_lines(image: dict, annotations: Sequence[dict], labels: dict[int, int], polygons: bool) -> str:
    """The label file of a COCO image; ``labels``: category id -> number. ``polygons``: write the outline in place of the box."""
    lines = []
    for a in annotations:
        if polygons:
            points = a['segmentation'][0]
            shares = [v / (image['width'] if i % 2 == 0 else image['height']) for i, v in enumerate(points)]
        else:
            x, y, w, h = a['bbox']
            shares = [(x + w / 2) / image['width'], (y + h / 2) / image['height'], w / image['width'], h / image['height']]
        lines.append(' '.join([str(labels[a['category_id']]), *(format(v, f'.{DIGITS}f').rstrip('0').rstrip('.') for v in shares)]))
    return ''.join(f'{line}\n' for line in lines)
