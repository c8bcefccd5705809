"""Convert a COCO dict to the list of entries that a pipeline starts from; the same for every annotation format."""
from __future__ import annotations

import logging
import os.path as osp
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import print_log

from detkit.data.classes import spelled_otherwise
from detkit.data.formats.pictures import picture_path
from detkit.registry import ConfigError, did_you_mean
from detkit.structures.masks import run_lengths

MAX_NAMED = 10      # maximum number of classes listed in a message
MAX_LEFT_OUT_FRACTION = 0.25    # of all objects; above it, a warning is given
MAX_LEAVING_FRACTION = 0.25     # of all boxes; above it, a warning says that boxes extend beyond their image
MAX_IGNORED_FRACTION = 0.5      # of all objects; the same for regions that the annotations mark as ignored

# Why training does not use an object; each string completes "12 objects ...".
OTHER_CLASS = 'are of a class that metainfo.classes does not name'
MARKED_IGNORE = "are marked 'ignore'"
IGNORED_REGION = "are regions to ignore (iscrowd, or 'difficult' of VOC)"
BELOW_MIN_SIZE = 'have a side below filter_cfg.bbox_min_size'
SMALL_IMAGE = 'are in images with a side below filter_cfg.min_size'
WITHOUT_MASK = 'have no mask, which LoadAnnotations(with_mask=True) asks for'
SHARES = 'have a box between 0 and 1: a share of the image, where pixels are needed'


@dataclass
class ObjectCounts:
    """The number of objects of an annotation file that a dataset uses for training, and why the other objects are left out."""

    used: int = 0
    masks: int = 0           # how many of the used objects have a mask
    leaving: int = 0         # boxes that extend beyond their image by more than one pixel
    corners: int = 0         # how many of these boxes would fit if x, y, width, height were x1, y1, x2, y2
    left_out: Counter[str] = field(default_factory=Counter)      # reason -> number of objects

    @property
    def total(self) -> int:
        return self.used + self.left_out.total()

    @property
    def boxes_leaving(self) -> str:
        """Return a sentence on the boxes that extend beyond their image and the possible reason; '' if they are few."""
        if not self.leaving or self.leaving <= MAX_LEAVING_FRACTION * self.total:
            return ''
        hint = ' Read as x1, y1, x2, y2 they would fit, and COCO writes x, y, width, height: convert them.' \
            if self.corners == self.leaving else ' Are they in pixels of these images?'
        return f'{self.leaving} of {self.total} boxes leave their image.{hint}'

    @property
    def is_much_left_out(self) -> bool:
        """Return whether the fraction of objects left out suggests a mistake; up to half of all objects may be marked as ignored."""
        regions = self.left_out[IGNORED_REGION]
        return self.left_out.total() - regions > MAX_LEFT_OUT_FRACTION * self.total or regions > MAX_IGNORED_FRACTION * self.total

    def __str__(self) -> str:
        if not self.total:
            return 'it lists no object'
        reasons = '; '.join(f'{n} {reason}' for reason, n in self.left_out.most_common() if n)
        return f'of {self.total} objects {self.used} are left' + (f': {reasons}' if reasons else '')


def label_of_category(content: dict, classes: tuple[str, ...], source: str, complete: bool, given: str) -> dict[Any, int]:
    """Map category ids to labels, by name. ``complete``: the categories of this format list all classes, so each class must be in them.

    Raises:
        ConfigError: a requested class is not in the file, so it could not be learned. For formats that do not list their classes, only
            if none of the requested classes occurs.
    """
    names = {c['id']: c['name'] for c in content['categories']}
    in_file = list(names.values())
    missing = [c for c in classes if c not in in_file]
    if missing and (complete or len(missing) == len(classes) and in_file):
        hint = did_you_mean(missing[0], in_file)
        shown = [repr(name) for name in in_file] if any(name != name.strip() for name in in_file) else in_file
        raise ConfigError(f'{source}: {len(missing)} of {len(classes)} classes of {given} are not in this file: {listed(missing)}.{hint} '
                          f'It has: {listed(shown)}. Set metainfo=dict(classes=(...)) of the dataset to names of the file, or correct the '
                          f'names there.')
    if not complete:
        refuse_spellings(classes, in_file, source)
        warn_left_out(content, {i: n for i, n in names.items() if n not in classes}, source)
    return {i: classes.index(n) for i, n in names.items() if n in classes}


def refuse_spellings(classes: Sequence[str], in_file: Sequence[str], source: str) -> None:
    """Raise ConfigError if a name in a file differs from a class only in case, spaces, '_' or '-'."""
    found = spelled_otherwise(in_file, classes)
    if found:
        raise ConfigError(f"{source}: it has the class '{found[0]}', and the data set's classes have '{found[1]}': two spellings of one "
                          f'name. Its objects would be left out. Write both alike.')


def warn_left_out(content: dict, others: dict[Any, str], source: str) -> None:
    counts = Counter(others[a['category_id']] for a in content['annotations'] if a['category_id'] in others)
    if counts:
        said = listed([f"'{name}' ({n})" for name, n in counts.most_common()])
        print_log(f'{source}: {counts.total()} objects of other classes are left out: {said}.', 'current', logging.WARNING)


def entries_of(content: dict, cat2label: dict[Any, int], prefix: dict[str, str], source: str, seg_map_suffix: str,
               counts: ObjectCounts) -> list[dict]:
    """Return the data list: one dict per image, with ``instances``; boxes become xyxy. Warnings and ``counts`` report what is left out."""
    by_image: dict[Any, list[dict]] = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        by_image[annotation['image_id']].append(annotation)
    faults: dict[str, list] = {}
    data = [entry_of(image, by_image[image['id']], cat2label, prefix, seg_map_suffix, faults, counts) for image in content['images']]
    for fault, ids in faults.items():
        print_log(f'{source}: {len(ids)} {fault} (first: annotation {ids[0]}).', 'current', logging.WARNING)
    return data


def entry_of(image: dict, annotations: list[dict], cat2label: dict[Any, int], prefix: dict[str, str], seg_map_suffix: str,
             faults: dict[str, list], counts: ObjectCounts) -> dict:
    """Return the entry of one image; updates ``faults`` (what was left out -> annotation ids) and ``counts``."""
    width, height = int(image['width']), int(image['height'])
    instances = []
    for a in annotations:
        if a['category_id'] not in cat2label or a.get('ignore', False):
            counts.left_out[MARKED_IGNORE if a['category_id'] in cat2label else OTHER_CLASS] += 1
            continue
        x, y, w, h = a['bbox']
        fault = box_fault(a, width, height)
        if fault:
            faults.setdefault(f'boxes are left out: {fault}', []).append(a.get('id'))
            counts.left_out[box_reason(a['bbox'], fault)] += 1
            continue
        if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
            counts.leaving += 1
            counts.corners += 0 <= x < w <= width and 0 <= y < h <= height
        ignored = int(bool(a.get('iscrowd', 0) or a.get('difficult', 0)))
        counts.left_out[IGNORED_REGION] += ignored
        instance = dict(bbox=[x, y, x + w, y + h], bbox_label=cat2label[a['category_id']], ignore_flag=ignored)
        mask = a.get('segmentation')
        fault = mask_fault(mask, width, height) if mask else ''
        if fault:
            faults.setdefault(f'masks cannot be drawn (training of masks ignores the objects): {fault}', []).append(a.get('id'))
        elif mask:
            instance['mask'] = mask
        instances.append(instance)
    entry = dict(img_id=image['id'], img_path=picture_path(prefix.get('img', ''), image['file_name']), height=height, width=width,
                 instances=instances)
    if prefix.get('seg'):
        entry['seg_map_path'] = picture_path(prefix['seg'], osp.splitext(image['file_name'])[0] + seg_map_suffix)
    return entry


def box_fault(annotation: dict, width: int, height: int) -> str:
    """Return why MMDetection would leave this object out, or ''."""
    x, y, w, h = annotation['bbox']
    if w < 1 or h < 1 or annotation.get('area', 1) <= 0:
        return 'a side is shorter than a pixel, or the area is 0'
    if min(x + w, width) - max(x, 0) <= 0 or min(y + h, height) - max(y, 0) <= 0:
        return 'they lie outside their image'
    return ''


def box_reason(box: list[float], fault: str) -> str:
    """Return the reason in ``ObjectCounts`` for a ``box`` (x, y, width, height) with a ``fault``; detects boxes in relative coordinates."""
    is_share = all(0 <= v <= 1 for v in box) and box[2] > 0 and box[3] > 0
    return SHARES if is_share else f'have boxes that are left out: {fault}'


def mask_fault(mask: Any, width: int, height: int) -> str:
    """Return why ``segmentation`` cannot be drawn, or ''. An object keeps its valid polygons."""
    if isinstance(mask, list):
        if not all(isinstance(p, list) and set(map(type, p)) <= {int, float} for p in mask):
            return 'a polygon is not a list of numbers x1, y1, x2, y2, ...'
        if not any(len(p) >= 6 and len(p) % 2 == 0 for p in mask):
            return 'a polygon needs three points, an x and a y each'
        is_share = all(0 <= v <= 1 for p in mask for v in p)
        return 'its points lie between 0 and 1: shares of the image, where pixels are needed' if is_share else ''
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
