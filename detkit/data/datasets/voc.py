"""Data sets of Pascal VOC's XML files."""
from __future__ import annotations

import os.path as osp
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from detkit.data.datasets.detection import DetDataset
from detkit.data.formats.faults import BrokenAnnotations, OnFault, stop
from detkit.data.formats.pictures import SUFFIXES
from detkit.data.formats.voc import voc_to_coco
from detkit.registry import DATASETS

VOC_CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog', 'horse',
               'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
YEARS = ('VOC2007', 'VOC2012')


@DATASETS.register_module()
class XMLDataset(DetDataset):
    """Pictures with an XML file each, listed by a text file of their names without suffix.

    Below ``data_prefix['sub_data_root']`` (or ``data_root``) lie ``img_subdir`` and ``ann_subdir``. One pixel is taken from all numbers
    of a box, whose decimals are cut off, as in MMDetection; ``offset=0`` keeps numbers that count from 0. Difficult objects are ignored,
    objects of other classes left out. Classes are those that occur, by name, unless ``metainfo`` names some.

    Raises:
        ConfigError: none of the classes occurs. BrokenAnnotations: a file cannot be used.
    """

    complete = False

    def __init__(self, img_subdir: str = 'JPEGImages', ann_subdir: str = 'Annotations', offset: int = 1, **options: Any) -> None:
        self.img_subdir, self.ann_subdir, self.offset = img_subdir, ann_subdir, offset
        super().__init__(**options)

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_listed(self, on_fault)


@DATASETS.register_module()
class VOCDataset(DetDataset):
    """Pascal VOC 2007 and 2012: XMLDataset with their 20 classes."""

    METAINFO = dict(classes=VOC_CLASSES)
    complete = False

    def __init__(self, img_subdir: str = 'JPEGImages', ann_subdir: str = 'Annotations', offset: int = 1, **options: Any) -> None:
        self.img_subdir, self.ann_subdir, self.offset = img_subdir, ann_subdir, offset
        super().__init__(**options)

    def read(self, on_fault: OnFault = stop) -> dict:
        self._metainfo['dataset_type'] = next((y for y in YEARS if y in self.data_prefix.get('sub_data_root', '')), None)
        return read_listed(self, on_fault)


@DATASETS.register_module()
class WIDERFaceDataset(DetDataset):
    """WIDER Face as VOC's XML files: ``Annotations/NAME.xml`` below ``data_prefix['img']``, pictures in the folder that each names."""

    METAINFO = dict(classes=('face',), palette=[(0, 255, 0)])
    complete = False

    def read(self, on_fault: OnFault = stop) -> dict:
        root = Path(self.data_prefix.get('img', ''))
        files = [root / 'Annotations' / f'{stem}.xml' for stem in listed_stems(self.ann_file)]
        content = voc_to_coco(files, truncate=True, on_fault=on_fault)
        for image in content['images']:
            tree = ET.parse(root / 'Annotations' / f"{osp.splitext(image['file_name'])[0]}.xml")
            image['file_name'] = osp.join(tree.findtext('folder') or '', image['file_name'])
        return content


def read_listed(dataset: XMLDataset | VOCDataset, on_fault: OnFault) -> dict:
    """The COCO dict of the XML files that ``dataset.ann_file`` lists."""
    stems = listed_stems(dataset.ann_file)
    root = Path(dataset.data_prefix.get('sub_data_root') or dataset.data_root or '')
    content = voc_to_coco([root / dataset.ann_subdir / f'{stem}.xml' for stem in stems], offset=dataset.offset, truncate=True,
                          on_fault=on_fault)
    folder = str(root / dataset.img_subdir)
    for image in content['images']:
        stem = osp.splitext(image['file_name'])[0]
        image['file_name'] = osp.join(folder, stem + next((s for s in SUFFIXES if osp.isfile(osp.join(folder, stem + s))), '.jpg'))
    return content


def listed_stems(path: str) -> list[str]:
    """The first word of each line."""
    try:
        return [line.split()[0] for line in Path(path).read_text(encoding='utf-8').splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenAnnotations(f'{path}: cannot be read as a list of names, a line each ({error}). Check data_root and ann_file of the '
                                f'dataset.') from None
