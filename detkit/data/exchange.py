"""Convert annotations between formats."""
from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from detkit.data.classes import number_categories
from detkit.data.formats.coco import read_coco
from detkit.data.formats.crowd_human import odgt_to_coco
from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.formats.pictures import files_below, picture_of_stem, picture_path
from detkit.data.formats.table import csv_to_coco
from detkit.data.formats.voc import voc_to_coco, voc_xml
from detkit.data.formats.yolo import SLACK, label_file, yolo_lines, yolo_to_coco
from detkit.data.synthetic import whole_folder
from detkit.files import write_json

READ = ('coco', 'voc', 'yolo', 'csv', 'odgt')
WRITE = ('coco', 'voc', 'yolo')
PLACE = ('none', 'copy', 'link')
VOC_ROUNDING = 1e-6     # pixels; written coordinates are rounded to this


def guess_format(path: Path) -> str:
    """Return the format of a file, from its name, or of a folder, from its content.

    Raises:
        ValueError: the format is not recognised.
    """
    by_suffix = {'.json': 'coco', '.yaml': 'yolo', '.yml': 'yolo', '.csv': 'csv', '.tsv': 'csv', '.odgt': 'odgt', '.xml': 'voc'}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    if path.is_dir() and any((path / name).is_file() for name in ('data.yaml', 'dataset.yaml')):
        return 'yolo'
    if path.is_dir() and (any(path.glob('*.xml')) or (path / 'Annotations').is_dir()):
        return 'voc'
    raise ValueError(f'{path}: its format cannot be told. Name it: --from {", ".join(READ)}.' if path.exists() else
                     f'{path}: there is no such file or folder.')


def read_annotations(path: str | os.PathLike, kind: str | None = None, images: str | os.PathLike | None = None, split: str = 'train',
                     offset: int = 1) -> dict:
    """Read annotations of any known format as a COCO dict.

    Args:
        path: a COCO JSON, a folder of VOC XML files (or its parent), a data.yaml, a CSV, an odgt.
        kind: its format; None: detect it from ``path``. images: image folder, if image sizes must be read.
        split: for YOLO. offset: pixel number from which VOC boxes count.

    Raises:
        BrokenAnnotations: a file cannot be used. ValueError: the format is not recognised.
    """
    path = Path(path)
    kind = kind or guess_format(path)
    if kind == 'coco':
        return read_coco(str(path))
    if kind == 'yolo':
        return yolo_to_coco(next(path / n for n in ('data.yaml', 'dataset.yaml') if (path / n).is_file()) if path.is_dir() else path, split)
    if kind == 'voc':
        return read_voc_folder(path, offset, images)
    return {'csv': csv_to_coco, 'odgt': odgt_to_coco}[kind](path, Path(images or path.parent))


def read_voc_folder(path: Path, offset: int, images: str | os.PathLike | None) -> dict:
    folder = path / 'Annotations' if (path / 'Annotations').is_dir() else path
    files = sorted(p for p in files_below(folder) if p.suffix.lower() == '.xml') if folder.is_dir() else [folder]
    if not files:
        raise BrokenAnnotations(f'{folder}: there is no XML file in it. Give the folder Annotations of the set.')
    names = folder.parent / 'labels.txt'                              # the class order, if detkit wrote the dataset
    classes = [n for n in names.read_text(encoding='utf-8').splitlines() if n] if names.is_file() else None
    beside = (folder.parent / 'JPEGImages', folder.parent / 'images', folder if folder.is_dir() else folder.parent)
    pictures = str(images or next(p for p in beside if p.is_dir()))
    stems = [f.relative_to(folder).with_suffix('').as_posix() if folder.is_dir() else f.stem for f in files]
    return voc_to_coco(files, classes, None, offset, [picture_of_stem(pictures, stem) for stem in stems], pictures)


def cannot_hold(content: dict, kind: str, offset: int = 1) -> list[str]:
    """Return what of a COCO dict the format ``kind`` cannot store, as messages; [] if nothing is lost. ``offset``: of VOC boxes."""
    lost = []
    sizes = {i['id']: (i['width'], i['height']) for i in content['images']}
    refused = sum(is_refused(a['bbox'], *sizes[a['image_id']], kind, offset) for a in content['annotations'])
    if refused:
        lost.append(f'{refused} boxes leave their image or have no area, which its readers refuse: cut at the border, left out where '
                    f'nothing remains')
    masks = sum(bool(a.get('segmentation')) for a in content['annotations'])
    crowds = sum(bool(a.get('iscrowd')) for a in content['annotations'])
    if kind != 'coco' and crowds:
        lost.append(f'{crowds} crowds become ordinary objects')
    if masks and (kind == 'voc' or kind == 'yolo' and not all_polygons(content)):
        lost.append(f'{masks} masks' + ('' if kind == 'voc' else ' (YOLO holds them if every object has one polygon, as wide as its box)'))
    stems = Counter(Path(i['file_name']).stem if kind == 'voc' else Path(i['file_name']).with_suffix('').as_posix()
                    for i in content['images'])
    twice = [stem for stem, n in stems.items() if n > 1]
    if kind != 'coco' and twice:
        lost.append(f"{len(twice)} images whose label files have one name (first: '{twice[0]}')")
    flags = sum(bool(a.get('difficult')) for a in content['annotations'])
    if kind == 'yolo' and flags:
        lost.append(f'{flags} flags "difficult"')
    return lost


def what_is_lost(contents: dict[str, dict], kind: str, offset: int = 1) -> list[str]:
    """Return the messages of ``cannot_hold`` for every split, each prefixed by its split."""
    return [f'{split}: {what}' for split, content in contents.items() for what in cannot_hold(content, kind, offset)]


def is_refused(box: list[float], width: int, height: int, kind: str, offset: int) -> bool:
    """Return whether readers of ``kind`` reject a ``box`` (x, y, width, height) in an image of this size."""
    x, y, w, h = box
    if kind == 'coco':
        return False
    if kind == 'yolo':
        across, down = SLACK * width, SLACK * height
        return w <= 0 or h <= 0 or x < -across or y < -down or x + w > width + across or y + h > height + down
    before, after = offset + VOC_ROUNDING, 1 - offset + VOC_ROUNDING
    return x < -before or y < -before or x + w > width + after or y + h > height + after


def within_images(content: dict, kind: str, offset: int) -> dict:
    """Return ``content`` with rejected boxes (see ``is_refused``) and their polygons clipped to the image; empty results are dropped."""
    sizes = {i['id']: (i['width'], i['height']) for i in content['images']}
    kept = []
    for a in content['annotations']:
        width, height = sizes[a['image_id']]
        if is_refused(a['bbox'], width, height, kind, offset):
            x, y, w, h = a['bbox']
            x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            if x2 <= x1 or y2 <= y1:
                continue
            a = {**a, 'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1)}
            if isinstance(a.get('segmentation'), list):
                a['segmentation'] = [[min(max(v, 0), (width, height)[n % 2]) for n, v in enumerate(p)] for p in a['segmentation']]
        kept.append(a)
    return {**content, 'annotations': kept}


def check_names(names: list[str], kind: str) -> None:
    """Raise ValueError for a class name that would change in a text file of ``kind``."""
    for name in names if kind != 'coco' else ():
        if not name or name != ' '.join(name.split()):
            raise ValueError(f'the class name {name!r} is empty, or has line breaks or needless spaces, which {kind} does not keep. Rename '
                             f'it in the source.')


def all_polygons(content: dict) -> bool:
    """Return whether every object is one polygon whose bounding box is its box, so that a YOLO polygon stores both."""
    def fits(a: dict) -> bool:
        mask = a.get('segmentation')
        if not isinstance(mask, list) or len(mask) != 1 or len(mask[0]) < 6:
            return False
        x, y, w, h = a['bbox']
        box = min(mask[0][0::2]), min(mask[0][1::2]), max(mask[0][0::2]), max(mask[0][1::2])
        return max(abs(p - q) for p, q in zip(box, (x, y, x + w, y + h))) < 0.01
    return bool(content['annotations']) and all(map(fits, content['annotations']))


def write_annotations(contents: dict[str, dict], target: str | os.PathLike, kind: str, images: str | os.PathLike | None = None,
                      place: str = 'none', offset: int = 1, lossy: bool = False) -> Path:
    """Write COCO dicts by split, in the format ``kind``; either everything is written or nothing.

    All splits get one list of classes, matched by name: that of the first split, followed by names found only in later splits.

    Args:
        target: for ``coco`` a JSON file (one split) or a folder for ``annotations/SPLIT.json``; for other formats a new folder.
        images: the image folder. place: ``copy`` images into the dataset, ``link`` to them, or ``none``.
        lossy: write even if the format cannot store some of the content.

    Raises:
        ValueError: something would be lost, an image is missing, or ``target`` exists.
    """
    target, contents = Path(target), number_categories(contents)
    lost = what_is_lost(contents, kind, offset)
    if lost and not lossy:
        raise ValueError(f'{target}: {kind} has no place for all of it: {"; ".join(lost)}. To write it all the same: --lossy.')
    contents = {split: within_images(content, kind, offset) for split, content in contents.items()}
    check_names([c['name'] for c in next(iter(contents.values()))['categories']], kind)
    if place != 'none' and images is None:
        raise ValueError(f'place={place} needs the folder of the pictures: --images.')
    if kind == 'coco' and target.suffix == '.json':
        if len(contents) > 1 or place != 'none':
            raise ValueError(f'{target}: one JSON file holds one split and no pictures. Give a folder.')
        write_json(target, next(iter(contents.values())))
        return target
    with whole_folder(target) as folder:
        if folder is None:
            raise ValueError(f'{target} is there already. Remove it, or choose another folder.')
        {'coco': write_coco, 'voc': write_voc, 'yolo': write_yolo}[kind](contents, folder, placer(images, place), offset)
    return target


def placer(images: str | os.PathLike | None, place: str) -> Callable[[str, Path], None]:
    """Return a function that copies or links an image into the new dataset."""
    def put(name: str, to: Path) -> None:
        source = Path(picture_path(str(images), name))
        if not source.is_file():
            raise ValueError(f'{source}: there is no such picture. Check --images, or take it out of the annotations.')
        to.parent.mkdir(parents=True, exist_ok=True)
        if place == 'link':
            to.symlink_to(source.absolute())
        else:
            shutil.copyfile(source, to)
    return put if place != 'none' else lambda name, to: None


def by_image(content: dict) -> dict:
    found = defaultdict(list)
    for a in content['annotations']:
        found[a['image_id']].append(a)
    return found


def write_coco(contents: dict[str, dict], folder: Path, put: Callable[[str, Path], None], offset: int) -> None:
    for split, content in contents.items():
        write_json(folder / 'annotations' / f'{split}.json', content)
        for image in content['images']:
            put(image['file_name'], folder / 'images' / image['file_name'])


def write_voc(contents: dict[str, dict], folder: Path, put: Callable[[str, Path], None], offset: int) -> None:
    """Write Annotations, JPEGImages, ImageSets/Main/SPLIT.txt, and labels.txt with the class order."""
    (folder / 'Annotations').mkdir()
    (folder / 'ImageSets' / 'Main').mkdir(parents=True)
    for split, content in contents.items():
        names, objects = {c['id']: c['name'] for c in content['categories']}, by_image(content)
        (folder / 'labels.txt').write_text(''.join(f'{n}\n' for n in names.values()), encoding='utf-8')     # the same for each split
        for image in content['images']:
            name = Path(image['file_name'])
            xml = voc_xml(image, [(names[a['category_id']], a) for a in objects[image['id']]], offset)
            target = folder / 'Annotations' / f'{name.stem}.xml'
            if target.is_file() and target.read_text(encoding='utf-8') != xml:
                raise ValueError(f"'{image['file_name']}' of {split}: another split has an image of the name '{name.stem}' with other "
                                 f'objects, and VOC has one file for both. Rename one of them, or write each split into a folder of its '
                                 f'own.')
            target.write_text(xml, encoding='utf-8')
            put(image['file_name'], folder / 'JPEGImages' / name.name)
        stems = ''.join(f'{Path(i["file_name"]).stem}\n' for i in content['images'])
        (folder / 'ImageSets' / 'Main' / f'{split}.txt').write_text(stems, encoding='utf-8')


def write_yolo(contents: dict[str, dict], folder: Path, put: Callable[[str, Path], None], offset: int) -> None:
    """Write images/SPLIT, labels/SPLIT and data.yaml; every image has a label file, empty if it has no objects."""
    import yaml
    first = next(iter(contents.values()))
    names = [c['name'] for c in first['categories']]
    described = {'path': '.', 'names': dict(enumerate(names))}
    for split, content in contents.items():
        labels, objects = {c['id']: n for n, c in enumerate(content['categories'])}, by_image(content)
        polygons = all_polygons(content)
        for image in content['images']:
            picture = folder / 'images' / split / image['file_name']
            put(image['file_name'], picture)
            text = label_file(picture)
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(yolo_lines(image, objects[image['id']], labels, polygons))
        (folder / 'images' / split).mkdir(parents=True, exist_ok=True)
        described[split] = f'images/{split}'
    (folder / 'data.yaml').write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), encoding='utf-8')
