"""COCO's annotation format (https://cocodataset.org/#format-data)."""
from __future__ import annotations

import json
import logging
import math
import os.path as osp
from collections import Counter
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from detkit.data.datasets.coco_classes import COCO_CLASSES, COCO_PALETTE
from detkit.data.datasets.detection import DetDataset
from detkit.registry import DATASETS, ConfigError, did_you_mean

MAX_NAMED = 10      # classes or ids that a message lists


class BrokenAnnotations(ValueError):
    """An annotation file that cannot be used; the message says where and what to do."""


@DATASETS.register_module()
class CocoDataset(DetDataset):
    """Boxes and masks from a COCO JSON file.

    Classes are mapped to labels by name, in the order of ``metainfo['classes']``; objects of other classes are left out. Crowds
    are marked as ignored. Boxes that lie outside their image or have a side below one pixel are skipped, as MMDetection does,
    and counted.

    Raises:
        ConfigError: a class is not in the file. BrokenAnnotations: the file cannot be used.
    """

    METAINFO = dict(classes=COCO_CLASSES, palette=COCO_PALETTE)

    def load_data_list(self) -> list[dict]:
        content = read_coco(self.ann_file)
        names = {c['id']: c['name'] for c in content['categories']}
        self.check_classes(list(names.values()))
        self.label_of = {i: self.metainfo['classes'].index(n) for i, n in names.items() if n in self.metainfo['classes']}
        self.cat_ids = [i for i, _ in sorted(self.label_of.items(), key=lambda item: item[1])]
        self.cat2label = dict(self.label_of)
        by_image: dict[Any, list[dict]] = {image['id']: [] for image in content['images']}
        for annotation in content['annotations']:
            by_image[annotation['image_id']].append(annotation)
        skipped: Counter = Counter()
        data = [self.parse(image, by_image[image['id']], skipped) for image in content['images']]
        for reason, count in skipped.items():
            print_log(f'{self.ann_file}: {count} boxes skipped: {reason}.', 'current', logging.WARNING)
        return data

    def check_classes(self, in_file: list[str]) -> None:
        """Raise ConfigError when a wanted class is not in the file: it could never be learnt, nor found."""
        wanted = self.metainfo.get('classes', ())
        missing = [c for c in wanted if c not in in_file]
        if missing:
            hint = did_you_mean(missing[0], in_file)
            given = 'metainfo.classes' if self.metainfo.get('classes') != COCO_CLASSES else 'the 80 COCO classes (no metainfo is given)'
            raise ConfigError(f'{self.ann_file}: {len(missing)} of {len(wanted)} classes of {given} are not in this file: '
                              f'{listed(missing)}.{hint} It has: {listed(in_file)}. Set metainfo=dict(classes=(...)) of the dataset.')

    def parse(self, image: dict, annotations: list[dict], skipped: Counter) -> dict:
        """One image's entry of the data list; boxes become xyxy."""
        width, height = image['width'], image['height']
        instances = []
        for a in annotations:
            if a['category_id'] not in self.label_of or a.get('ignore', False):
                continue
            x, y, w, h = a['bbox']
            if min(x + w, width) - max(x, 0) <= 0 or min(y + h, height) - max(y, 0) <= 0:
                skipped['they lie outside their image'] += 1
                continue
            if a.get('area', 1) <= 0 or w < 1 or h < 1:
                skipped['a side is shorter than a pixel, or the area is 0'] += 1
                continue
            instance = dict(bbox=[x, y, x + w, y + h], bbox_label=self.label_of[a['category_id']], ignore_flag=int(bool(a.get('iscrowd'))))
            if a.get('segmentation'):
                instance['mask'] = a['segmentation']
            instances.append(instance)
        return dict(img_id=image['id'], img_path=osp.join(self.data_prefix.get('img', ''), image['file_name']), height=height,
                    width=width, instances=instances,
                    **(dict(text=self.metainfo['classes'], custom_entities=True) if self.return_classes else {}))


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
    except (IsADirectoryError, PermissionError) as error:
        raise broken(f'cannot be read ({error.strerror})', 'Give the path of a readable JSON file.') from None
    except UnicodeDecodeError as error:
        raise broken(f'byte {error.start} is not UTF-8', 'Save the file as UTF-8.') from None
    except json.JSONDecodeError as error:
        raise broken(f'not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})',
                     'Was it copied or downloaded in full?') from None
    except RecursionError:
        raise broken('nested too deeply to be an annotation file', 'Write it again with its exporter.') from None
    if not isinstance(content, dict):
        raise broken(f'the top level is a {type(content).__name__}, not an object', 'Give a COCO file, with images, annotations, categories.')
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content.get(key), list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise broken(f"the key '{key}' is missing or not a list of objects", 'Give a COCO file, with images, annotations, categories.')
    check_entries(content, broken)
    return content


def check_entries(content: dict, broken: Any) -> None:
    for kind, keys in (('images', ('id', 'file_name', 'width', 'height')), ('categories', ('id', 'name')),
                       ('annotations', ('image_id', 'category_id', 'bbox'))):
        for n, entry in enumerate(content[kind]):
            lacking = [k for k in keys if k not in entry]
            if lacking:
                raise broken(f"{kind}[{n}] (id {entry.get('id')}) has no '{lacking[0]}'", 'Add it, or remove the entry.')
    for kind in ('images', 'categories', 'annotations'):
        counts = Counter(str(e['id']) for e in content[kind] if 'id' in e)
        twice = [i for i, c in counts.items() if c > 1]
        if twice:
            raise broken(f'the id {twice[0]} stands {counts[twice[0]]} times in {kind}', 'Give each entry an id of its own.')
    for image in content['images']:
        check_image(image, broken)
    images, categories = {i['id'] for i in content['images']}, {c['id'] for c in content['categories']}
    for a in content['annotations']:
        where = f"annotation {a.get('id')}"
        if a['image_id'] not in images:
            raise broken(f"{where} belongs to image {a['image_id']}, which is not in the file", 'Add the image, or remove the annotation.')
        if a['category_id'] not in categories:
            raise broken(f"{where} has category {a['category_id']}, which is not in the file", 'Add the category, or remove the annotation.')
        check_box(a['bbox'], where, broken)


def check_image(image: dict, broken: Any) -> None:
    where, name = f"image {image['id']}", image['file_name']
    sizes = image['width'], image['height']
    if not all(isinstance(s, int) and s > 0 for s in sizes):
        raise broken(f'{where} has width and height {sizes}', 'Write its size in whole pixels.')
    parts = str(name).replace('\\', '/').split('/')
    if not isinstance(name, str) or not name or '..' in parts or parts[0] == '' or ':' in parts[0]:
        raise broken(f"{where} has the file_name '{name}', which leads out of the image folder", 'Use a path relative to data_prefix.img.')


def check_box(box: Any, where: str, broken: Any) -> None:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or not all(math.isfinite(v) and abs(v) < 1e7 for v in box):
        raise broken(f'{where} has the bbox {box}', 'A box is four finite numbers x, y, width, height, in pixels.')
    if box[2] < 0 or box[3] < 0:
        raise broken(f'{where} has the bbox {box} of negative size', 'A box is x, y, width, height; width and height are not negative.')
