"""COCO's annotation format (https://cocodataset.org/#format-data)."""
from __future__ import annotations

import json
import logging
import os.path as osp
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from detkit.data.datasets.coco_classes import COCO_CLASSES, COCO_PALETTE
from detkit.data.datasets.detection import DetDataset
from detkit.registry import DATASETS, ConfigError, did_you_mean
from detkit.structures.masks import run_lengths

MAX_NAMED = 10      # classes that a message lists
LARGEST = 10**7     # pixels; a coordinate beyond it is a fault
KEYS = dict(images=('id', 'file_name', 'width', 'height'), categories=('id', 'name'), annotations=('image_id', 'category_id', 'bbox'))
IDS = ('id', 'image_id', 'category_id')
NEEDED = 'Give a COCO file: an object with the lists images, annotations, categories.'


class BrokenAnnotations(ValueError):
    """An annotation file that cannot be used; the message says where and what to do."""


Broken = Callable[[str, str], BrokenAnnotations]    # (fault, remedy) -> the error that names the file as well


@DATASETS.register_module()
class CocoDataset(DetDataset):
    """Boxes and masks from a COCO JSON file.

    Classes are mapped to labels by name, in the order of ``metainfo['classes']``; objects of other classes are left out. Crowds
    are marked as ignored. Boxes that lie outside their image or have a side below one pixel are left out, as in MMDetection,
    and counted in a warning; so are masks that cannot be drawn. ``data_prefix=dict(seg=...)``: folder of semantic maps, which are named
    as the images with the ending ``seg_map_suffix``.

    Raises:
        ConfigError: a class is not in the file. BrokenAnnotations: the file cannot be used.
    """

    METAINFO = dict(classes=COCO_CLASSES, palette=COCO_PALETTE)

    def load_data_list(self) -> list[dict]:
        content = read_coco(self.ann_file)
        names = {c['id']: c['name'] for c in content['categories']}
        classes = self._metainfo['classes']
        self.check_classes(list(names.values()))
        self.cat2label = {i: classes.index(n) for i, n in names.items() if n in classes}
        self.cat_ids = sorted(self.cat2label, key=self.cat2label.get)
        by_image: dict[Any, list[dict]] = {image['id']: [] for image in content['images']}
        for annotation in content['annotations']:
            by_image[annotation['image_id']].append(annotation)
        faults: dict[str, list] = {}
        data = [self.parse(image, by_image[image['id']], faults) for image in content['images']]
        for fault, ids in faults.items():
            print_log(f'{self.ann_file}: {len(ids)} {fault} (first: annotation {ids[0]}).', 'current', logging.WARNING)
        return data

    def check_classes(self, in_file: list[str]) -> None:
        """Raise ConfigError when a wanted class is not in the file: it could never be learnt, nor found."""
        wanted = self._metainfo['classes']
        missing = [c for c in wanted if c not in in_file]
        if missing:
            hint = did_you_mean(missing[0], in_file)
            given = 'metainfo.classes' if wanted != COCO_CLASSES else 'the 80 COCO classes (no metainfo is given)'
            raise ConfigError(f'{self.ann_file}: {len(missing)} of {len(wanted)} classes of {given} are not in this file: '
                              f'{listed(missing)}.{hint} It has: {listed(in_file)}. Set metainfo=dict(classes=(...)) of the dataset.')

    def parse(self, image: dict, annotations: list[dict], faults: dict[str, list]) -> dict:
        """One image's entry of the data list; boxes become xyxy. ``faults``: what was left out -> ids of the annotations; added to."""
        width, height = int(image['width']), int(image['height'])
        instances = []
        for a in annotations:
            if a['category_id'] not in self.cat2label or a.get('ignore', False):
                continue
            x, y, w, h = a['bbox']
            fault = box_fault(a, width, height)
            if fault:
                faults.setdefault(f'boxes are left out: {fault}', []).append(a.get('id'))
                continue
            instance = dict(bbox=[x, y, x + w, y + h], bbox_label=self.cat2label[a['category_id']], ignore_flag=int(a.get('iscrowd', 0)))
            mask = a.get('segmentation')
            fault = mask_fault(mask, width, height) if mask else ''
            if fault:
                faults.setdefault(f'masks cannot be drawn (training of masks ignores the objects): {fault}', []).append(a.get('id'))
            elif mask:
                instance['mask'] = mask
            instances.append(instance)
        entry = dict(img_id=image['id'], img_path=osp.join(self.data_prefix.get('img', ''), image['file_name']), height=height,
                     width=width, instances=instances)
        if self.data_prefix.get('seg'):
            entry['seg_map_path'] = osp.join(self.data_prefix['seg'], osp.splitext(image['file_name'])[0] + self.seg_map_suffix)
        if self.return_classes:
            entry.update(text=self._metainfo['classes'], custom_entities=True)
        return entry


def box_fault(annotation: dict, width: int, height: int) -> str:
    """Why MMDetection would leave this object out, or ''."""
    x, y, w, h = annotation['bbox']
    if w < 1 or h < 1 or annotation.get('area', 1) <= 0:
        return 'a side is shorter than a pixel, or the area is 0'
    if min(x + w, width) - max(x, 0) <= 0 or min(y + h, height) - max(y, 0) <= 0:
        return 'they lie outside their image'
    return ''


def mask_fault(mask: Any, width: int, height: int) -> str:
    """Why ``segmentation`` cannot be drawn, or ''. An object keeps those of its polygons that can."""
    if isinstance(mask, list):
        if not all(isinstance(p, list) and set(map(type, p)) <= {int, float} for p in mask):
            return 'a polygon is not a list of numbers x1, y1, x2, y2, ...'
        return '' if any(len(p) >= 6 and len(p) % 2 == 0 for p in mask) else 'a polygon needs three points, an x and a y each'
    if not isinstance(mask, dict) or not isinstance(mask.get('counts'), (list, str)):
        return 'neither polygons nor run lengths'
    if mask.get('size') != [height, width]:
        return "the size of the run lengths is not the image's (height, width)"
    try:
        runs = run_lengths(mask['counts'])
    except ValueError:
        return 'the run lengths cannot be read'
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        return 'the run lengths do not add up to the image'
    return ''


def listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ', '.join(map(str, names[:MAX_NAMED])) + (f' and {more} more' if more > 0 else '')


def read_coco(path: str) -> dict:
    """Read and check a COCO file: keys, types, ids, and that file names stay below the image folder.

    Raises:
        BrokenAnnotations: naming the file, the entry and the remedy.
    """
    def broken(what: str, remedy: str) -> BrokenAnnotations:
        return BrokenAnnotations(f'{path}: {what}. {remedy}')

    try:
        text = Path(path).read_bytes().decode('utf-8-sig')
        content = json.loads(text)
    except FileNotFoundError:
        raise BrokenAnnotations(f'{path}: there is no such annotation file. Check data_root and ann_file of the dataset.') from None
    except OSError as error:
        raise broken(f'cannot be read ({error.strerror})', 'Give the path of a readable JSON file.') from None
    except UnicodeDecodeError as error:
        raise broken(f'byte {error.start} is not UTF-8', 'Save the file as UTF-8.') from None
    except json.JSONDecodeError as error:
        raise broken(f'not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})',
                     'Was it copied or downloaded in full?') from None
    except ValueError as error:     # a number of thousands of digits
        raise broken(f'not valid JSON ({error})', 'Write it again with its exporter.') from None
    except RecursionError:
        raise broken('nested too deeply to be an annotation file', 'Write it again with its exporter.') from None
    if not isinstance(content, dict):
        raise broken(f'the top level is a {type(content).__name__}, not an object', NEEDED)
    for key in KEYS:
        if not isinstance(content.get(key), list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise broken(f"the key '{key}' is missing or not a list of objects", NEEDED)
    check_entries(content, broken)
    return content


def check_entries(content: dict, broken: Broken) -> None:
    for kind, keys in KEYS.items():
        for n, entry in enumerate(content[kind]):
            lacking = [k for k in keys if k not in entry]
            if lacking:
                raise broken(f"{kind}[{n}] (id {entry.get('id')}) has no '{lacking[0]}'", 'Add it, or remove the entry.')
            for key in IDS:
                if not isinstance(entry.get(key, 0), (int, float, str)):
                    raise broken(f'{kind}[{n}] has the {key} {entry[key]}', 'An id is a whole number.')
        counts = Counter(str(e['id']) for e in content[kind] if 'id' in e)
        twice = [i for i, c in counts.items() if c > 1]
        if twice:
            raise broken(f'the id {twice[0]} stands {counts[twice[0]]} times in {kind}', 'Give each entry an id of its own.')
    for category in content['categories']:
        if not isinstance(category['name'], str):
            raise broken(f"category {category['id']} has the name {category['name']}", 'A name is a string.')
    for image in content['images']:
        check_image(image, broken)
    images, categories = {i['id'] for i in content['images']}, {c['id'] for c in content['categories']}
    for a in content['annotations']:
        check_annotation(a, images, categories, broken)


def check_image(image: dict, broken: Broken) -> None:
    where, name = f"image {image['id']}", image['file_name']
    sizes = image['width'], image['height']
    if not all(type(s) in (int, float) and 0 < s < LARGEST and s == int(s) for s in sizes):
        raise broken(f'{where} has width and height {sizes}', 'Write its size in whole pixels.')
    parts = str(name).replace('\\', '/').split('/')
    if not isinstance(name, str) or '\0' in name or not name or '..' in parts or parts[0] == '' or ':' in parts[0]:
        raise broken(f'{where} has the file_name {name!r}, which is no path below the image folder',
                     'Use a path relative to data_prefix.img.')


def check_annotation(annotation: dict, images: set, categories: set, broken: Broken) -> None:
    where = f"annotation {annotation.get('id')}"
    for key, known in (('image_id', images), ('category_id', categories)):
        if annotation[key] not in known:
            raise broken(f'{where} has the {key} {annotation[key]}, which is not in the file',
                         f'Add that {key[:-3]}, or remove the annotation.')
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) and -LARGEST < v < LARGEST for v in box):
        raise broken(f'{where} has the bbox {box}', 'A box is four finite numbers x, y, width, height, in pixels.')
    if box[2] < 0 or box[3] < 0:
        raise broken(f'{where} has the bbox {box} of negative size', 'A box is x, y, width, height; width and height are not negative.')
    if type(annotation.get('area', 0)) not in (int, float) or annotation.get('iscrowd', 0) not in (0, 1):
        raise broken(f"{where} has the area {annotation.get('area')} and iscrowd {annotation.get('iscrowd')}",
                     'area is a number of pixels, iscrowd is 0 or 1; both may be left out.')
