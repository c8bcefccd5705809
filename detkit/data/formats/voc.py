"""Pascal VOC: one XML file a picture (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html#SECTION00092000000000000000).

Its boxes are whole pixels counted from 1, the last one included. ``offset`` (1, or 0 for files of tools that count from 0) is taken
from all four numbers, as MMDetection does: x2 is then where the box ends, one pixel short of what the VOC devkit would draw.
"""
from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.data.formats.coco import coco_dict, whole
from detkit.data.formats.faults import BrokenAnnotations, OnFault, stop

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
FLAGS = ('difficult', 'truncated', 'occluded')
COPY_SHIFT = 2      # pixels by which labelImg moves a duplicated box


def read_voc(path: Path) -> dict[str, Any]:
    """One file: ``file_name``, ``width``, ``height``, and ``objects``: dicts with ``name``, ``box`` (xmin, ymin, xmax, ymax) as written,
    and the flags that are set. Nothing outside the file is read, whatever entities it defines.

    Raises:
        BrokenAnnotations: naming the file and what is wrong with it: no XML, something missing or no number, corners swapped, a box that
            leaves the image, a file name that leaves the folder.
    """
    try:
        tree = ET.parse(path).getroot()
        width, height = (int(tree.find('size').findtext(k)) for k in ('width', 'height'))
        objects = [read_object(o) for o in tree.findall('object')]
    except FileNotFoundError:
        raise BrokenAnnotations(f'{path}: there is no such file. Its name stands in the list of images; add it, or take it out.') from None
    except (ET.ParseError, LookupError) as error:                       # LookupError: an encoding nobody knows
        raise BrokenAnnotations(f'{path}: not valid XML ({error}). Was it copied or downloaded in full?') from None
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise BrokenAnnotations(f'{path}: the size, or the name or bndbox of an object, is missing or not a number. Add it, or remove the '
                                f'object.') from None
    name = (tree.findtext('filename') or '').strip()
    if '..' in name.replace('\\', '/').split('/') or name.startswith('/') or ':' in name:
        raise BrokenAnnotations(f'{path}: the filename {name!r} is no name of a picture in the image folder. Write its name alone.')
    if min(width, height) < 1:
        raise BrokenAnnotations(f'{path}: the size of the image is given as {width}x{height}. Write its size in pixels.')
    for o in objects:
        (x1, y1, x2, y2), name = o['box'], o['name']
        if x1 > x2 or y1 > y2:
            raise BrokenAnnotations(f"{path}: '{name}' has xmin={x1}, xmax={x2}, ymin={y1}, ymax={y2}; a minimum is above its maximum. "
                                    f'Swap them.')
        if x1 < 0 or y1 < 0 or x2 > width + 1 or y2 > height + 1:
            raise BrokenAnnotations(f"{path}: '{name}' at ({x1}, {y1}, {x2}, {y2}) leaves its image of {width}x{height} pixels. Mend "
                                    f'either.')
    return dict(file_name=name, width=width, height=height, objects=objects)


def read_object(element: ET.Element) -> dict[str, Any]:
    box = [whole(float(element.find('bndbox').findtext(k))) for k in CORNERS]
    if not all(abs(v) < 1e7 for v in box):
        raise ValueError(box)
    flags = {k: 1 for k in FLAGS if (element.findtext(k) or '0').strip() == '1'}
    return dict(name=element.findtext('name').strip(), box=box, **flags)


def without_copies(objects: Sequence[dict]) -> list[dict]:
    """Without boxes of no size, and without copies: labelImg's "duplicate box" leaves the same box again, moved by (+2, +2)."""
    kept = [o for o in objects if o['box'][2] > o['box'][0] and o['box'][3] > o['box'][1]]
    present = {(o['name'], *o['box']) for o in kept}
    return [o for o in kept if (o['name'], *(v - COPY_SHIFT for v in o['box'])) not in present]


def voc_to_coco(files: Sequence[Path], classes: Sequence[str] | None = None, image_ids: dict[str, int] | None = None, offset: int = 1,
                suffix: str = '.jpg', truncate: bool = False, drop_copies: bool = False, on_fault: OnFault = stop) -> dict:
    """Pascal VOC files -> one COCO dict; objects that are ``difficult`` keep that flag.

    Args:
        classes: their order; None: those that occur, by name. image_ids: id of each image by the stem of its file, default its stem.
        suffix: of the pictures, which are named as the files. truncate: decimals of a box are cut off, as MMDetection does.
        drop_copies: leave out what labelImg's "duplicate box" leaves behind, and boxes of no size.

    Raises:
        BrokenAnnotations: an unreadable file, as ``on_fault`` decides, or a class that is not in ``classes``.
    """
    images, annotations = [], []
    for path in files:
        try:
            found = read_voc(path)
        except BrokenAnnotations as error:
            on_fault(error)
            continue
        number = path.stem if image_ids is None else image_ids[path.stem]
        images.append(dict(id=number, file_name=f'{path.stem}{suffix}', width=found['width'], height=found['height']))
        for o in without_copies(found['objects']) if drop_copies else found['objects']:
            if classes is not None and o['name'] not in classes:
                raise BrokenAnnotations(f"{path}: the class '{o['name']}' is not one of {', '.join(classes)}.")
            x1, y1, x2, y2 = ((int(v) if truncate else v) - offset for v in o['box'])
            annotations.append(dict(image_id=number, category=o['name'], bbox=[x1, y1, x2 - x1, y2 - y1],
                                    **{k: 1 for k in FLAGS if k in o}))
    return coco_dict(images, annotations, sorted({a['category'] for a in annotations}) if classes is None else classes)


def voc_xml(image: dict, objects: Sequence[tuple[str, dict]], offset: int = 1) -> str:
    """The file of one COCO image; ``objects``: (class, COCO annotation) each. Decimals of a box are kept."""
    root = ET.Element('annotation')
    ET.SubElement(root, 'filename').text = Path(image['file_name']).name
    size = ET.SubElement(root, 'size')
    for key, value in (('width', image['width']), ('height', image['height']), ('depth', 3)):
        ET.SubElement(size, key).text = str(value)
    for name, annotation in objects:
        element = ET.SubElement(root, 'object')
        ET.SubElement(element, 'name').text = name
        for flag in FLAGS:
            ET.SubElement(element, flag).text = str(int(annotation.get(flag, 0)))
        x, y, w, h = annotation['bbox']
        box = ET.SubElement(element, 'bndbox')
        for key, value in zip(CORNERS, (x + offset, y + offset, x + w + offset, y + h + offset)):
            ET.SubElement(box, key).text = repr(whole(round(float(value), 6)))
    ET.indent(root)
    return ET.tostring(root, 'unicode') + '\n'
