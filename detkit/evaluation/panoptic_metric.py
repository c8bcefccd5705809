"""Panoptic quality for mmengine's evaluator."""
from __future__ import annotations

import json
import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger

from detkit.evaluation.coco import no_common_class
from detkit.evaluation.panoptic import Segments, panoptic_counts, panoptic_quality, per_class_quality, true_segments
from detkit.files import atomic_path, find_data, write_json
from detkit.opencv import cv2
from detkit.registry import METRICS, ConfigError
from detkit.structures.panoptic import INSTANCE_OFFSET, VOID_LABEL, colours_of, read_segment_ids

GROUPS = {'': 'All', '_th': 'Things', '_st': 'Stuff'}


@METRICS.register_module()
class CocoPanopticMetric(BaseMetric):
    """PQ, SQ and RQ, in percent, of all classes, of things (``_th``) and of stuff (``_st``): ``coco_panoptic/PQ``, ... (MMDetection's
    arguments and result names). Classes are the dataset's; segments of other classes are void.

    Args:
                ann_file: COCO's panoptic JSON, also looked up in ``$DETKIT_DATA_ROOT`` like the dataset's. None: the ground truth is
                    each sample's ``segments_info`` and ``seg_map_path``: add them to PackDetInputs' meta_keys.
            seg_prefix: folder of the panoptic PNG files.
            classwise: print the metrics per class.
            format_only: write the predictions without an evaluation.
            outfile_prefix: write predictions in COCO's format to PREFIX.panoptic.json and PREFIX.panoptic/*.png.
            nproc: has no effect: one process is fast enough.
            backend_args: how mmengine reads ``ann_file``.

    Raises:
            ConfigError: an argument is invalid, or ``ann_file`` cannot be used or has none of the classes. ValueError: a panoptic PNG is
                inconsistent with its list of segments.
    """

    default_prefix = 'coco_panoptic'

    def __init__(self, ann_file: str | None = None, seg_prefix: str | None = None, classwise: bool = False, format_only: bool = False,
                 outfile_prefix: str | None = None, nproc: int = 32, backend_args: dict | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and outfile_prefix is None:
            raise ConfigError('CocoPanopticMetric format_only=True only writes files; set outfile_prefix to say where.')
        if ann_file is not None and seg_prefix is None and not format_only:
            raise ConfigError('CocoPanopticMetric needs seg_prefix, the folder of the pictures that belong to ann_file.')
        self.classwise, self.format_only, self.outfile_prefix = classwise, format_only, outfile_prefix
        self.folder = None if seg_prefix is None else find_data(seg_prefix)
        self.source, self.truth = ann_file, None if ann_file is None else read_truth(ann_file, backend_args, not format_only)

    @property
    def dataset_meta(self) -> dict | None:
        """The dataset's metainfo; ``classes`` are the names of the labels, ``thing_classes`` those of countable objects."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        """Set the metainfo; raise ConfigError at once, before training, if ``ann_file`` has none of its classes."""
        self._dataset_meta = meta
        if self.truth is not None and meta and meta.get('classes'):
            known = [c['name'] for c in self.truth['categories'].values()]
            if not set(meta['classes']) & set(known):
                raise ConfigError(no_common_class(meta['classes'], known, f"'{self.source}'"))

    @property
    def classes(self) -> tuple[str, ...]:
        if not (self.dataset_meta or {}).get('classes'):
            raise ConfigError("CocoPanopticMetric does not know the classes: the data set's metainfo has no 'classes'.")
        return tuple(self.dataset_meta['classes'])

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store the counts of each image; write its prediction if ``outfile_prefix`` is set."""
        for sample in data_samples:
            if 'pred_panoptic_seg' not in sample:
                raise ConfigError('CocoPanopticMetric measures panoptic maps, and this model predicts none (test_cfg.panoptic_on).')
            found, result = self.found(sample), {}
            if self.outfile_prefix is not None:
                result['written'] = self.write(sample, found)
            if not self.format_only:
                result['counts'] = panoptic_counts(self.true(sample, found.index.shape), found, len(self.classes))
            self.results.append(result)

    def found(self, sample: dict) -> Segments:
        pixels = sample['pred_panoptic_seg']['sem_seg'][0].cpu().numpy().astype(np.int64)
        present = np.flatnonzero(np.bincount(pixels.ravel()))
        labels = present % INSTANCE_OFFSET
        void = (labels == len(self.classes)) | (labels == sample['pred_panoptic_seg'].get('ignore_index', len(self.classes)))
        if (labels[~void] > len(self.classes)).any():
            raise ConfigError(f"the model predicted label {labels[~void].max()} in image {sample['img_id']!r}, but the data set has "
                              f"{len(self.classes)} classes: the head's classes and these differ.")
        index = np.zeros(present.max() + 1, np.int64)
        index[present[~void]] = np.arange(1, (~void).sum() + 1)
        return Segments(index[pixels], labels[~void], np.zeros((~void).sum(), bool))

    def true(self, sample: dict, size: tuple[int, int]) -> Segments:
        if self.truth is None:
            path, listed = self.of_sample(sample)
        else:
            path, listed = self.of_file(sample['img_id'])
        try:
            return true_segments(read_segment_ids(path), listed, size)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: unusable as the truth of image {sample['img_id']!r} ({error}). Correct the file, or its list of "
                             f'segments in the annotation file.') from None

    def of_file(self, img_id: Any) -> tuple[Path, list[dict]]:
        entry = self.truth['images'].get(img_id)
        if entry is None:
            raise ConfigError(f"'{self.source}' has no segments of image {img_id!r}. Is it the file of the tested images?")
        labels = {i: self.classes.index(c['name']) for i, c in self.truth['categories'].items() if c['name'] in self.classes}
        return Path(self.folder, entry['file_name']), [
            dict(id=s['id'], label=labels.get(s['category_id']), crowd=bool(s.get('iscrowd', 0))) for s in entry['segments_info']]

    def of_sample(self, sample: dict) -> tuple[Path, list[dict]]:
        if 'segments_info' not in sample or 'seg_map_path' not in sample:
            raise ConfigError(f"image {sample['img_id']!r} carries no panoptic truth. Give CocoPanopticMetric an ann_file, or put "
                              f"'segments_info' and 'seg_map_path' in meta_keys of the test pipeline's PackDetInputs.")
        things = self.things()
        return Path(sample['seg_map_path']), [
            dict(id=s['id'], label=None if s['category'] == VOID_LABEL else s['category'],
                 crowd=s['category'] != VOID_LABEL and bool(things[s['category']]) and not s['is_thing']) for s in sample['segments_info']]

    def things(self) -> np.ndarray:
        """Return whether each class is a thing, (K,) bool."""
        if self.truth is not None:
            names = {c['name'] for c in self.truth['categories'].values() if c['isthing']}
        else:
            names = set(self.dataset_meta.get('thing_classes', ()))
        return np.array([name in names for name in self.classes])

    def write(self, sample: dict, found: Segments) -> dict:
        """Write the panoptic PNG; return its entry in COCO's result format. Ids start at 1; without ``ann_file``, categories are labels."""
        ids = {c['name']: i for i, c in self.truth['categories'].items()} if self.truth else {c: i for i, c in enumerate(self.classes)}
        name = f"{Path(sample['img_path']).stem}.png"
        with atomic_path(Path(f'{self.outfile_prefix}.panoptic', name)) as path:
            cv2.imwrite(str(path), colours_of(found.index))
        areas = np.bincount(found.index.ravel(), minlength=len(found.labels) + 1)[1:].tolist()
        things = self.things()
        return dict(image_id=sample['img_id'], file_name=name, segments_info=[
            dict(id=i, category_id=ids[self.classes[label]], area=areas[i - 1], isthing=int(things[label]))
            for i, label in enumerate(found.labels.tolist(), 1) if self.classes[label] in ids])

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Return the metrics by name, without the prefix."""
        logger = MMLogger.get_current_instance()
        if self.outfile_prefix is not None:
            write_json(f'{self.outfile_prefix}.panoptic.json', dict(annotations=[r['written'] for r in results]))
            logger.info(f'{len(results)} panoptic maps written to {self.outfile_prefix}.panoptic.json and .panoptic/')
        if self.format_only:
            return {}
        if self.truth is not None and len(results) < len(self.truth['images']):
            logger.warning(f"'{self.source}' has {len(self.truth['images'])} images, {len(results)} were tested; the others do not count.")
        counts, things = np.sum([r['counts'] for r in results], axis=0), self.things()
        found = {ending: panoptic_quality(counts, flags) for ending, flags in zip(GROUPS, (np.ones_like(things), things, ~things))}
        logger.info('\n' + self.table(counts, found))
        return {f'{key.upper()}{ending}': 100 * found[ending][key] for ending in GROUPS for key in ('pq', 'sq', 'rq')}

    def result_names(self) -> list[str]:
        """Return the names of the metrics that ``evaluate`` returns."""
        names = [f'{key}{ending}' for ending in GROUPS for key in ('PQ', 'SQ', 'RQ')] if not self.format_only else []
        return [f'{self.prefix}/{name}' if self.prefix else name for name in names]

    def table(self, counts: np.ndarray, found: dict[str, dict[str, float]]) -> str:
        rows = [(GROUPS[ending], 100 * q['pq'], 100 * q['sq'], 100 * q['rq'], q['n']) for ending, q in found.items()]
        if self.classwise:
            rows += [(name, *100 * q, int(n)) for name, q, n in zip(self.classes, per_class_quality(counts), counts[:, [0, 2]].sum(1))]
        width = max(len(row[0]) for row in rows)
        lines = [f'{"":<{width}}{"PQ":>8}{"SQ":>8}{"RQ":>8}  classes (of one class: segments)']
        return '\n'.join(lines + [f'{name:<{width}}{pq:8.3f}{sq:8.3f}{rq:8.3f}{n:8d}' for name, pq, sq, rq, n in rows])


def read_truth(ann_file: str, backend_args: dict | None, annotated: bool = True) -> dict[str, dict]:
    """Return ``categories`` and ``images`` (their entries with ``segments_info``) by id. ``annotated``: a list of annotations is required.

    Raises:
        ConfigError: the file cannot be used; the message has its name and the reason.
    """
    if isinstance(ann_file, (list, tuple)):
        raise ConfigError(f'CocoPanopticMetric ann_file={list(ann_file)} is a list; it reads one file.')
    try:
        with get_local_path(ann_file if '://' in ann_file else str(find_data(ann_file)), backend_args=backend_args) as path:
            content = json.loads(Path(path).read_text(encoding='utf-8-sig'))
        categories = {c['id']: dict(name=str(c['name']), isthing=bool(c['isthing'])) for c in content['categories']}
        images = {a['image_id']: dict(file_name=osp.basename(a['file_name']), segments_info=a['segments_info'])
                  for a in (content['annotations'] if annotated else content.get('annotations', []))}
        for image, entry in images.items():
            unknown = [s for s in entry['segments_info'] if s['category_id'] not in categories]
            if unknown:
                raise ConfigError(f"'{ann_file}': segment {unknown[0]['id']} of image {image!r} has the category_id "
                                  f"{unknown[0]['category_id']}, which is not in the file.")
    except ConfigError:
        raise
    except (KeyError, TypeError) as error:
        raise ConfigError(f"CocoPanopticMetric ann_file '{ann_file}' is not in COCO's panoptic format ({type(error).__name__}: {error}): "
                          f'it lists categories with isthing, and annotations with image_id, file_name and segments_info.') from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"CocoPanopticMetric ann_file '{ann_file}' cannot be read ({error}).") from error
    return dict(categories=categories, images=images)
