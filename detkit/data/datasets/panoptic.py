"""Panoptic datasets: things and stuff, each pixel in one segment."""
from __future__ import annotations

import logging
import os.path as osp
from typing import Any

from mmengine.logging import print_log

from detkit.data.datasets.coco_classes import COCO_CLASSES
from detkit.data.datasets.detection import DetDataset
from detkit.data.datasets.entries import OTHER_CLASS, box_fault, box_reason
from detkit.data.formats.faults import OnFault, stop
from detkit.data.formats.panoptic import read_panoptic
from detkit.data.formats.pictures import picture_path
from detkit.registry import DATASETS, ConfigError
from detkit.structures.panoptic import VOID_LABEL

COCO_STUFF = ('banner', 'blanket', 'bridge', 'cardboard', 'counter', 'curtain', 'door-stuff', 'floor-wood', 'flower', 'fruit', 'gravel',
              'house', 'light', 'mirror-stuff', 'net', 'pillow', 'platform', 'playingfield', 'railroad', 'river', 'road', 'roof', 'sand',
              'sea', 'shelf', 'snow', 'stairs', 'tent', 'towel', 'wall-brick', 'wall-stone', 'wall-tile', 'wall-wood', 'water-other',
              'window-blind', 'window-other', 'tree-merged', 'fence-merged', 'ceiling-merged', 'sky-other-merged', 'cabinet-merged',
              'table-merged', 'floor-other-merged', 'pavement-merged', 'mountain-merged', 'grass-merged', 'dirt-merged', 'paper-merged',
              'food-other-merged', 'building-other-merged', 'rock-merged', 'wall-other-merged', 'rug-merged')


@DATASETS.register_module()
class CocoPanopticDataset(DetDataset):
    """Things and stuff in COCO's panoptic format: a JSON file, and for each image a PNG of segment ids in ``data_prefix['seg']``.

    A sample has ``instances`` (things that are not crowds), ``seg_map_path`` and ``segments_info``, with ``id``, ``category`` (the label;
    ``VOID_LABEL`` for a segment that is left out) and ``is_thing`` (False for crowds). Labels follow ``metainfo['classes']``, things
    first, as heads require. If ``metainfo`` sets other classes, it should also set ``thing_classes`` and ``stuff_classes``; otherwise
    ``isthing`` in the file decides.

    Raises:
        ConfigError: a class is not in the file, stuff comes before things, or there are more classes than a uint8 map can hold.
        BrokenAnnotations: the file cannot be used.
    """

    METAINFO = dict(classes=COCO_CLASSES + COCO_STUFF, thing_classes=COCO_CLASSES, stuff_classes=COCO_STUFF)

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_panoptic(self.ann_file, on_fault, annotated=not self.test_mode)

    def entries(self, content: dict) -> list[dict]:
        things = {c['id'] for c in content['categories'] if c['isthing']}
        self.check_order({self.cat2label[i]: i in things for i in self.cat2label})
        by_image: dict[Any, list[dict]] = {image['id']: [] for image in content['images']}
        for segment in content['annotations']:
            by_image[segment['image_id']].append(segment)
        faults: dict[str, list] = {}
        data = [self.entry(image, by_image[image['id']], things, faults) for image in content['images']]
        for fault, ids in faults.items():
            print_log(f'{self.ann_file}: {len(ids)} segments are left out: {fault} (first: {ids[0]}).', 'current', logging.WARNING)
        return data

    def check_order(self, is_thing: dict[int, bool]) -> None:
        """Set ``thing_classes`` and ``stuff_classes`` of the selected classes. Things come first; at most 255 classes in total."""
        classes = self._metainfo['classes']
        if len(classes) > VOID_LABEL:
            raise ConfigError(f'{self.ann_file}: {len(classes)} classes are more than the {VOID_LABEL} that a map of labels can hold.')
        flags = [is_thing[label] for label in range(len(classes))]
        if flags != sorted(flags, reverse=True):
            late = classes[next(i for i in range(1, len(flags)) if flags[i] and not flags[i - 1])]
            raise ConfigError(f"metainfo.classes names the thing '{late}' after stuff. Put all things first: labels below "
                              f'num_things_classes are things.')
        self._metainfo.update(thing_classes=tuple(classes[:sum(flags)]), stuff_classes=tuple(classes[sum(flags):]))

    def count_used(self, data: list[dict]) -> None:
        self.counts.used = sum(map(self.objects_in, data))

    def objects_in(self, entry: dict) -> int:
        """Return the number of segments of an image, things and stuff, that have a class."""
        return sum(s['category'] != VOID_LABEL for s in entry['segments_info'])

    def entry(self, image: dict, segments: list[dict], things: set, faults: dict[str, list]) -> dict:
        """Return the entry of one image; updates ``faults`` (why segments were left out -> their ids)."""
        width, height = int(image['width']), int(image['height'])
        instances, listed = [], []
        for s in segments:
            label = self.cat2label.get(s['category_id'])
            fault = box_fault(s, width, height)
            if fault and label is not None:
                faults.setdefault(fault, []).append(f"segment {s['id']} of image {image['id']}")
            kept = not fault and label is not None
            if not kept:
                self.counts.left_out[OTHER_CLASS if label is None else box_reason(s['bbox'], fault)] += 1
            thing = kept and s['category_id'] in things and not s.get('iscrowd', 0)
            listed.append(dict(id=s['id'], category=label if kept else VOID_LABEL, is_thing=thing))
            if thing:
                x, y, w, h = s['bbox']
                instances.append(dict(bbox=[x, y, x + w, y + h], bbox_label=label, ignore_flag=0))
        entry = dict(img_id=image['id'], img_path=picture_path(self.data_prefix.get('img', ''), image['file_name']), height=height,
                     width=width, instances=instances, segments_info=listed)
        if self.data_prefix.get('seg'):
            name = segments[0]['seg_file'] if segments else None
            entry['seg_map_path'] = picture_path(self.data_prefix['seg'],
                                                 name or osp.splitext(image['file_name'])[0] + self.seg_map_suffix)
        if self.return_classes:
            entry['stuff_text'] = self._metainfo['stuff_classes']
        return entry
