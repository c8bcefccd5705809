"""From other formats to COCO's."""
from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
COPY_SHIFT = 2      # pixels by which labelImg moves a duplicated box


def read_voc(path: Path) -> tuple[str, int, int, list[tuple[str, list[int]]]]:
    """One Pascal VOC file: image name, width, height, and its objects as (class, [xmin, ymin, xmax, ymax]).

    Decimals of a box are cut off: the format has whole pixels. Nothing outside the file is read, whatever entities it defines.

    Raises:
        ValueError: naming the file and what is wrong with it: no XML, something missing or no number, corners swapped, a box that leaves
            the image.
    """
    try:
        tree = ET.parse(path).getroot()
        width, height = (int(tree.find('size').findtext(k)) for k in ('width', 'height'))
        objects = [(o.findtext('name').strip(), [int(float(o.find('bndbox').findtext(k))) for k in CORNERS]) for o in tree.iter('object')]
    except ET.ParseError as error:
        raise ValueError(f'{path}: not valid XML ({error}). Was it copied or downloaded in full?') from None
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise ValueError(f'{path}: the size, or the name or bndbox of an object, is missing or not a number. Add it, or remove the '
                         f'object.') from None
    if min(width, height) < 1:
        raise ValueError(f'{path}: the size of the image is given as {width}x{height}. Write its size in pixels.')
    for name, (x1, y1, x2, y2) in objects:
        if x1 > x2 or y1 > y2:
            raise ValueError(f"{path}: '{name}' has xmin={x1}, xmax={x2}, ymin={y1}, ymax={y2}; a minimum is above its maximum. Swap them.")
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            raise ValueError(f"{path}: '{name}' at ({x1}, {y1}, {x2}, {y2}) leaves its image of {width}x{height} pixels. Mend either.")
    return tree.findtext('filename') or '', width, height, objects


def sound_objects(objects: Sequence[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Without boxes of no size, and without copies: labelImg's "duplicate box" leaves the same box again, moved by (+2, +2)."""
    kept = [(name, box) for name, box in objects if box[2] > box[0] and box[3] > box[1]]
    present = {(name, *box) for name, box in kept}
    return [(name, box) for name, box in kept if (name, *(v - COPY_SHIFT for v in box)) not in present]


def voc_to_coco(files: Sequence[Path], classes: Sequence[str], image_ids: dict[str, int]) -> dict:
    """Pascal VOC files -> one COCO dict. Boxes keep their numbers (no offset of one); annotation ids count from 1.

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
            annotations.append(dict(id=1 + len(annotations), image_id=image_ids[path.stem], category_id=classes.index(name) + 1,
                                    bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), iscrowd=0, segmentation=[]))
    return dict(images=images, annotations=annotations,
                categories=[dict(id=i + 1, name=name, supercategory='') for i, name in enumerate(classes)])
