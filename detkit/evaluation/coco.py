"""COCO metrics (https://cocodataset.org/#detection-eval) of a list of detections, equal to pycocotools'.

faster-coco-eval (C++) matches and accumulates; this module decides what to evaluate and how to average. It does not patch
pycocotools.
"""
from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkit.structures.masks import run_lengths

AREAS = ('all', 'small', 'medium', 'large')      # of objects: small is below 32^2 pixels, medium below 96^2, large above
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
COLUMNS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')


@dataclass(frozen=True, eq=False)
class CocoResult:
    """Precision and recall of one evaluation, and the usual averages.

    T IoU thresholds, R = 101 recall levels, K classes, 4 areas (``AREAS``), M limits on detections per image. -1 means
    undefined: a class or an area without objects. With ``class_agnostic``, K is 1.
    """

    iou_type: str
    classes: tuple[str, ...]
    iou_thrs: np.ndarray    # (T,)
    max_dets: tuple[int, ...]
    precision: np.ndarray   # (T, R, K, 4, M)
    recall: np.ndarray      # (T, K, 4, M)

    def ap(self, iou: float | None = None, area: str = 'all', max_dets: int | None = None,
           class_index: int | None = None) -> float:
        """Return the average precision in [0, 1]; -1 if the selection has no objects.

        ``iou``: one threshold (None: mean over all); ``max_dets``: one of the limits (None: the largest).
        """
        return self._mean(self.precision, iou, area, max_dets, class_index)

    def ar(self, iou: float | None = None, area: str = 'all', max_dets: int | None = None,
           class_index: int | None = None) -> float:
        """Return the average recall in [0, 1]; the arguments are those of ``ap``."""
        return self._mean(self.recall, iou, area, max_dets, class_index)

    def _mean(self, values: np.ndarray, iou: float | None, area: str, max_dets: int | None,
              class_index: int | None) -> float:
        limit = len(self.max_dets) - 1 if max_dets is None else self.max_dets.index(max_dets)
        values = values[..., AREAS.index(area), limit]
        if class_index is not None:
            values = values[..., class_index]
        if iou is not None:
            values = values[np.isclose(self.iou_thrs, iou, rtol=0, atol=1e-9)]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.

    @property
    def stats(self) -> dict[str, float]:
        """pycocotools' metrics by name, in its order: six AP, AR at each limit, AR by area; not rounded.

        AP uses at most 100 detections per image if 100 is one of the limits; the other five AP use the largest limit. This is
        pycocotools' rule, and matters only if the limits are not the usual 1, 10, 100.
        """
        values = {'AP': self.ap(max_dets=100 if 100 in self.max_dets else None),
                  'AP50': self.ap(0.5), 'AP75': self.ap(0.75)}
        values.update({f'AP{area[0]}': self.ap(area=area) for area in AREAS[1:]})
        values.update({f'AR@{limit}': self.ar(max_dets=limit) for limit in self.max_dets})
        values.update({f'AR{area[0]}': self.ar(area=area) for area in AREAS[1:]})
        return values

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """For each class, the six AP of ``COLUMNS`` at the largest limit; NaN if the class has no objects of that area."""
        rows = {}
        for k, name in enumerate(self.classes[:self.precision.shape[2]]):
            row = [self.ap(class_index=k), self.ap(0.5, class_index=k), self.ap(0.75, class_index=k),
                   *(self.ap(area=area, class_index=k) for area in AREAS[1:])]
            rows[name] = {column: math.nan if value < 0 else value for column, value in zip(COLUMNS, row, strict=True)}
        return rows

    def table(self, classwise: bool = True) -> str:
        """Return a table of the six AP: a line for all classes and, with ``classwise``, one per class; ``-`` if there are no objects."""
        stats = self.stats
        rows = {'all': {column: stats[column] for column in COLUMNS}}
        rows.update(self.per_class if classwise else {})
        width = max(8, *(len(name) for name in rows))
        lines = [f'{self.iou_type:<{width}}' + ''.join(f'{column:>8}' for column in COLUMNS)]
        for name, row in rows.items():
            lines.append(f'{name:<{width}}' + ''.join(f'{"-" if not v >= 0 else f"{v:.3f}":>8}' for v in row.values()))
        return '\n'.join(lines)

    def __str__(self) -> str:
        return self.table()


def evaluate_coco(gt: dict | str | os.PathLike | Any, detections: Sequence[dict] | str | os.PathLike,
                  iou_type: str = 'bbox', classes: Sequence[str] | None = None, max_dets: Sequence[int] = (1, 10, 100),
                  iou_thrs: Sequence[float] | None = None, class_agnostic: bool = False) -> CocoResult:
    """Evaluate detections against COCO-style ground truth.

    Args:
        gt: dict or path of an annotation file, or an object with this dict as ``.dataset`` (pycocotools' COCO). Not changed.
            An annotation without ``area`` gets the area of its mask for 'segm', else of its box.
        detections: dicts in COCO's result format (or the path of a JSON list of them): ``image_id``, ``category_id``,
            ``score`` and, for 'bbox', ``bbox`` (x, y, width, height in pixels), for 'segm', ``segmentation`` (RLE or
            polygons). May be empty. Not changed.
        iou_type: 'bbox' or 'segm'. Masks are small, medium or large by their own area, not their box's.
        classes: names to evaluate, in the order of the result. None: every category of ``gt``, by id. A name that is not
            in ``gt`` gets a row without values.
        max_dets: limits on detections per image and class (with ``class_agnostic``: per image); the best are kept.
        iou_thrs: None means 0.50, 0.55, ... 0.95.
        class_agnostic: ignore the classes, as for proposals; K is 1 and ``classes`` is not used.

    Raises:
        ValueError: a file is not a COCO file or has none of ``classes``; a detection has an image or category that is not in
            ``gt``, or a score or box that is not a number.
    """
    if iou_type not in ('bbox', 'segm'):
        raise ValueError(f"iou_type is '{iou_type}'; it is 'bbox' or 'segm'.")
    dataset, source = read_ground_truth(gt)
    categories = category_ids(dataset, source)
    names = tuple(classes) if classes is not None else tuple(sorted(categories, key=categories.get))
    present = [name for name in names if name in categories]
    if not present and not class_agnostic:
        raise ValueError(no_common_class(names, categories, source))
    if isinstance(detections, (str, os.PathLike)):
        detections = read_json(detections)
    limits = tuple(sorted(int(limit) for limit in max_dets))
    thresholds = np.asarray(IOU_THRESHOLDS if iou_thrs is None else np.atleast_1d(iou_thrs), dtype=float)

    precision, recall = run(dataset, detections, iou_type, source, limits, thresholds,
                            wanted=sorted(categories.values()) if class_agnostic else [categories[n] for n in present],
                            class_agnostic=class_agnostic)
    if not class_agnostic:   # from ascending category ids to the order of ``classes``; a class that is not in gt stays -1
        rank = {name: i for i, name in enumerate(sorted(present, key=categories.get))}
        full = [np.full((*a.shape[:-3], len(names), *a.shape[-2:]), -1.) for a in (precision, recall)]
        for k, name in enumerate(names):
            if name in rank:
                full[0][:, :, k], full[1][:, k] = precision[:, :, rank[name]], recall[:, rank[name]]
        precision, recall = full
    return CocoResult(iou_type, ('objects',) if class_agnostic else names, thresholds, limits, precision, recall)


def run(dataset: dict, detections: Iterable[dict], iou_type: str, source: str, max_dets: tuple[int, ...],
        iou_thrs: np.ndarray, wanted: list[Any], class_agnostic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return precision (T, R, K, 4, M) and recall (T, K, 4, M), classes by ascending id."""
    from faster_coco_eval import COCO, COCOeval_faster
    ids = fresh_ids(dataset)
    truth = dict(images=[dict(id=new, height=ids.sizes[old][0], width=ids.sizes[old][1])
                         for old, new in ids.images.items()],
                 categories=[dict(id=new) for new in ids.categories.values()],
                 annotations=true_objects(dataset, iou_type, ids, source))
    found = dict(truth, annotations=found_objects(detections, iou_type, ids, source))
    evaluator = COCOeval_faster(COCO(truth), COCO(found), iou_type)
    evaluator.params.catIds = [ids.categories[c] for c in wanted]
    evaluator.params.useCats = int(not class_agnostic)
    evaluator.params.maxDets, evaluator.params.iouThrs = list(max_dets), iou_thrs
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval['precision']), np.asarray(evaluator.eval['recall'])


@dataclass(frozen=True)
class FreshIds:
    """New ids from 1 for images and categories, in the order of the old ids, and the known image sizes.

    The evaluator treats annotation id 0 as "no match" and two annotations with one id as one object; old ids may be strings.
    The order is kept because it ranks detections with equal scores.
    """

    images: dict[Any, int]
    categories: dict[Any, int]
    sizes: dict[Any, tuple[int | None, int | None]]   # old image id -> (height, width)


def fresh_ids(dataset: dict) -> FreshIds:
    return FreshIds({old: new for new, old in enumerate(sorted({i['id'] for i in dataset['images']}), 1)},
                    {old: new for new, old in enumerate(sorted({c['id'] for c in dataset['categories']}), 1)},
                    {i['id']: (i.get('height'), i.get('width')) for i in dataset['images']})


def true_objects(dataset: dict, iou_type: str, ids: FreshIds, source: str) -> list[dict]:
    """Return copies of the annotations with new ids. Annotations of unknown images or categories are left out, as in pycocotools."""
    kept = []
    for ann in dataset['annotations']:
        image, category = ids.images.get(ann['image_id']), ids.categories.get(ann['category_id'])
        if image is None or category is None:
            continue
        where = f"annotation {ann.get('id')} of {source}"
        shape = checked_shape(ann, iou_type, where)
        check_runs(shape.get('segmentation'), ids.sizes[ann['image_id']], where)
        area = ann['area'] if 'area' in ann else shape_area(shape, ids.sizes[ann['image_id']])
        kept.append(dict(shape, id=len(kept) + 1, image_id=image, category_id=category, area=area,
                         iscrowd=int(ann.get('iscrowd', 0))))
    return kept


def found_objects(detections: Iterable[dict], iou_type: str, ids: FreshIds, source: str) -> list[dict]:
    """Return copies of the detections with new ids and their area, with only the fields that ``iou_type`` needs."""
    kept = []
    for det in detections:
        image, category = ids.images.get(det['image_id']), ids.categories.get(det['category_id'])
        if image is None or category is None:
            key = 'image_id' if image is None else 'category_id'
            raise ValueError(f'a detection has {key} {det[key]!r}, which {source} does not have. Were these detections '
                             f'made on another set, or this annotation file exchanged?')
        where = f"a detection in image {det['image_id']!r}"
        if not math.isfinite(det['score']):
            raise ValueError(f"{where} has the score {det['score']}. The model gave NaN or infinity; look at the "
                             f'learning rate and at the last checkpoint.')
        shape = checked_shape(det, iou_type, where)
        kept.append(dict(shape, id=len(kept) + 1, image_id=image, category_id=category, score=float(det['score']),
                         iscrowd=0, area=shape_area(shape, ids.sizes[det['image_id']])))
    return kept


def checked_shape(obj: dict, iou_type: str, where: str) -> dict:
    """Return a new dict with only the box or the mask of an annotation or detection."""
    if iou_type == 'segm':
        if not obj.get('segmentation'):
            raise ValueError(f"{where} has no segmentation, which metric 'segm' compares.")
        return dict(segmentation=obj['segmentation'])
    box = obj.get('bbox')
    try:
        values = [float(v) for v in box]
    except (TypeError, ValueError):
        values = []
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(f'{where} has bbox {box!r}; it must be four numbers: x, y, width, height in pixels.')
    return dict(bbox=values)


def check_runs(mask: Any, size: tuple[int | None, int | None], where: str) -> None:
    """Raise ValueError if a mask's run lengths do not fill its image; pycocotools would write out of bounds."""
    if not isinstance(mask, dict):
        return
    try:
        runs, (height, width) = run_lengths(mask['counts']), mask['size']
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{where} has run lengths that cannot be read ({error}). Remove the annotation or write its mask anew.') from None
    if min(runs, default=0) < 0 or sum(runs) != height * width or (None not in size and (height, width) != size):
        raise ValueError(f'{where} has run lengths for {sum(runs)} pixels and the size {mask["size"]}, in an image of {list(size)} '
                         f'(height, width). Remove the annotation or write its mask anew.')


def shape_area(shape: dict, size: tuple[int | None, int | None]) -> float:
    """Return the area in pixels of a box or a mask in an image of ``size`` (height, width)."""
    if 'bbox' in shape:
        return shape['bbox'][2] * shape['bbox'][3]
    from pycocotools import mask as rle
    mask = shape['segmentation']
    if isinstance(mask, list):
        mask = rle.merge(rle.frPyObjects(mask, *size))
    elif isinstance(mask['counts'], list):
        mask = rle.frPyObjects(mask, *mask['size'])
    return float(rle.area(mask))


def read_ground_truth(gt: dict | str | os.PathLike | Any, annotated: bool = True) -> tuple[dict, str]:
    """Return the COCO dict and its name in messages. ``annotated``: a list of annotations is required.

    Raises:
            ValueError: the file is missing, is not JSON, or does not have one of COCO's three lists.
    """
    source = f"'{os.fspath(gt)}'" if isinstance(gt, (str, os.PathLike)) else 'the ground truth'
    dataset = read_json(gt) if isinstance(gt, (str, os.PathLike)) else getattr(gt, 'dataset', gt)
    if isinstance(dataset, dict) and 'images' in dataset and 'annotations' not in dataset:
        if annotated:
            raise ValueError(f"{source} has no list 'annotations': there is nothing to measure against. To write the detections alone, set "
                             f"format_only=True and outfile_prefix of CocoMetric.")
        dataset['annotations'] = []
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(dataset, dict) or not isinstance(dataset.get(key), list):
            raise ValueError(f"{source} has no list '{key}': it is not a COCO annotation file. Such a file is a JSON "
                             f"object with the lists 'images', 'annotations' and 'categories'.")
    return dataset, source


def read_json(path: str | os.PathLike) -> Any:
    try:
        with open(path, encoding='utf-8-sig') as file:
            return json.load(file)
    except FileNotFoundError:
        raise ValueError(f"no file '{os.fspath(path)}'.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"'{os.fspath(path)}' is not valid JSON ({error}).") from None


def category_ids(dataset: dict, source: str) -> dict[str, Any]:
    """Return a dict of category name -> id.

    Raises:
        ValueError: two categories have the same name.
    """
    ids: dict[str, Any] = {}
    for category in dataset['categories']:
        if ids.setdefault(category['name'], category['id']) != category['id']:
            raise ValueError(f"{source} has two categories named '{category['name']}' (ids {ids[category['name']]} and "
                             f"{category['id']}). Rename or merge them.")
    return ids


def no_common_class(classes: Iterable[str], categories: Iterable[str], source: str) -> str:
    """Return the error message for a class list and an annotation file without a common name."""
    def few(names: Iterable[str]) -> str:
        names = [repr(n) for n in names]
        return ', '.join(names[:8]) + (f', ... ({len(names)})' if len(names) > 8 else '')
    return (f"{source} has none of the classes to evaluate: its categories are {few(categories) or 'none'}, classes "
            f"are {few(classes) or 'none'}. Set the data set's metainfo=dict(classes=...) to the file's names, or "
            f'exchange the file.')
