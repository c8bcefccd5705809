"""COCO-format datasets, and datasets that differ from COCO in a few details."""
from __future__ import annotations

from detkit.data.datasets.coco_classes import COCO_CLASSES, COCO_PALETTE
from detkit.data.datasets.detection import DetDataset
from detkit.data.formats.coco import read_coco
from detkit.data.formats.faults import OnFault, stop
from detkit.registry import DATASETS


def lvis_names(image: dict) -> None:
    """Set ``file_name`` to the last two parts of ``coco_url``: ``http://host/val2017/1.jpg`` becomes ``val2017/1.jpg``.

    LVIS 0.5 writes ``COCO_val2014_000000000001.jpg`` as ``file_name``.
    """
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

    Classes are mapped to labels by name, in the order of ``metainfo['classes']``. Objects of other classes are left out. Crowd objects
    are marked as ignored. As in MMDetection, boxes outside their image and boxes with a side below one pixel are left out; a warning
    counts them. Masks that cannot be drawn are left out in the same way. ``data_prefix=dict(seg=...)``: folder of the semantic maps; a
    map has the name of its image, with the suffix ``seg_map_suffix``. In ``test_mode`` the file may have no annotations (as
    COCO's image_info_test-dev2017.json).

    Raises:
        ConfigError: a class is not in the file. BrokenAnnotations: the file cannot be used.
    """

    METAINFO = dict(classes=COCO_CLASSES, palette=COCO_PALETTE)

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, None, on_fault, not self.test_mode)


@DATASETS.register_module(name=['LVISDataset', 'LVISV1Dataset', 'LVISV05Dataset'])
class LVISDataset(DetDataset):
    """LVIS (https://www.lvisdataset.org): COCO format and COCO images; the last two parts of ``coco_url`` give the file name.

    Without classes in ``metainfo``, the classes are those of the file, ordered by id.
    """

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, lvis_names, on_fault, not self.test_mode)


@DATASETS.register_module(name=['Objects365V1Dataset', 'Objects365V2Dataset'])
class Objects365V2Dataset(DetDataset):
    """Objects365 (https://www.objects365.org): COCO format; only the last two parts of ``images/v2/patch7/a.jpg`` are used.

    Without classes in ``metainfo``, the classes are those of the file, ordered by id.
    """

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, patch_names, on_fault, not self.test_mode)


@DATASETS.register_module()
class CityscapesDataset(DetDataset):
    """Cityscapes instances (https://www.cityscapes-dataset.com) in COCO format."""

    METAINFO = dict(classes=('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'))

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, None, on_fault, not self.test_mode)


@DATASETS.register_module()
class DeepFashionDataset(DetDataset):
    """DeepFashion clothes (https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html) in COCO format."""

    METAINFO = dict(classes=('top', 'skirt', 'leggings', 'dress', 'outer', 'pants', 'bag', 'neckwear', 'headwear', 'eyeglass', 'belt',
                             'footwear', 'hair', 'skin', 'face'))

    def read(self, on_fault: OnFault = stop) -> dict:
        return read_coco(self.ann_file, None, on_fault, not self.test_mode)
