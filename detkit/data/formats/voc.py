"""Pascal VOC: one XML file per image (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html#SECTION00092000000000000000).

VOC boxes are integer pixels counted from 1, including the last pixel. ``offset`` (1, or 0 for tools that count from 0) is subtracted
from all four numbers, as in MMDetection: x2 is then the end of the box, one pixel less than the VOC devkit would draw.
"""
from __future__ import annotations

import codecs
import logging
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from detkit.data.formats.coco import coco_dict, whole
from detkit.data.formats.faults import LARGEST, BrokenAnnotations, OnFault, stop
from detkit.data.formats.pictures import SUFFIXES, is_hidden, picture_path, size_of
from detkit.data.formats.text import read_lines
from detkit.files import existing_path, similar_name

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
FLAGS = ('difficult', 'truncated', 'occluded')
SET = ('1', 'true', 'yes')      # values of a flag that is set
COPY_SHIFT = 2      # pixels by which labelImg shifts a duplicated box
DECLARATION = re.compile(rb'<\?xml[^>]*encoding\s*=\s*["\']([A-Za-z0-9._-]+)["\'][^>]*\?>')
EXPAT_ENCODINGS = ('utf-8', 'iso-8859-1', 'us-ascii')
FLAGGED = re.compile(r'(\S.*?)\s+(?:-1|0|1)$')
FindSize = Callable[[str], tuple[int, int]]      # folder named in the file -> (width, height) of its image


def read_voc(path: Path, find_size: FindSize | None = None) -> dict[str, Any]:
    """Read one file. Nothing outside the file is read, whatever entities it defines.

    Returns ``file_name``, ``folder``, ``width``, ``height``, and ``objects``: dicts with ``name``, ``box`` (xmin, ymin, xmax, ymax) as
    written, and the flags that are set. ``find_size``: called for a file without ``size``, as MMDetection reads it from the image.
    ``file_name``: the last part of the name in the file, which may be a path on another machine.

    Raises:
        BrokenAnnotations: names the file and the error: not VOC XML, a missing or non-numeric value, swapped corners, a box outside the
            image, a file name that leaves the folder.
    """
    tree = parse_xml(path)
    folder = (tree.findtext('folder') or '').strip()
    try:
        size = tree.find('size')
        width, height = find_size(folder) if size is None and find_size else (int(float(size.findtext(k))) for k in ('width', 'height'))
    except BrokenAnnotations:
        raise
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise BrokenAnnotations(f'{path}: the size of the image is missing or not a number. Write it, or remove the element '
                                f'size.') from None
    objects = [read_object(o, n, path) for n, o in enumerate(tree.findall('object'), 1)]
    name = (tree.findtext('filename') or '').strip().replace('\\', '/')
    if '..' in name.split('/'):
        raise BrokenAnnotations(f'{path}: the filename {name!r} is no name of a picture in the image folder. Write its name alone.')
    if min(width, height) < 1:
        raise BrokenAnnotations(f'{path}: the size of the image is given as {width}x{height}. Write its size in pixels, or remove the '
                                f'element size.')
    for o in objects:
        (x1, y1, x2, y2), label = o['box'], o['name']
        if x1 > x2 or y1 > y2:
            raise BrokenAnnotations(f"{path}: '{label}' has xmin={x1}, xmax={x2}, ymin={y1}, ymax={y2}; a minimum is above its maximum. "
                                    f'Swap them.')
        if x1 < 0 or y1 < 0 or x2 > width + 1 or y2 > height + 1:
            raise BrokenAnnotations(f"{path}: '{label}' at ({x1}, {y1}, {x2}, {y2}) leaves its image of {width}x{height} pixels. Mend "
                                    f'either.')
    return dict(file_name=name.split('/')[-1], folder=folder, width=width, height=height, objects=objects)


def parse_xml(path: Path) -> ET.Element:
    """Return the root ``annotation`` of a VOC file, with tags without namespaces.

    Raises:
        BrokenAnnotations: the file does not exist, is not XML, or is not VOC.
    """
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8).lstrip()
        tree = ET.fromstring(decode_declared(data))
    except FileNotFoundError:
        raise BrokenAnnotations(f'{path}: there is no such file{similar_name(path)}. Its name stands in the list of images; add it, or '
                                f'take it out.') from None
    except OSError as error:
        raise BrokenAnnotations(f'{path}: cannot be read ({error.strerror}).') from None
    except (ET.ParseError, LookupError, RecursionError, ValueError) as error:    # LookupError: unknown encoding; ValueError: wrong encoding
        raise BrokenAnnotations(f'{path}: not valid XML ({error}). Was it copied or downloaded in full, and is its encoding the one that '
                                f'its first line names (UTF-8 if it names none)?') from None
    for element in tree.iter():
        element.tag = str(element.tag).rsplit('}', 1)[-1]
    if tree.tag.lower() != 'annotation':
        raise BrokenAnnotations(f'{path}: its outermost element is <{tree.tag}>, not <annotation>: it is no VOC file.')
    return tree


def decode_declared(data: bytes) -> bytes | str:
    """Decode XML whose first line names an encoding unknown to the parser (GB2312, Shift_JIS, ...); return other files unchanged.

    Raises:
        LookupError: Python does not know the encoding either. UnicodeDecodeError: the file has another encoding.
    """
    declared = DECLARATION.match(data)
    name = declared.group(1).decode().lower() if declared else ''
    if not name or name in EXPAT_ENCODINGS:
        return data
    body = data[declared.end():]
    if name.startswith(('utf-16', 'utf-32', 'unicode')):
        return body.decode('utf-8')         # the first line is readable as ASCII, so the declared encoding is wrong
    try:
        return body.decode(name)
    except UnicodeDecodeError:
        if name not in ('gb2312', 'gbk'):
            raise
        return body.decode('gb18030')       # Windows programs declare GB2312 but use characters of its successors


def read_object(element: ET.Element, number: int, path: Path) -> dict[str, Any]:
    """Return an ``object`` as a dict; ``number``: its number in the file, from 1.

    Raises:
        BrokenAnnotations: it has no name, or not exactly one box of four numbers.
    """
    name = (element.findtext('name') or '').strip()
    place = f"{path}: object {number}{f' ({name})' if name else ''}"
    if not name:
        raise BrokenAnnotations(f'{place} has no name. Add it, or remove the object.')
    boxes = element.findall('bndbox')
    if len(boxes) != 1:
        raise BrokenAnnotations(f"{place} has {len(boxes) or 'no'} bndbox{'es' if len(boxes) > 1 else ''}. Give each object one, or remove "
                                f'the object.')
    texts = [(boxes[0].findtext(k) or '').strip() for k in CORNERS]
    try:
        box = [whole(float(text)) for text in texts]
        sound = all(abs(v) < LARGEST for v in box)
    except (OverflowError, ValueError):
        sound = False
    if not sound:
        given = ', '.join(f'{k}={text!r}' for k, text in zip(CORNERS, texts))
        raise BrokenAnnotations(f'{place} has a bndbox of {given}. Write four numbers of pixels, decimals with a point, or remove the '
                                f'object.')
    return dict(name=name, box=box, **{k: 1 for k in FLAGS if (element.findtext(k) or '').strip().lower() in SET})


def listed_names(path: Path, annotations: Path, pictures: str = 'JPEGImages') -> list[str]:
    """Return the image names, without suffix and without duplicates, listed in a text file.

    A line is a name, which may contain spaces and subfolders; a name and a flag (-1, 0, 1), as in the lists of one class in
    ImageSets/Main; or the path of an image or its XML file, in a folder with the name of ``annotations`` or ``pictures``.

    Raises:
        BrokenAnnotations: the list cannot be read, or a line leaves the folder.
    """
    names: dict[str, int] = {}
    repeated: list[tuple[str, int]] = []
    for number, line in read_lines(path, 'a list of names, a line each', 'Check data_root and ann_file of the dataset.'):
        name = listed_name(line, annotations, pictures)
        if '..' in name.split('/') or name.startswith('/') or ':' in name.split('/')[0]:
            raise BrokenAnnotations(f'{path}: line {number} has {line!r}, which is no name below the folder of the annotations. Write the '
                                    f"file's name, without suffix.")
        if is_hidden(name.split('/')[-1]):
            continue
        if name in names:
            repeated.append((name, number))
        names.setdefault(name, number)
    if repeated:
        name, number = repeated[0]
        print_log(f"{path}: {len(repeated)} lines repeat a name and count once (first: '{name}' in lines {names[name]} and {number}).",
                  'current', logging.WARNING)
    return list(names)


def listed_name(line: str, annotations: Path, pictures: str) -> str:
    """Return the name in a line of a list: the whole line if that file exists."""
    def exists(name: str) -> bool:
        return xml_file(annotations, name).is_file()

    name = line.replace('\\', '/').removeprefix('./')
    if ' ' in name or '\t' in name:
        flagged = FLAGGED.match(name)
        name = flagged.group(1) if flagged and not exists(name) else name
    for folder in (annotations.name, pictures):
        if f'/{folder}/' in f'/{name}':
            name = f'/{name}'.rsplit(f'/{folder}/', 1)[1]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in (*SUFFIXES, '.xml') and not exists(name) else name


def xml_file(annotations: Path, name: str) -> Path:
    """Return the XML file of the image ``name``; its suffix may be upper case."""
    paths = [Path(existing_path(os.path.join(annotations, name + suffix))) for suffix in ('.xml', '.XML')]
    return paths[1] if not paths[0].is_file() and paths[1].is_file() else paths[0]


def without_copies(objects: Sequence[dict]) -> list[dict]:
    """Drop empty boxes and duplicates: labelImg's "duplicate box" creates the same box again, shifted by (+2, +2)."""
    kept = [o for o in objects if o['box'][2] > o['box'][0] and o['box'][3] > o['box'][1]]
    present = {(o['name'], *o['box']) for o in kept}
    return [o for o in kept if (o['name'], *(v - COPY_SHIFT for v in o['box'])) not in present]


def voc_to_coco(files: Sequence[Path], classes: Sequence[str] | None = None, ids: Sequence[Any] | None = None, offset: int = 1,
                pictures: Sequence[str] | None = None, folder: str = '', in_named_folder: bool = False, truncate: bool = False,
                drop_copies: bool = False, on_fault: OnFault = stop) -> dict:
    """Convert Pascal VOC files to one COCO dict; ``difficult`` objects keep that flag.

    Args:
        classes: their order; None: the classes that occur, sorted by name. ids: unique image id of each file; default: numbers from 1.
        pictures: ``file_name`` of each, default: the name of the XML file with ``.jpg``. folder: image folder, for files without ``size``.
        in_named_folder: an image is in the ``folder`` that its file names, as in WIDER Face.
        truncate: drop decimals of a box, as MMDetection does.
        drop_copies: leave out duplicates made by labelImg's "duplicate box", and empty boxes.

    Raises:
        BrokenAnnotations: an unreadable file, as ``on_fault`` decides, or a class that is not in ``classes``.
    """
    images, annotations = [], []
    ids = range(1, len(files) + 1) if ids is None else ids
    pictures = [f'{path.stem}.jpg' for path in files] if pictures is None else pictures
    for path, number, picture in zip(files, ids, pictures, strict=True):
        try:
            found = read_voc(path, partial(size_in, path, folder, picture, in_named_folder))
        except BrokenAnnotations as error:
            on_fault(error)
            continue
        name = os.path.join(found['folder'], picture) if in_named_folder else picture
        images.append(dict(id=number, file_name=name, width=found['width'], height=found['height']))
        for o in without_copies(found['objects']) if drop_copies else found['objects']:
            if classes is not None and o['name'] not in classes:
                raise BrokenAnnotations(f"{path}: the class '{o['name']}' is not one of {', '.join(classes)}.")
            x1, y1, x2, y2 = ((int(v) if truncate else v) - offset for v in o['box'])
            annotations.append(dict(image_id=number, category=o['name'], bbox=[x1, y1, x2 - x1, y2 - y1],
                                    **{k: 1 for k in FLAGS if k in o}))
    return coco_dict(images, annotations, sorted({a['category'] for a in annotations}) if classes is None else classes)


def size_in(source: Path, folder: str, picture: str, in_named_folder: bool, named: str) -> tuple[int, int]:
    """Return (width, height) of an image; see ``voc_to_coco``. ``named``: the folder named in the XML file."""
    return size_of(picture_path(folder, os.path.join(named, picture) if in_named_folder else picture), source)


def voc_xml(image: dict, objects: Sequence[tuple[str, dict]], offset: int = 1) -> str:
    """Return the XML text of one COCO image; ``objects``: (class, COCO annotation) pairs. Decimals of a box are kept."""
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
