"""Tables: a plain CSV with one line per object, and the tables of Open Images."""
from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detkit.data.formats.coco import coco_dict, whole
from detkit.data.formats.faults import LARGEST, BrokenAnnotations, OnFault, stop
from detkit.data.formats.pictures import picture_of_stem, picture_path, size_of
from detkit.data.formats.text import read_text

NAMES = {'file': ('file', 'file_name', 'filename', 'image', 'image_path', 'img', 'path', 'image_id'),
         'class': ('class', 'label', 'name', 'category', 'class_name'), 'width': ('width', 'image_width', 'img_width'),
         'height': ('height', 'image_height', 'img_height'),
         'x1': ('x1', 'xmin', 'x_min', 'left'), 'y1': ('y1', 'ymin', 'y_min', 'top'),
         'x2': ('x2', 'xmax', 'x_max', 'right'), 'y2': ('y2', 'ymax', 'y_max', 'bottom')}
PLAIN = ('file', 'x1', 'y1', 'x2', 'y2', 'class')        # column order without a header
CORNERS = ('x1', 'y1', 'x2', 'y2')


def csv_to_coco(path: Path, images: Path, classes: Sequence[str] | None = None, on_fault: OnFault = stop) -> dict:
    """Convert a CSV to a COCO dict: ``file,x1,y1,x2,y2,class`` in pixels; a header allows any order and other common names.

    A line with only a file is an image without objects. Sizes come from the columns ``width``, ``height``, or from the images in
    ``images``. The delimiter (comma, semicolon, tab) is detected from the first line. ``classes``: their order; None: the classes that
    occur, sorted by name.

    Raises:
        BrokenAnnotations: names the file and line; for errors in lines, ``on_fault`` decides.
    """
    found: dict[str, dict] = {}
    annotations = []
    for line, row in rows_of(path):
        try:
            image, annotation = read_row(row, found, images, path, line)
        except BrokenAnnotations as error:
            on_fault(error)
            continue
        found.setdefault(image['file_name'], image)
        annotations += annotation
    occurring = sorted({a['category'] for a in annotations})
    return coco_dict(list(found.values()), annotations, occurring if classes is None else [*classes, *(c for c in occurring
                                                                                                       if c not in classes)])


def read_row(row: dict[str, str], found: dict[str, dict], images: Path, path: Path, line: int) -> tuple[dict, list[dict]]:
    """Return the image of a line, from ``found`` if it exists, and its objects (at most one)."""
    name = row['file'].replace('\\', '/').removeprefix('./')
    check_name(name, path, line)
    image = found.get(name)
    if image is None:
        width, height = stated_size(row, path, line) or size_of(picture_path(str(images), name), path)
        image = dict(id=1 + len(found), file_name=name, width=width, height=height)
    if not any(row.get(k) for k in (*CORNERS, 'class')):
        return image, []
    x1, y1, x2, y2 = (number(row, k, path, line) for k in CORNERS)
    if x2 < x1 or y2 < y1:
        raise BrokenAnnotations(f'{path}: line {line} has the box ({x1}, {y1}, {x2}, {y2}); a minimum is above its maximum. Write '
                                f'x1, y1, x2, y2 in pixels.')
    if not row.get('class'):
        raise BrokenAnnotations(f'{path}: line {line} has a box and no class. Add it, or remove the line.')
    return image, [dict(image_id=image['id'], category=row['class'], bbox=[x1, y1, whole(x2 - x1), whole(y2 - y1)])]


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, values by detkit's column names)."""
    text = read_text(path, remedy='Give a CSV file in UTF-8.')
    first_line = next((line for line in text.splitlines() if line.strip()), '')
    if not first_line:
        raise BrokenAnnotations(f'{path}: the file is empty. Give a line an object: {",".join(PLAIN)}.')
    mark = max(',;\t', key=re.sub('"[^"]*"', '', first_line).count)
    columns: list[str] = []
    for line, row in table_rows(csv.reader(io.StringIO(text, newline=''), delimiter=mark, strict=True), path):
        if not any(v.strip() for v in row):
            continue
        if not columns:
            columns, is_header = columns_of(row, path, line)
            if is_header:
                continue
        if len(row) > len(columns):
            raise BrokenAnnotations(f'{path}: line {line} has {len(row)} values for {len(columns)} columns. Is a name with {mark!r} in it '
                                    f'not quoted?')
        yield line, {k: v.strip() for k, v in zip(columns, row)}


def table_rows(reader: Any, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number of its last line, row) of a csv reader.

    Raises:
        BrokenAnnotations: names the line that cannot be read.
    """
    rows = iter(reader)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:      # a zero byte, an unterminated quote, or another encoding
            raise BrokenAnnotations(f'{path}: line {reader.line_num + 1} cannot be read ({error}). Save the file as CSV in '
                                    f'UTF-8.') from None
        yield reader.line_num, row


def columns_of(row: Sequence[str], path: Path, line: int) -> tuple[list[str], bool]:
    """Return detkit's column names, and whether the row is a header.

    Raises:
        BrokenAnnotations: a column is missing or occurs twice.
    """
    names = {other: ours for ours, others in NAMES.items() for other in others}
    given = [re.sub(r'[\s-]+', '_', v.strip().lower()) for v in row]
    if sum(v in names for v in given) < 2:
        return list(PLAIN), False
    columns = [names.get(v, v) for v in given]
    for key in NAMES:
        places = [i for i, column in enumerate(columns) if column == key]
        if key == 'file' and len(places) > 1:                 # a column with image numbers may exist beside the file names
            columns = ['' if i in places and given[i] == 'image_id' else c for i, c in enumerate(columns)]
            places = [i for i in places if columns[i]]
        if len(places) > 1:
            raise BrokenAnnotations(f"{path}: line {line} has several columns for '{key}': {', '.join(row[i].strip() for i in places)}. "
                                    f'Leave one.')
    lacking = [k for k in PLAIN if k not in columns]
    if lacking:
        raise BrokenAnnotations(f"{path}: line {line} names no column '{lacking[0]}'. The columns are {', '.join(PLAIN)}; width and height "
                                f'(of the image) may be added. It has: {", ".join(v.strip() for v in row)}.')
    return columns, True


def stated_size(row: dict[str, str], path: Path, line: int) -> tuple[int, int] | None:
    if not row.get('width') or not row.get('height'):
        return None
    width, height = (int(number(row, k, path, line)) for k in ('width', 'height'))
    if min(width, height) < 1:
        raise BrokenAnnotations(f'{path}: line {line} has an image of {width}x{height} pixels. Write its size, or leave it out.')
    return width, height


def number(row: dict[str, str], key: str, path: Path, line: int) -> float:
    try:
        value = float(row.get(key) or '')
    except ValueError:
        value = math.nan
    if ',' in (row.get(key) or ''):
        raise BrokenAnnotations(f'{path}: line {line} has {key}={row[key]!r}. Write decimals with a point.')
    if not abs(value) < LARGEST:
        raise BrokenAnnotations(f'{path}: line {line} has {key}={row.get(key)!r}. It is a number of pixels.')
    return whole(value)


def check_name(name: str, path: Path, line: int) -> None:
    parts = name.split('/')
    if not name or '\0' in name or '..' in parts or parts[0] == '' or ':' in parts[0]:
        raise BrokenAnnotations(f'{path}: line {line} has the file {name!r}, which is no path below the image folder. Use a relative path.')


def open_images_to_coco(boxes: Path, labels: Path, images: Path, sizes: Path | None = None, on_fault: OnFault = stop) -> dict:
    """Convert Open Images (https://storage.googleapis.com/openimages/web/download_v7.html) to a COCO dict; image ids are unchanged.

    Args:
        boxes: ``...-annotations-bbox.csv``; coordinates are fractions of the image. Groups (``IsGroupOf``) become crowds.
        labels: ``class-descriptions-boxable.csv``: the code and the name of each class, in the class order.
        images: folder of ``ID.jpg``. sizes: a CSV ``ImageID,Width,Height``; without it, image headers are read.

    Raises:
        BrokenAnnotations: names the file and line.
    """
    names = {}
    with open_csv(labels) as file:
        for _, row in table_rows(csv.reader(file), labels):
            if len(row) >= 2 and row[0] != 'LabelName':
                names[row[0]] = row[1]
    known = {}
    if sizes:
        with open_csv(sizes) as file:
            for line, row in table_rows(csv.DictReader(file), sizes):
                columns_there(row, ('ImageID', 'Width', 'Height'), sizes)
                known[row['ImageID']] = tuple(int(number(row, k, sizes, line)) for k in ('Width', 'Height'))
    found: dict[str, dict] = {}
    annotations = []
    with open_csv(boxes) as file:
        for line, row in table_rows(csv.DictReader(file), boxes):
            columns_there(row, ('ImageID', 'LabelName', 'XMin', 'XMax', 'YMin', 'YMax'), boxes)
            try:
                image, annotation = read_open_image(row, found, known, names, images, boxes, line)
            except BrokenAnnotations as error:
                on_fault(error)
                continue
            found.setdefault(image['id'], image)
            annotations.append(annotation)
    return coco_dict(list(found.values()), annotations, list(dict.fromkeys(names.values())))


def read_open_image(row: dict[str, str], found: dict[str, dict], known: dict[str, tuple[int, int]], names: dict[str, str], images: Path,
                    path: Path, line: int) -> tuple[dict, dict]:
    """Return the image of a line, from ``found`` if it exists, and its object. ``known``: sizes."""
    key = (row['ImageID'] or '').strip()
    check_name(key, path, line)
    if row.get('LabelName') not in names:
        raise BrokenAnnotations(f"{path}: line {line} has the class {row.get('LabelName')!r}, which label_file does not name. Is it of "
                                f'the same release?')
    image = found.get(key)
    if image is None:
        picture = picture_of_stem(str(images), key)
        width, height = known.get(key) or size_of(images / picture, path)
        image = dict(id=key, file_name=picture, width=width, height=height)
    x1, x2, y1, y2 = (number(row, k, path, line) for k in ('XMin', 'XMax', 'YMin', 'YMax'))
    box = [x1 * image['width'], y1 * image['height'], (x2 - x1) * image['width'], (y2 - y1) * image['height']]
    return image, dict(image_id=key, category=names[row['LabelName']], bbox=box, iscrowd=int(row.get('IsGroupOf') == '1'))


def columns_there(row: dict, columns: Sequence[str], path: Path) -> None:
    """Raise BrokenAnnotations unless a row of ``path`` has these columns."""
    lacking = [k for k in columns if k not in row]
    if lacking:
        raise BrokenAnnotations(f"{path}: line 1 names no column '{lacking[0]}'. It has: {', '.join(map(str, row))}.")


def open_csv(path: Path):  # noqa: ANN201 - a text file, by the csv module's rules
    try:
        return open(path, newline='', encoding='utf-8-sig')
    except OSError as error:
        raise BrokenAnnotations(f'{path}: cannot be read ({error.strerror}).') from None
