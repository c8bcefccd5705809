"""Datasets in the Pascal VOC XML format."""
from __future__ import annotations

import os.path as osp
from pathlib import Path
from typing import Any

from detkit.data.datasets.detection import DetDataset
from detkit.data.formats.faults import OnFault, stop
from detkit.data.formats.pictures import picture_of_stem
from detkit.data.formats.voc import listed_names, voc_to_coco, xml_file
from detkit.registry import DATASETS

VOC_CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog', 'horse',
               'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
YEARS = ('VOC2007', 'VOC2012')


@DATASETS.register_module()
class XMLDataset(DetDataset):
    """Images with one XML file each; a text file lists their names without suffix (see detkit.data.formats.voc.listed_names).

    ``img_subdir`` and ``ann_subdir`` are in ``data_prefix['sub_data_root']`` (or ``data_root``); ``data_prefix['img']`` sets another
    image folder. The image suffix is the one found on disk; the name in the list is the image id. As in MMDetection, box coordinates are
    truncated to integers and reduced by one pixel; ``offset=0`` keeps coordinates that count from 0. Difficult objects are ignored;
    objects of other classes are left out. Without classes in ``metainfo``, the classes are those that occur, sorted by name.

    Raises:
        ConfigError: none of the classes occurs. BrokenAnnotations: a file cannot be used.
    """

    complete = False

    def __init__(self, img_subdir: str = 'JPEGImages', ann_subdir: str = 'Annotations', offset: int = 1, **options: Any) -> None:
        self.img_subdir, self.ann_subdir, self.offset = img_subdir, ann_subdir, offset
        super().__init__(**options)

    def _join_prefix(self) -> None:
        given = self.data_prefix.get('img', '')
        super()._join_prefix()
        self.data_prefix['img'] = picture_folder(self, given)

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_listed(self, on_fault)


@DATASETS.register_module()
class VOCDataset(DetDataset):
    """Pascal VOC 2007 and 2012: an XMLDataset with the 20 VOC classes."""

    METAINFO = dict(classes=VOC_CLASSES)
    complete = False

    def __init__(self, img_subdir: str = 'JPEGImages', ann_subdir: str = 'Annotations', offset: int = 1, **options: Any) -> None:
        self.img_subdir, self.ann_subdir, self.offset = img_subdir, ann_subdir, offset
        super().__init__(**options)

    def _join_prefix(self) -> None:
        given = self.data_prefix.get('img', '')
        super()._join_prefix()
        self.data_prefix['img'] = picture_folder(self, given)

    def read(self, on_fault: OnFault = stop) -> dict:
        self._metainfo['dataset_type'] = next((y for y in YEARS if y in self.data_prefix.get('sub_data_root', '')), None)
        return read_listed(self, on_fault)


@DATASETS.register_module()
class WIDERFaceDataset(DetDataset):
    """WIDER Face in VOC's XML format: ``Annotations/NAME.xml`` in ``data_prefix['img']``; each XML file names its image folder."""

    METAINFO = dict(classes=('face',), palette=[(0, 255, 0)])
    complete = False

    def read(self, on_fault: OnFault = stop) -> dict:
        root = Path(self.data_prefix.get('img', ''))
        names = listed_names(Path(self.ann_file), root / 'Annotations')
        return voc_to_coco([xml_file(root / 'Annotations', name) for name in names], None, names, 1, [f'{name}.jpg' for name in names],
                           str(root), True, truncate=True, on_fault=on_fault)


def picture_folder(dataset: XMLDataset | VOCDataset, given: str) -> str:
    """Return the image folder: ``img_subdir`` beside the annotations, or ``data_prefix['img']`` if it is ``given`` and exists, relative to
    ``data_root`` or to ``sub_data_root`` (MMDetection ignores the latter).
    """
    root = annotation_root(dataset)
    candidates = (dataset.data_prefix['img'], osp.join(root, given)) if given else ()
    return next((folder for folder in candidates if osp.isdir(folder)), osp.join(root, dataset.img_subdir))


def annotation_root(dataset: XMLDataset | VOCDataset) -> str:
    return dataset.data_prefix.get('sub_data_root') or dataset.data_root or ''


def read_listed(dataset: XMLDataset | VOCDataset, on_fault: OnFault) -> dict:
    """Return the COCO dict of the XML files listed in ``dataset.ann_file``; an image's id is its name in the list."""
    folder, annotations = dataset.data_prefix['img'], Path(annotation_root(dataset), dataset.ann_subdir)
    names = listed_names(Path(dataset.ann_file), annotations, dataset.img_subdir)
    return voc_to_coco([xml_file(annotations, name) for name in names], None, names, dataset.offset,
                       [picture_of_stem(folder, name) for name in names], folder, truncate=True, on_fault=on_fault)
