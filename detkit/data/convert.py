"""From other formats to COCO's."""
from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

COPY_SHIFT = 2      # pixels by which labelImg moves a duplicated box


def read_voc(path: Path) -> tuple[str, int, int, list[tuple[str, list[int]]]]:
    """One Pascal VOC file: image name, width, height, and its objects as (class, [xmin, ymin, xmax, ymax]).

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        tree = ET.parse(path).getroot()
        size = tree.find('size')
        objects = [(o.findtext('name'), [int(float(o.find('bndbox').findtext(k))) for k in ('xmin', 'ymin', 'xmax', 'ymax')])
                   for o in tree.iter('object')]
        return tree.findtext('filename'), int(size.findtext('width')), int(size.findtext('height')), objects
    except ET.ParseError as error:
        raise ValueError(f'{path}: not valid XML ({error}).') from None
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f'{path}: size, name or bndbox is missing or not a number.') from None


def sound_objects(objects: Sequence[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Without boxes of no size, and without copies: labelImg's "duplicate box" leaves the same box again, moved by (+2, +2)."""
    kept = [(name, box) for name, box in objects if box[2] > box[0] and box[3] > box[1]]
    present = {(name, *box) for name, box in kept}
    return [(name, box) for name, box in kept if (name, *(v - COPY_SHIFT for v in box)) not in present]


def voc_to_coco(files: Sequence[Path], classes: Sequence[str], image_ids: dict[str, int], first_id: int = 1) -> dict:
    """Pascal VOC files -> one COCO dict. Boxes keep their numbers (no offset of one); annotation ids count from ``first_id``.

    ``image_ids``: id of each image by the stem of its file. Category ids are 1, 2, ... in the order of ``classes``.

    Raises:
        ValueError: an unreadable file, or a class that is not in ``classes``.
    """
    images, annotations = [], []
    for path in files:
        _, width, height, objects = read_voc(path)
        images.append(dict(id=image_ids[path.stem], file_name=f'{path.stem}.jpg', width=width, height=height))
        for name, (x1, y1, x2, y2) in sound_objects(objects):
            if name not in classes:
                raise ValueError(f"{path}: the class '{name}' is not one of {', '.join(classes)}.")
            annotations.append(dict(id=first_id + len(annotations), image_id=image_ids[path.stem], category_id=classes.index(name) + 1,
                                    bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), iscrowd=0, segmentation=[]))
    return dict(images=images, annotations=annotations,
                categories=[dict(id=i + 1, name=name, supercategory='') for i, name in enumerate(classes)])
