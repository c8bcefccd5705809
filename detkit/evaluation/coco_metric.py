"""COCO metrics for mmengine's evaluator."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger

from detkit.evaluation.coco import CocoResult, category_ids, evaluate_coco, no_common_class, read_ground_truth
from detkit.files import find_data, write_json
from detkit.registry import METRICS, ConfigError, did_you_mean
from detkit.structures.rle_masks import rle_codes

KINDS = ('bbox', 'segm', 'proposal')
AP_ITEMS = {'mAP': 'AP', 'mAP_50': 'AP50', 'mAP_75': 'AP75', 'mAP_s': 'APs', 'mAP_m': 'APm', 'mAP_l': 'APl'}


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """COCO's average precision and recall, with MMDetection's arguments and result names.

    Returns ``coco/bbox_mAP``, ``_50``, ``_75``, ``_s``, ``_m``, ``_l`` (and the same with ``segm``), rounded to three
    digits; ``classwise`` adds ``coco/NAME_precision``; 'proposal' returns ``coco/AR@100``, ..., ``coco/AR_s@1000``, ...
    All images of ``ann_file`` count, including images that the detector was not run on.

    Args:
            ann_file: COCO annotation file, also looked up in ``$DETKIT_DATA_ROOT`` like the dataset's. None: the ground truth is
                each sample's ``instances`` (add it to PackDetInputs' meta_keys), or its ``gt_instances`` if the image was
                not resized, because ground truth and predictions must use the same pixels.
            metric: one or several of 'bbox', 'segm', 'proposal' (class-agnostic recall).
            classwise: print and return the AP per class. With several metrics, names have the metric: ``segm_NAME_precision``.
            proposal_nums: limits on detections per image. As in pycocotools, mAP uses 100 detections if 100 is one of the limits;
                the other metrics use the largest limit.
            iou_thrs: IoU thresholds (one or several). None: 0.50, 0.55, ... 0.95.
            metric_items: metrics to return; None: the six AP, for 'proposal' all AR.
            format_only: write the detections without an evaluation, for a test set without ground truth. Without ``ann_file``,
                the written category ids are the labels; the file needs no annotations.
            outfile_prefix: write detections to PREFIX.bbox.json and PREFIX.segm.json, ground truth of samples to PREFIX.gt.json.
            backend_args: how mmengine reads ``ann_file``.
            sort_categories: has no effect: classes are matched by name, in any order of the file.
            use_mp_eval: has no effect: the evaluator is compiled and multithreaded.

        Raises:
            ConfigError: an argument is invalid, or ``ann_file`` cannot be used or has none of the classes.
    """

    default_prefix = 'coco'

    def __init__(self, ann_file: str | list[str] | None = None, metric: str | Sequence[str] = 'bbox', classwise: bool = False,
                 proposal_nums: Sequence[int] = (100, 300, 1000), iou_thrs: float | Sequence[float] | None = None,
                 metric_items: Sequence[str] | None = None, format_only: bool = False,
                 outfile_prefix: str | None = None, backend_args: dict | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None, sort_categories: bool = False, use_mp_eval: bool = False) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        self.classwise, self.format_only, self.outfile_prefix = classwise, format_only, outfile_prefix
        self.proposal_nums = tuple(sorted(proposal_nums))
        self.iou_thrs = iou_thrs
        self.ar_items = {f'AR@{n}': f'AR@{n}' for n in self.proposal_nums}
        self.ar_items.update({f'AR_{area}@{self.proposal_nums[-1]}': f'AR{area}' for area in 'sml'})
        self.metric_items = self._checked_items(metric_items)
        if not self.metrics:
            raise ConfigError(f"CocoMetric metric={metric!r} measures nothing. It has: {', '.join(KINDS)}.")
        for kind in self.metrics:
            if kind not in KINDS:
                hint = " Use 'proposal': it is fast." if kind == 'proposal_fast' else did_you_mean(kind, KINDS)
                raise ConfigError(f"CocoMetric has no metric '{kind}'.{hint} It has: {', '.join(KINDS)}.")
        if format_only and outfile_prefix is None:
            raise ConfigError('CocoMetric format_only=True only writes files; set outfile_prefix to say where.')
        self.truth, self.source = self._read(ann_file, backend_args, annotated=not format_only)

    def _checked_items(self, items: Sequence[str] | None) -> list[str] | None:
        known = [*AP_ITEMS, *self.ar_items]
        for item in items or ():
            if item not in known:
                raise ConfigError(f"CocoMetric has no metric item '{item}'.{did_you_mean(item, known)} "
                                  f"With these proposal_nums it has: {', '.join(known)}.")
        return None if items is None else list(items)

    @staticmethod
    def _read(ann_file: str | None, backend_args: dict | None, annotated: bool) -> tuple[dict | None, str]:
        if ann_file is None:
            return None, 'the ground truth of the samples'
        if isinstance(ann_file, (list, tuple)):
            raise ConfigError(f'CocoMetric ann_file={list(ann_file)} is a list; it reads one file. Join them: python tools/dataset.py '
                              f'merge {" ".join(map(str, ann_file))} all.json')
        try:
            place = ann_file if '://' in ann_file else str(find_data(ann_file))
            with get_local_path(place, backend_args=backend_args) as path:
                truth, _ = read_ground_truth(path, annotated)
            category_ids(truth, f"'{ann_file}'")
        except (ValueError, OSError) as error:
            raise ConfigError(f'CocoMetric ann_file: {error}') from error
        return truth, f"'{ann_file}'"

    @property
    def dataset_meta(self) -> dict | None:
        """The dataset's metainfo; ``classes`` are the names of the labels."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        """Set the metainfo; raise ConfigError at once, before training, if ``ann_file`` has none of its classes."""
        self._dataset_meta = meta
        if self.truth is not None and meta and meta.get('classes') and self.metrics != ['proposal']:
            known = category_ids(self.truth, self.source)
            if not set(meta['classes']) & set(known):
                raise ConfigError(no_common_class(meta['classes'], known, self.source))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store the needed data of each image: detections as numpy arrays, masks as RLE, and ground truth if there is no file."""
        for sample in data_samples:
            if 'pred_instances' not in sample:
                raise ConfigError('CocoMetric measures objects, and this model predicts none (test_cfg.instance_on).')
            predicted = sample['pred_instances']
            result = {key: predicted[key].detach().cpu().numpy() for key in ('bboxes', 'scores', 'labels')}
            result.update(img_id=sample['img_id'], ori_shape=tuple(sample['ori_shape'][:2]))
            if 'masks' in predicted:
                result['masks'] = rle_codes(predicted['masks'])
            if 'mask_scores' in predicted:
                result['mask_scores'] = predicted['mask_scores'].detach().cpu().numpy()
            if self.truth is None and not self.format_only:
                result['instances'] = true_instances(sample)
            self.results.append(result)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Return the metrics by name, without the prefix."""
        logger = MMLogger.get_current_instance()
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ConfigError("CocoMetric does not know the classes: the data set's metainfo has no 'classes'.")
        truth = self.truth if self.truth is not None or self.format_only else truth_of_samples(results, classes)
        ids = self._ids_of_labels(truth, classes, logger)
        boxes, masks = coco_detections(results, ids, classes)
        self._write(boxes, masks, truth, logger)
        if self.format_only:
            return {}
        if self.truth is not None and len(results) < len(truth['images']):
            logger.warning(f"{self.source} has {len(truth['images'])} images, {len(results)} were tested; the objects "
                           f'of the others count as missed.')
        numbers: dict[str, float] = {}
        for kind in self.metrics:
            result = self._evaluate(kind, truth, boxes, masks, classes)
            numbers.update(self._named(kind, result))
            logger.info('\n' + self._report(kind, result))
        return numbers

    def _ids_of_labels(self, truth: dict | None, classes: Sequence[str], logger: MMLogger) -> list[Any]:
        """Return the category id of each label, by name; None for a class that is not in the ground truth."""
        if truth is None:
            return list(range(len(classes)))
        known = category_ids(truth, self.source)
        missing = [name for name in classes if name not in known]
        if self.metrics == ['proposal']:   # proposals have no classes: all may be called 'object'
            return [known.get(name, next(iter(known.values()), None)) for name in classes]
        if missing:
            logger.warning(f"{self.source} does not have {', '.join(map(repr, missing))}: nothing to measure for "
                           f"{'it' if len(missing) == 1 else 'them'}, and detections of it are left out.")
        return [known.get(name) for name in classes]

    def _evaluate(self, kind: str, truth: dict, boxes: list[dict], masks: list[dict] | None,
                  classes: Sequence[str]) -> CocoResult:
        if kind == 'segm' and masks is None and boxes:
            raise ConfigError("CocoMetric metric='segm' compares masks, and this model's predictions have none. "
                              "Take 'segm' out, or train a model with a mask head.")
        found, iou_type = (masks or [], 'segm') if kind == 'segm' else (boxes, 'bbox')
        try:
            return evaluate_coco(truth, found, iou_type, classes, self.proposal_nums, self.iou_thrs,
                                 class_agnostic=kind == 'proposal')
        except ValueError as error:
            raise ConfigError(str(error).replace('the ground truth', self.source)) from error

    def result_names(self) -> list[str]:
        """Return the names of the metrics that ``evaluate`` returns, with those of classes if ``dataset_meta`` is set."""
        names: list[str] = []
        for kind in self.metrics if not self.format_only else ():
            lead = '' if kind == 'proposal' else f'{kind}_'
            names += [lead + item for item in self.metric_items or (self.ar_items if kind == 'proposal' else AP_ITEMS)]
            if self.classwise and kind != 'proposal':
                lead = '' if len(self.metrics) == 1 else lead
                names += [f'{lead}{name}_precision' for name in (self.dataset_meta or {}).get('classes', ())]
        return [f'{self.prefix}/{name}' if self.prefix else name for name in names]

    def _named(self, kind: str, result: CocoResult) -> dict[str, float]:
        stats, table = result.stats, {**AP_ITEMS, **self.ar_items}
        items = self.metric_items or list(self.ar_items if kind == 'proposal' else AP_ITEMS)
        lead = '' if kind == 'proposal' else f'{kind}_'
        named = {lead + item: round(stats[table[item]], 3) for item in items}
        if self.classwise and kind != 'proposal':
            lead = '' if len(self.metrics) == 1 else lead
            named.update({f'{lead}{name}_precision': round(row['AP'], 3) for name, row in result.per_class.items()})
        return named

    def _report(self, kind: str, result: CocoResult) -> str:
        if kind == 'proposal':
            stats = result.stats
            return '\n'.join(f'{item:<12}{stats[key]:8.3f}' for item, key in self.ar_items.items())
        return result.table(self.classwise)

    def _write(self, boxes: list[dict], masks: list[dict] | None, truth: dict | None, logger: MMLogger) -> None:
        """Write detections (and ground truth collected from samples) as JSON files with the prefix ``outfile_prefix``."""
        if self.outfile_prefix is None:
            return
        contents = {'bbox': boxes, 'segm': masks, 'gt': truth if self.truth is None else None}
        files = {f'{self.outfile_prefix}.{kind}.json': content for kind, content in contents.items() if content is not None}
        for file, content in files.items():
            write_json(file, content)
        logger.info(f'{len(boxes)} detections written to {", ".join(files)}')


def coco_detections(results: Sequence[dict], ids: Sequence[Any],
                    classes: Sequence[str]) -> tuple[list[dict], list[dict] | None]:
    """Return boxes, and masks if predicted (else None), in COCO's result format; labels without a category id are left out."""
    boxes: list[dict] = []
    masks: list[dict] | None = [] if any('masks' in r for r in results) else None
    for result in results:
        labels = result['labels'].tolist()
        if labels and not 0 <= min(labels) <= max(labels) < len(ids):
            raise ConfigError(f"the model predicted label {max(labels)} in image {result['img_id']!r}, but the data "
                              f"set has {len(classes)} classes: the head's num_classes and these classes differ.")
        corners = result['bboxes'].astype(np.float64).reshape(-1, 4)
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        scores = result['scores'].tolist()
        mask_scores = result.get('mask_scores', result['scores']).tolist()
        for i, label in enumerate(labels):
            if ids[label] is None:
                continue
            common = dict(image_id=result['img_id'], category_id=ids[label], bbox=xywh[i])
            boxes.append(dict(common, score=scores[i]))
            if masks is not None:
                masks.append(dict(common, score=mask_scores[i], segmentation=result['masks'][i]))
    return boxes, masks


def true_instances(sample: dict) -> list[dict]:
    """Return the ground truth of a sample in pixels of the original image: dicts with bbox (xyxy), bbox_label, ignore_flag, mask.

    It comes from ``instances`` if the pipeline kept them, else from the sample's boxes, scaled back by its ``gt_scale``.

    Raises:
        ConfigError: the sample has no ground truth, was flipped or cropped, or has masks of a resized image.
    """
    if 'instances' in sample:
        return sample['instances']
    remedy = "Give CocoMetric an ann_file, or put 'instances' in meta_keys of the test pipeline's PackDetInputs."
    if 'gt_instances' not in sample or 'bboxes' not in sample['gt_instances']:
        raise ConfigError(f"image {sample['img_id']!r} carries no ground truth. {remedy}")
    scale = sample.get('gt_scale')
    resized = tuple(sample['img_shape'][:2]) != tuple(sample['ori_shape'][:2]) if scale is None else max(abs(v - 1) for v in scale) > 1e-6
    if sample.get('flip') or resized and (scale is None or 'masks' in sample['gt_instances']):
        raise ConfigError(f"the ground truth of image {sample['img_id']!r} is in pixels of the network input, which is "
                          f'not the original image (img_shape {tuple(sample["img_shape"])}, ori_shape '
                          f'{tuple(sample["ori_shape"])}); predictions are in pixels of the original. {remedy}')
    found = (listed_instances(sample['gt_instances'], ignore_flag=0)
             + listed_instances(sample.get('ignored_instances') or {}, ignore_flag=1))
    x, y = scale or (1., 1.)
    for instance in found if resized else ():
        instance['bbox'] = [v / s for v, s in zip(instance['bbox'], (x, y, x, y))]
    return found


def listed_instances(instances: dict, ignore_flag: int) -> list[dict]:
    """Return one dict per object of ``instances``; masks may be a tensor, BitmapMasks or PolygonMasks."""
    labels = instances.get('labels', ())
    masks = instances.get('masks')
    codes = [None] * len(labels) if masks is None else rle_codes(getattr(masks, 'to_ndarray', lambda: masks)())
    return [dict(bbox=[float(v) for v in box], bbox_label=int(label), ignore_flag=ignore_flag, mask=code)
            for box, label, code in zip(instances.get('bboxes', ()), labels, codes, strict=True)]


def truth_of_samples(results: Sequence[dict], classes: Sequence[str]) -> dict:
    """Return a COCO annotation dict from the ``instances`` of each image; an object's area is its box's, as in MMDetection."""
    images, annotations = [], []
    for result in results:
        height, width = result['ori_shape']
        images.append(dict(id=result['img_id'], height=int(height), width=int(width), file_name=''))
        for instance in result['instances']:
            x1, y1, x2, y2 = (float(v) for v in instance['bbox'])
            ann = dict(id=len(annotations) + 1, image_id=result['img_id'], category_id=int(instance['bbox_label']),
                       bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1),
                       iscrowd=int(instance.get('ignore_flag', 0)))
            mask = instance.get('mask')
            if mask:
                ann['segmentation'] = rle_codes([mask])[0] if isinstance(mask, dict) else mask
            annotations.append(ann)
    categories = [dict(id=label, name=name) for label, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)
