"""Operations on whole annotation files, as COCO dicts: statistics, split, merge, sample, subset. Inputs are not changed.

Categories with the same name are merged into the first.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.classes import join_categories
from detkit.registry import did_you_mean

SMALL, MEDIUM = 32**2, 96**2      # COCO's area limits, square pixels


def statistics(content: dict) -> dict[str, Any]:
    """Return counts of a valid COCO dict, as plain numbers: images, sizes, objects, classes, unusual entries."""
    images = {i['id']: i for i in content['images']}
    names = {c['id']: c['name'] for c in content['categories']}
    per_image, per_class, images_of = Counter(), Counter(), defaultdict(set)
    for a in content['annotations']:
        per_image[a['image_id']] += 1
        per_class[names[a['category_id']]] += 1
        images_of[names[a['category_id']]].add(a['image_id'])
    areas = np.array([a['bbox'][2] * a['bbox'][3] for a in content['annotations']], float)
    shares = np.array([areas[n] / (images[a['image_id']]['width'] * images[a['image_id']]['height'])
                       for n, a in enumerate(content['annotations'])])
    counts = [per_image[i] for i in images]
    return dict(
        images=len(images), objects=len(content['annotations']), classes=len(names),
        images_without_objects=sum(c == 0 for c in counts), objects_per_image=quantiles(counts),
        width=quantiles([i['width'] for i in images.values()]), height=quantiles([i['height'] for i in images.values()]),
        small=int((areas < SMALL).sum()), medium=int(((areas >= SMALL) & (areas < MEDIUM)).sum()), large=int((areas >= MEDIUM).sum()),
        box_side=quantiles(np.sqrt(areas)), box_share_of_image=quantiles(shares),
        crowds=sum(bool(a.get('iscrowd')) for a in content['annotations']),
        with_mask=sum(bool(a.get('segmentation')) for a in content['annotations']),
        per_class={name: dict(objects=per_class[name], images=len(images_of[name])) for name in names.values()})


def quantiles(values: Sequence[float]) -> list[float]:
    """Return minimum, lower quartile, median, upper quartile and maximum; [] without values."""
    return [round(float(v), 4) for v in np.quantile(values, [0, .25, .5, .75, 1])] if len(values) else []


def statistics_text(found: dict[str, Any]) -> str:
    def spread(key: str) -> str:
        return ' .. '.join(f'{v:g}' for v in found[key]) or '-'
    head = '{images} images, {objects} objects of {classes} classes; {images_without_objects} images without objects\n' \
           "{crowds} crowds, {with_mask} with a mask; small {small}, medium {medium}, large {large} (COCO's areas)\n"
    lines = [head.format(**found), f"{'':24}least .. quarter .. median .. three quarters .. largest"]
    lines += [f'{key.replace("_", " "):24}{spread(key)}' for key in
              ('width', 'height', 'objects_per_image', 'box_side', 'box_share_of_image')]
    width = max((len(n) for n in found['per_class']), default=5)
    lines += ['', f"{'class':{width}}  objects  images"]
    lines += [f"{name:{width}}  {c['objects']:7}  {c['images']:6}" for name, c in sorted(found['per_class'].items(),
                                                                                        key=lambda x: -x[1]['objects'])]
    return '\n'.join(lines)


def of_images(content: dict, ids: set) -> dict:
    """Return only the images with these ``ids`` and their annotations; ids do not change."""
    return {**content, 'images': [i for i in content['images'] if i['id'] in ids],
            'annotations': [a for a in content['annotations'] if a['image_id'] in ids]}


def split(content: dict, shares: dict[str, float], seed: int = 0) -> dict[str, dict]:
    """Split into parts with about ``shares`` of the images and of the objects of each class; each part has at least one image.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data, 2011): repeatedly take the
    rarest remaining class and assign its images, one by one, to the part that still needs most of it. Images with the same file name
    stay together.

    Raises:
        ValueError: the shares do not add up to 1, or there are fewer images than parts.
    """
    if any(s <= 0 for s in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f'the shares {", ".join(f"{k}={v:g}" for k, v in shares.items())} are to be positive and add up to 1.')
    if len(content['images']) < len(shares):
        raise ValueError(f'{len(content["images"])} images cannot be split into {len(shares)} parts.')
    content = join_categories(content)[0]
    rng = np.random.default_rng(seed)
    images = [content['images'][i]['id'] for i in rng.permutation(len(content['images']))]
    labels: dict[Any, Counter] = {i: Counter() for i in images}
    for a in content['annotations']:
        labels[a['image_id']][a['category_id']] += 1
    total = sum(labels.values(), Counter())
    lacking = {part: {c: n * share for c, n in total.items()} for part, share in shares.items()}
    room = {part: len(images) * share for part, share in shares.items()}
    part_of: dict[Any, str] = {}

    def put(image: Any, part: str) -> None:
        part_of[image] = part
        room[part] -= 1
        for c, n in labels[image].items():
            lacking[part][c] -= n
    holders: dict[Any, list] = defaultdict(list)
    for image in images:
        for c in labels[image]:
            holders[c].append(image)
    for c in sorted(holders, key=lambda c: (len(holders[c]), str(c))):
        for image in sorted((i for i in holders[c] if i not in part_of), key=lambda i: -labels[i][c]):
            put(image, max(shares, key=lambda part: (lacking[part][c], room[part])))
    for image in images:
        if image not in part_of:
            put(image, max(shares, key=room.get))
    counts = Counter(part_of.values())
    for part in shares:                                   # a small share of few images may give an empty part
        if not counts[part]:
            largest = counts.most_common(1)[0][0]
            part_of[next(i for i in reversed(images) if part_of[i] == largest)] = part
            counts[largest], counts[part] = counts[largest] - 1, 1
    return {part: of_images(content, {i for i in images if part_of[i] == part}) for part in shares}


def merge(contents: Sequence[dict], prefixes: Sequence[str] | None = None) -> dict:
    """Merge COCO dicts into one, with new ids; categories are matched by name, in order of first occurrence.

    ``prefixes``: a folder for the file names of each dict, if the images are in different folders.

    Raises:
        ValueError: two images would have the same file name.
    """
    images, annotations, numbers, seen = [], [], {}, {}
    for n, content in enumerate(contents):
        folder = prefixes[n].strip('/') + '/' if prefixes and prefixes[n] else ''
        names = {c['id']: c['name'] for c in content['categories']}
        for name in names.values():
            numbers.setdefault(name, len(numbers) + 1)
        ids = {}
        for image in content['images']:
            name = folder + image['file_name']
            if name in seen:
                raise ValueError(f"the file name '{name}' stands in part {seen[name] + 1} and in part {n + 1}. Give each part a folder "
                                 f'of its own (--prefixes), or leave one of the images out.')
            seen[name] = n
            ids[image['id']] = len(images) + 1
            images.append({**image, 'id': len(images) + 1, 'file_name': name})
        annotations += [{**a, 'id': len(annotations) + i, 'image_id': ids[a['image_id']], 'category_id': numbers[names[a['category_id']]]}
                        for i, a in enumerate(content['annotations'], 1)]
    return dict(images=images, annotations=annotations, categories=[dict(id=n, name=name) for name, n in numbers.items()])


def sample(content: dict, count: int, seed: int = 0) -> dict:
    """Return ``count`` random images, in the order of the file.

    Raises:
        ValueError: there are fewer images.
    """
    if not 0 < count <= len(content['images']):
        raise ValueError(f'{count} images cannot be drawn from {len(content["images"])}.')
    content = join_categories(content)[0]
    chosen = np.random.default_rng(seed).choice(len(content['images']), count, replace=False)
    return of_images(content, {content['images'][i]['id'] for i in chosen})


def subset(content: dict, classes: Sequence[str] | None = None, drop_empty: bool = False) -> dict:
    """Return only the objects of ``classes``, with categories in that order; ``drop_empty``: drop images without objects.

    Raises:
        ValueError: a class does not exist.
    """
    content = join_categories(content)[0]
    names = {c['name']: c for c in content['categories']}
    for name in classes or ():
        if name not in names:
            raise ValueError(f"there is no class '{name}'.{did_you_mean(name, names)} There are: {', '.join(names)}.")
    kept = [names[n] for n in dict.fromkeys(classes)] if classes else content['categories']
    ids = {c['id'] for c in kept}
    out = {**content, 'categories': kept, 'annotations': [a for a in content['annotations'] if a['category_id'] in ids]}
    return of_images(out, {a['image_id'] for a in out['annotations']}) if drop_empty else out
