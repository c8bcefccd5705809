"""Datasets in other annotation formats: YOLO text files, tables, Open Images, CrowdHuman."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detkit.data.datasets.detection import DetDataset
from detkit.data.formats.crowd_human import BOXES, odgt_to_coco
from detkit.data.formats.faults import BrokenAnnotations, OnFault, stop
from detkit.data.formats.table import csv_to_coco, open_images_to_coco
from detkit.data.formats.text import read_text
from detkit.data.formats.yolo import SPLITS, label_file, read_yolo
from detkit.files import local_path
from detkit.registry import DATASETS, ConfigError


@DATASETS.register_module()
class YOLODataset(DetDataset):
    """One ``split`` (train, val, test) of the dataset that ``ann_file``, a data.yaml, describes: boxes, or polygons with their boxes.

    Without classes in ``metainfo``, the classes are those of the file, in its order. Only the file says where the images are.

    Raises:
        BrokenAnnotations: names the file and line.
    """

    def __init__(self, split: str = 'train', **options: Any) -> None:
        if split not in SPLITS:
            raise ConfigError(f"YOLODataset split='{split}' is unknown. Known: {', '.join(SPLITS)}.")
        self.split = split
        super().__init__(**options)

    def labels_hint(self) -> str:
        if not (len(self) if self._fully_initialized else self.data_list):
            return ''
        first = self.get_data_info(0) if self._fully_initialized else self.data_list[0]
        labels = label_file(Path(first['img_path']))
        return f"the labels of its first image are looked for in {labels}, which {'holds none' if labels.is_file() else 'does not exist'}"

    def read(self, on_fault: OnFault = stop) -> dict:
        content, folder = read_yolo(Path(self.ann_file), self.split, on_fault)
        self.data_prefix['img'] = str(folder)
        return content


@DATASETS.register_module()
class CSVDataset(DetDataset):
    """A table with one line per object: ``file,x1,y1,x2,y2,class`` in pixels; see detkit.data.formats.table.

    Without classes in ``metainfo``, the classes are those that occur, sorted by name.

    Raises:
        BrokenAnnotations: names the file and line. ConfigError: none of the classes occurs.
    """

    complete = False

    def read(self, on_fault: OnFault = stop) -> dict:
        return csv_to_coco(Path(self.ann_file), Path(self.data_prefix.get('img', '')), on_fault=on_fault)


@DATASETS.register_module()
class OpenImagesDataset(DetDataset):
    """Open Images (https://storage.googleapis.com/openimages/web/index.html); the classes are those of ``label_file``.

    Args:
        label_file: the code and the name of each class. meta_file: a CSV ``ImageID,Width,Height``; without it, image headers are
            read. hierarchy_file, image_level_ann_file: stored in the metainfo for evaluators.

    Raises:
        ConfigError: ``meta_file`` is a pickle, which could run code. BrokenAnnotations: names the file and line.
    """

    def __init__(self, label_file: str, meta_file: str | None = None, hierarchy_file: str | None = None,
                 image_level_ann_file: str | None = None, **options: Any) -> None:
        if str(meta_file or '').endswith(('.pkl', '.pickle')):
            raise ConfigError(f"OpenImagesDataset meta_file='{meta_file}' is a pickle, which is not read: it could run code. Leave it out, "
                              f'and sizes are read from the pictures, or give a CSV with ImageID,Width,Height.')
        self.label_file, self.meta_file = label_file, meta_file
        self.kept = dict(hierarchy_file=hierarchy_file, image_level_ann_file=image_level_ann_file)
        super().__init__(**options)

    def read(self, on_fault: OnFault = stop) -> dict:
        root = Path(self.data_root or '.')
        self._metainfo.update({k: str(root / local_path(v)) for k, v in self.kept.items() if v})
        return open_images_to_coco(Path(self.ann_file), root / local_path(self.label_file), Path(self.data_prefix.get('img', '')),
                                   root / local_path(self.meta_file) if self.meta_file else None, on_fault)


@DATASETS.register_module()
class CrowdHumanDataset(DetDataset):
    """CrowdHuman (https://www.crowdhuman.org): full-body boxes; boxes that the dataset marks as ignored are ignored.

    Args:
        extra_ann_file: JSON with (height, width) by ID; without it, image headers are read. box: fbox, vbox or hbox.

    Raises:
        BrokenAnnotations: names the file and line.
    """

    METAINFO = dict(classes=('person',), palette=[(220, 20, 60)])

    def __init__(self, extra_ann_file: str | None = None, box: str = 'fbox', **options: Any) -> None:
        if box not in BOXES:
            raise ConfigError(f"CrowdHumanDataset box='{box}' is unknown. Known: {', '.join(BOXES)}.")
        self.extra_ann_file, self.box = extra_ann_file, box
        super().__init__(**options)

    def read(self, on_fault: OnFault = stop) -> dict:
        sizes = None
        if self.extra_ann_file:
            path = Path(self.data_root or '.') / local_path(self.extra_ann_file)
            try:
                sizes = json.loads(read_text(path, 'JSON', 'Without it the pictures are read.'))
                sound = all(len(size) == 2 and min(map(int, size)) > 0 for size in sizes.values())
            except (AttributeError, TypeError, json.JSONDecodeError):
                sound = False
            if not sound:
                raise BrokenAnnotations(f'{path}: it is no JSON object of [height, width] by ID. Without it the pictures are read.')
        return odgt_to_coco(Path(self.ann_file), Path(self.data_prefix.get('img', '')), sizes, self.box, on_fault)
