"""CrowdHuman's odgt files: one JSON object per line (https://arxiv.org/abs/1805.00123, https://www.crowdhuman.org/download.html)."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detkit.data.formats.coco import coco_dict
from detkit.data.formats.faults import LARGEST, BrokenAnnotations, OnFault, stop
from detkit.data.formats.pictures import picture_of_stem, size_of
from detkit.data.formats.table import check_name
from detkit.data.formats.text import read_lines

BOXES = ('fbox', 'vbox', 'hbox')      # full body, visible part, head


def odgt_to_coco(path: Path, images: Path, sizes: dict[str, list[int]] | None = None, box: str = 'fbox',
                 on_fault: OnFault = stop) -> dict:
    """Convert an odgt file to a COCO dict; each person keeps the visible and head boxes. Ignored boxes become crowds.

    ``sizes``: (height, width) by ID, as in MMDetection's id_hw files; otherwise image headers are read. ``box``: one of BOXES.

    Raises:
        BrokenAnnotations: names the file and line; for errors in lines, ``on_fault`` decides.
    """
    found, annotations = [], []
    first_line: dict[str, int] = {}
    for number, line in read_lines(path):
        try:
            key, people = read_entry(line, box, path, number)
            if first_line.setdefault(key, number) != number:
                raise BrokenAnnotations(f'{path}: line {number} has the ID {key!r} of line {first_line[key]} again. Join them, or take one '
                                        f'out.')
            picture = picture_of_stem(str(images), key)
            height, width = sizes[key] if sizes and key in sizes else size_of(images / picture, path)[::-1]
        except BrokenAnnotations as error:
            on_fault(error)
            continue
        found.append(dict(id=key, file_name=picture, width=width, height=height))
        annotations += [dict(image_id=key, **p) for p in people]
    return coco_dict(found, annotations, ['person'])


def read_entry(line: str, box: str, path: Path, number: int) -> tuple[str, list[dict]]:
    """Return the ID and the people of one line."""
    try:
        row = json.loads(line)
        key, people = str(row['ID']), [person(p, box) for p in row.get('gtboxes', [])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BrokenAnnotations(f'{path}: line {number} is no entry of CrowdHuman ({type(error).__name__}: {error}). An entry has an '
                                f'ID and gtboxes with tag and {box}.') from None
    check_name(key, path, number)
    return key, people


def person(entry: dict[str, Any], box: str) -> dict[str, Any]:
    values = {k: entry[k] for k in BOXES if k in entry}
    if len(values[box]) != 4 or not all(type(v) in (int, float) and abs(v) < LARGEST for v in values[box]) or min(values[box][2:]) < 0:
        raise ValueError(f'{box}={values[box]}')
    ignored = entry['tag'] != 'person' or bool(entry.get('extra', {}).get('ignore', 0))
    return dict(category='person', bbox=list(values[box]), iscrowd=int(ignored), **{k: v for k, v in values.items() if k != box})
