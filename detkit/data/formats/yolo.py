"""YOLO text files: one line per object, ``class cx cy w h`` as fractions of the image, or ``class x1 y1 x2 y2 x3 y3 ...`` for a polygon.

A ``data.yaml`` names the classes and, for each split, an image folder, a text file that lists images, or several of these. The labels
of ``.../images/a.jpg`` are in ``.../labels/a.txt``; an image without that file has no objects.
"""
from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from detkit.data.formats.coco import coco_dict, whole
from detkit.data.formats.faults import BrokenAnnotations, OnFault, stop
from detkit.data.formats.pictures import SUFFIXES, is_hidden, pictures_below, size_of
from detkit.data.formats.text import read_lines, read_text
from detkit.files import existing_path, find_data

SPLITS = ('train', 'val', 'test')
OTHER_NAMES = dict(val=('valid', 'validation'))
ESCAPE = "In double quotes a backslash begins an escape: write '/' in its place, or single quotes."
NULLS = ('', '~', 'null', 'Null', 'NULL')     # YAML's null values, which are not class names
SLACK = 1e-3        # fraction by which rounding may move a box beyond the image border
DIGITS = 9          # decimals written; accurate to 0.001 pixels for a million pixels


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, with every scalar as text: a class may be named ``yes``, ``01``, ``null`` or ``1e3``.

    Raises:
        BrokenAnnotations: not YAML, not a mapping, or a duplicate key.
    """
    import yaml

    class TextLoader(yaml.BaseLoader):
        """A BaseLoader, which returns only text, that rejects duplicate keys."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            repeated = [k for k, n in keys.items() if n > 1]
            if repeated:
                raise yaml.YAMLError(f"the key '{repeated[0]}' stands {keys[repeated[0]]} times")
            return super().construct_mapping(node, deep)

    text = read_text(path, 'YAML', 'Give the data.yaml of the set.')
    try:
        content = yaml.load(text, TextLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, 'problem_mark', None)
        reason = f'line {mark.line + 1}: {error.problem}' if mark else (str(error).splitlines() or ['nested too deeply'])[0]
        remedy = ESCAPE if 'escape' in reason else 'Give the data.yaml of the set.'
        raise BrokenAnnotations(f'{path}: cannot be read as YAML ({reason}). {remedy}') from None
    if not isinstance(content, dict):
        raise BrokenAnnotations(f"{path}: it holds no keys such as 'train' and 'names'. Give the data.yaml of the set.")
    return {k: None if v in NULLS else v for k, v in content.items()}


def read_names(path: Path) -> tuple[dict, list[str]]:
    """Return a data.yaml's content, all as text, and its class names, in the order of their numbers.

    Raises:
        BrokenAnnotations: not YAML, no usable names, or their number differs from ``nc``.
    """
    content = read_yaml(path)
    names = content.get('names')
    if isinstance(names, dict) and all(str(k).strip().isdecimal() for k in names):
        numbered = {int(k): v for k, v in names.items()}
        lacking = [i for i in range(len(names)) if i not in numbered]
        if lacking:
            raise BrokenAnnotations(f"{path}: 'names' has no class of the number {lacking[0]}. Number the {len(names)} classes from 0 on "
                                    f'without a gap, and the labels with them.')
        names = [numbered[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise BrokenAnnotations(f"{path}: 'names' is missing, or neither a list of names nor names by number from 0 on. Name the classes "
                                f"there, as names: [cat, dog].")
    names = [n.strip() for n in names]
    if len(set(names)) < len(names):
        repeated = next(n for n, count in Counter(names).items() if count > 1)
        raise BrokenAnnotations(f"{path}: the name '{repeated}' stands twice in 'names'. Each class needs a name of its own.")
    stated = content.get('nc')
    if stated is not None and str(stated).strip() != str(len(names)):
        raise BrokenAnnotations(f"{path}: nc is {stated} and 'names' has {len(names)}: {', '.join(names[:10])}"
                                f"{', ...' if len(names) > 10 else ''}. Correct one of them; nc may be left out.")
    return content, names


def split_images(path: Path, content: dict, split: str) -> list[Path]:
    """Return the images of one split.

    Raises:
        BrokenAnnotations: the split is not defined, or its folder or list does not exist or has no images.
    """
    given = next((content[k] for k in (split, *OTHER_NAMES.get(split, ())) if content.get(k)), None)
    if not given:
        raise BrokenAnnotations(f"{path}: it names no '{split}'. It has: {', '.join(s for s in SPLITS if content.get(s)) or 'no split'}.")
    if not all(isinstance(e, str) for e in (given if isinstance(given, list) else [given])):
        raise BrokenAnnotations(f"{path}: '{split}' is {given}. Name a folder of images, a text file that lists them, or several of these "
                                f'in a list.')
    roots = folders_of_set(path, content)
    found: list[Path] = []
    for entry in given if isinstance(given, list) else [given]:
        place = place_of(entry, roots)
        if place is None:
            tried = ' and '.join(dict.fromkeys(str(root / entry) for root in roots[:2]))
            raise BrokenAnnotations(f"{path}: {entry!r}, named by '{split}', does not exist: there is no {tried}. Check 'path' and "
                                    f"'{split}' there." if entry.isprintable() else f"{path}: '{split}' is {entry!r}. {ESCAPE}")
        is_picture = place.suffix.lower() in SUFFIXES and place.is_file()
        pictures = [place] if is_picture else pictures_below(place) if place.is_dir() else listed_images(place, roots)
        if not pictures:
            raise BrokenAnnotations(f"{path}: {place}, named by '{split}', {'has' if place.is_dir() else 'lists'} no picture. Check "
                                    f"'{split}' there.")
        found += pictures
    return without_repeats(found, f"{path}: '{split}'")


def without_repeats(pictures: list[Path], where: str) -> list[Path]:
    """Return ``pictures`` without duplicate files; a warning counts the duplicates, which would be trained on and evaluated twice."""
    once: dict[str, Path] = {}
    again = [picture for picture in pictures if once.setdefault(os.path.abspath(picture), picture) is not picture]
    if again:
        print_log(f'{where} names {len(again)} pictures again, which count once (first: {again[0]}).', 'current', logging.WARNING)
    return list(once.values())


def folders_of_set(path: Path, content: dict) -> list[Path]:
    """Return the folders to which entries of a data.yaml may be relative: its ``path`` (relative to the yaml, to the current folder and to
    ``$DETKIT_DATA_ROOT``), then the folder of the yaml.
    """
    given = os.path.expanduser(str(content.get('path') or '.').replace('\\', '/'))
    candidates = (path.parent / given, Path(given), find_data(given)) if given != '.' else ()
    return [*dict.fromkeys(p for p in candidates if p.is_dir()), path.parent]


def place_of(entry: str, roots: Sequence[Path]) -> Path | None:
    """Return the folder or list that an entry names; Roboflow writes ``../train/images`` for ``train/images`` beside its data.yaml."""
    entry = os.path.expanduser(entry.strip().replace('\\', '/'))
    for name in (entry, entry[3:]) if entry.startswith('../') else (entry,):
        for root in roots:
            place = Path(existing_path(os.path.join(without_dots(root, name))))
            if place.exists():
                return place
    return None


def without_dots(root: Path, name: str) -> str:
    """Return ``root / name``; a path outside ``root`` is written without ``..``."""
    return os.path.normpath(root.resolve() / name) if '..' in name.split('/') else str(root / name)


def listed_images(path: Path, roots: Sequence[Path] = ()) -> list[Path]:
    """Return the images listed in a text file, one per line: absolute, or relative to the list or to one of ``roots``."""
    found = []
    for _, line in read_lines(path):
        name = os.path.expanduser(line.replace('\\', '/'))
        if not is_hidden(name.split('/')[-1]):
            candidates = [Path(existing_path(without_dots(root, name))) for root in (path.parent, *roots)]
            found.append(next((p for p in candidates if p.is_file()), candidates[0]))
    return found


def label_file(image: Path) -> Path:
    """Return the label file of an image: the last folder named ``images`` becomes ``labels``; without one, it is beside the image.

    The folders are those of the given path, even if one is a symlink. On disk they and the suffix may be upper case.
    """
    parts, lower = list(image.parts), [part.lower() for part in image.parts]
    candidates = []
    if 'images' in lower[:-1]:
        place = len(parts) - 2 - lower[-2::-1].index('images')
        written = parts[place]
        as_written = 'LABELS' if written.isupper() else 'Labels' if written[0] == 'I' else 'labels'
        candidates = [Path(*parts[:place], folder, *parts[place + 1:]) for folder in dict.fromkeys(('labels', as_written))]
    paths = [p.with_suffix(suffix) for p in candidates or [image] for suffix in ('.txt', '.TXT')]
    return next((p for p in map(Path, map(existing_path, map(str, paths))) if p.is_file()), paths[0])


def read_labels(path: Path, classes: int, width: int, height: int) -> list[dict[str, Any]]:
    """Return the objects of one label file: ``label``, ``bbox`` (x, y, width, height; pixels) and, for a polygon, ``segmentation``.

    Raises:
        BrokenAnnotations: names the file and line.
    """
    found = []
    for number, line in read_lines(path):
        values = line.split()

        def broken(what: str, remedy: str, where: str = f'{path}: line {number}') -> BrokenAnnotations:
            return BrokenAnnotations(f'{where} {what}. {remedy}')
        try:
            numbers = [float(v) for v in values]
        except ValueError:
            raise broken(f'has {line[:60]!r}', 'A line is numbers: class, and shares of the image.') from None
        label = numbers.pop(0)
        if label != int(label if abs(label) < 1e9 else -1) or not 0 <= label < classes:
            raise broken(f'has the class {values[0]}', f'The set has {classes} classes, numbered from 0.')
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            raise broken(f'has {len(values)} numbers', 'A box has five (class cx cy w h), a polygon class and three or more points.')
        if not all(-SLACK <= v <= 1 + SLACK for v in numbers):        # False for NaN
            raise broken(f'has {line[:60]!r}', 'Coordinates are shares of the image, between 0 and 1, not pixels.')
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
    """Round to 0.0001 pixels, so that a value that was an integer before the division is an integer again."""
    return whole(round(value, 4))


def yolo_to_coco(path: Path, split: str, on_fault: OnFault = stop) -> dict:
    """Convert one split of a data.yaml to a COCO dict; see ``read_yolo``."""
    return read_yolo(path, split, on_fault)[0]


def read_yolo(path: Path, split: str, on_fault: OnFault = stop) -> tuple[dict, Path]:
    """Return one split of a data.yaml as a COCO dict, and the folder to which its file names are relative.

    The folder is that of the yaml if it contains all images, else its ``path``, else the next parent of the yaml that contains them.

    Raises:
        BrokenAnnotations: names the file and line; for images and their labels, ``on_fault`` decides.
    """
    content, names = read_names(path)
    pictures = split_images(path, content, split)
    folder = common_folder(pictures, [path.parent, path.parent.resolve(), *folders_of_set(path, content)])
    images, annotations = [], []
    for number, picture in enumerate(pictures, 1):
        labels = label_file(picture)
        try:
            width, height = size_of(picture, path)
            objects = read_labels(labels, len(names), width, height) if labels.is_file() else []
        except BrokenAnnotations as error:
            on_fault(error)
            continue
        images.append(dict(id=number, file_name=picture.relative_to(folder).as_posix(), width=width, height=height))
        for o in objects:
            annotations.append(dict(image_id=number, category=names[o.pop('label')], **o))
    return coco_dict(images, annotations, names), folder


def common_folder(pictures: list[Path], folders: Sequence[Path]) -> Path:
    """Return the first of ``folders`` that contains all images, else the common parent of the images and ``folders[0]``.

    In the second case the paths in ``pictures`` become absolute, in place.
    """
    for folder in folders:
        if all(p.is_relative_to(folder) for p in pictures):
            return folder
    pictures[:] = [Path(os.path.abspath(p)) for p in pictures]
    return Path(os.path.commonpath([os.path.abspath(folders[0]), *pictures]))


def yolo_lines(image: dict, annotations: Sequence[dict], labels: dict[int, int], polygons: bool) -> str:
    """Return the label file of a COCO image; ``labels``: category id -> number. ``polygons``: write polygons instead of boxes."""
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
