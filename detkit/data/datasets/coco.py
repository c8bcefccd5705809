"""Data sets in COCO's annotation format, and those that are COCO's but for a detail."""
from __future__ import annotations

from detkit.data.datasets.coco_classes import COCO_CLASSES, COCO_PALETTE
from detkit.data.datasets.detection import DetDataset
from detkit.data.formats.coco import read_coco
from detkit.data.formats.faults import OnFault, stop
from detkit.registry import DATASETS


def lvis_names(image: dict) -> None:
    """``coco_url`` ``http://host/val2017/1.jpg`` becomes ``val2017/1.jpg``; LVIS 0.5 writes ``COCO_val2014_000000000001.jpg``."""
    if isinstance(image.get('coco_url'), str):
        image['file_name'] = '/'.join(image['coco_url'].split('/')[-2:])
    elif str(image.get('file_name', '')).startswith('COCO'):
        image['file_name'] = image['file_name'][-16:]


def patch_names(image: dict) -> None:
    parts = str(image.get('file_name', '')).replace('\\', '/').split('/')
    image['file_name'] = '/'.join(parts[-2:] if parts[-2:-1] and parts[-2].startswith('patch') else parts)


@DATASETS.register_module()
class CocoDataset(DetDataset):
    """Boxes and masks from a COCO JSON file.

    Classes are mapped to labels by name, in the order of ``metainfo['classes']``; objects of other classes are left out. Crowds
    are marked as ignored. Boxes that lie outside their image or have a side below one pixel are left out, as in MMDetection,
    and counted in a warning; so are masks that cannot be drawn. ``data_prefix=dict(seg=...)``: folder of semantic maps, which are named
    as the images with the ending ``seg_map_suffix``. In ``test_mode`` the file needs no annotations (COCO's image_info_test-dev2017.json).

    Raises:
        ConfigError: a class is not in the file. BrokenAnnotations: the file cannot be used.
    """

    METAINFO = dict(classes=COCO_CLASSES, palette=COCO_PALETTE)

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, None, on_fault, not self.test_mode)


@DATASETS.register_module(name=['LVISDataset', 'LVISV1Dataset', 'LVISV05Dataset'])
class LVISDataset(DetDataset):
    """LVIS (https://www.lvisdataset.org): COCO's format and images, which are found by the last parts of their ``coco_url``.

    Classes are those of the file, in the order of their ids, unless ``metainfo`` names some.
    """

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, lvis_names, on_fault, not self.test_mode)


@DATASETS.register_module(name=['Objects365V1Dataset', 'Objects365V2Dataset'])
class Objects365V2Dataset(DetDataset):
    """Objects365 (https://www.objects365.org): COCO's format; of ``images/v2/patch7/a.jpg`` the last two parts count.

    Classes are those of the file, in the order of their ids, unless ``metainfo`` names some.
    """

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, patch_names, on_fault, not self.test_mode)


@DATASETS.register_module()
class CityscapesDataset(DetDataset):
    """The instances of Cityscapes (https://www.cityscapes-dataset.com) in COCO's format."""

    METAINFO = dict(classes=('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'))

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, None, on_fault, not self.test_mode)


@DATASETS.register_module()
class DeepFashionDataset(DetDataset):
    """The clothes of DeepFashion (https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html) in COCO's format."""

    METAINFO = dict(classes=('top', 'skirt', 'leggings', 'dress', 'outer', 'pants', 'bag', 'neckwear', 'headwear', 'eyeglass', 'belt',
                             'footwear', 'hair', 'skin', 'face'))

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, None, on_fault, not self.test_mode)
