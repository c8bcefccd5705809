"""Find errors in readable annotations, by comparing each with its image and with the others."""
from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from detkit.data.classes import similar_names
from detkit.data.datasets.entries import box_fault, mask_fault
from detkit.doctor.findings import Report

ROUNDING = 1.0       # pixels by which a box may extend beyond its image
FAR = 5.0            # robust standard deviations from the median log size of the class; beyond it: an outlier
FEW = 30             # a class with fewer objects has no outliers


def examine_annotations(content: dict, split: str, source: str, report: Report, path_of: dict[Any, str]) -> None:
    """Report the errors of ``content``, a COCO dict of valid entries. ``path_of``: image id -> its file."""
    images = {i['id']: i for i in content['images']}
    names = {c['id']: c['name'] for c in content['categories']}
    lists(content, names, split, source, report)
    seen: dict[tuple, Any] = {}
    for a in content['annotations']:
        image = images[a['image_id']]
        x, y, w, h = a['bbox']
        place = f"{source}: annotation {a.get('id')} on {image['file_name']}"
        picture = dict(path=path_of[image['id']], boxes=[[x, y, x + w, y + h]])

        def add(level: str, kind: str, what: str, remedy: str, place: str = place, picture: dict = picture) -> None:
            report.add(level, kind, split, f'{place} {what}', remedy, picture)
        one(a, image, add)
        key = (a['image_id'], a['category_id'], *a['bbox'])
        if key in seen:
            add('warning', 'object twice', f"repeats annotation {seen[key]} ('{names[a['category_id']]}', bbox {a['bbox']})",
                'Remove one of them (detkit doctor --fix does).')
        seen.setdefault(key, a.get('id'))
    outliers(content, names, images, split, source, report, path_of)


def one(a: dict, image: dict, add: Any) -> None:
    """Report the errors of a single annotation."""
    x, y, w, h = a['bbox']
    width, height = image['width'], image['height']
    drop = 'Correct the box, or remove it (detkit doctor --fix does).'
    left_out = box_fault(a, width, height)              # training and evaluation leave it out and count it
    if left_out:
        kind = 'box without area' if w == 0 or h == 0 else 'box outside its image' if left_out.startswith('they lie') else \
            'box below a pixel' if w < 1 or h < 1 else 'area of 0'
        size = f', the image is {width}x{height}' if kind == 'box outside its image' else ''
        add('warning', kind, f'has the bbox {a["bbox"]}{size}' + (f' and area={a["area"]}' if kind == 'area of 0' else ''),
            'Training leaves it out. ' + drop)
    elif min(x, y) < -ROUNDING or x + w > width + ROUNDING or y + h > height + ROUNDING:
        add('fault', 'box leaves its image', f'has the bbox {a["bbox"]}, the image is {width}x{height}',
            'Is it [x, y, width, height] in pixels of this image? Cut it at the border (detkit doctor --fix does).')
    mask = a.get('segmentation')
    if not mask:
        return
    fault = mask_fault(mask, width, height)
    if fault:
        add('fault', 'mask unusable', f'has a segmentation that cannot be drawn: {fault}',
                'Export it again, or remove it (detkit doctor --fix does).')
    elif isinstance(mask, list):
        polygons = [np.asarray(p, float) for p in mask if len(p) >= 6 and len(p) % 2 == 0]
        low, right, bottom = min(p.min() for p in polygons), *(max(p[k::2].max() for p in polygons) for k in (0, 1))
        if low < -ROUNDING or right > width + ROUNDING or bottom > height + ROUNDING:
            add('fault', 'mask leaves its image', f'has a polygon from {low:g} to ({right:g}, {bottom:g}), the image is {width}x{height}',
                'Cut it at the border, or remove it (detkit doctor --fix does).')
        if any(len(p) < 6 or len(p) % 2 for p in mask):
            add('fault', 'polygon broken', 'has a polygon without three points of an x and a y',
                'Remove that polygon (detkit doctor --fix does).')


def lists(content: dict, names: dict, split: str, source: str, report: Report) -> None:
    """Report missing or duplicate entries of the lists."""
    def add(level: str, kind: str, what: str, remedy: str) -> None:
        report.add(level, kind, split, f'{source}: {what}', remedy)
    if not content['images']:
        add('fault', 'no images', 'it lists no images', 'Is it the right file?')
    if not names:
        add('fault', 'no classes', 'it lists no categories', 'Add them; each has an id and a name.')
    for name, n in Counter(names.values()).items():
        if n > 1:
            add('warning', 'class name twice', f"{n} categories are called '{name}'", 'They become one label. Rename or join them '
                                                                                      '(detkit doctor --fix joins).')
    for name, other in similar_names(list(names.values())):
        add('warning', 'class names alike', f"'{name}' and '{other}' differ in spelling alone", 'They are two classes. If they mean one, '
                                                                                               'write both alike.')
    for name, n in Counter(i['file_name'] for i in content['images']).items():
        if n > 1:
            add('fault', 'file listed twice', f"'{name}' stands in {n} images",
                'Join their annotations in one entry (detkit doctor --fix does where their sizes agree).')


def outliers(content: dict, names: dict, images: dict, split: str, source: str, report: Report, path_of: dict[Any, str]) -> None:
    """Report objects whose size or shape differs much from their class: often an annotation mistake."""
    sizes = defaultdict(list)
    for n, a in enumerate(content['annotations']):
        if min(a['bbox'][2:]) >= 1 and not a.get('iscrowd'):
            sizes[a['category_id']].append((n, *np.log(a['bbox'][2:])))
    for category, rows in sizes.items():
        if len(rows) < FEW:
            continue
        values = np.array(rows)
        features = np.stack([values[:, 1] + values[:, 2], values[:, 1] - values[:, 2]], 1)     # log area, log aspect
        middle = np.median(features, 0)
        spread = np.maximum(1.4826 * np.median(np.abs(features - middle), 0), 0.05)
        far = np.abs(features - middle) / spread
        for row, score in zip(values[far.max(1) > FAR], far[far.max(1) > FAR]):
            a = content['annotations'][int(row[0])]
            x, y, w, h = a['bbox']
            what = 'size' if score[0] >= score[1] else 'shape'
            place = f"{source}: annotation {a.get('id')} on {images[a['image_id']]['file_name']}"
            report.add('note', 'label outlier', split, f"{place}: its {what} ({w:g}x{h:g}) is far from that of other '{names[category]}'",
                       'Look at it: is the class right, the box whole?',
                       dict(path=path_of[a['image_id']], boxes=[[x, y, x + w, y + h]]))
