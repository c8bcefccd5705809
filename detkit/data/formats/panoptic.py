"""COCO's panoptic annotations (https://cocodataset.org/#format-data): a JSON file that lists the segments of each image, and for each
image a PNG whose colours are the segment ids.
"""
from __future__ import annotations

from collections import Counter
from typing import Any

from detkit.data.formats.coco import (
    KnownIds,
    annotation_fault,
    basic_fault,
    category_fault,
    image_fault,
    load_coco,
    part,
    with_slashes,
)
from detkit.data.formats.faults import Fault, OnFault, stop

ENTRY_KEYS = ('image_id', 'segments_info')
SEGMENT_KEYS = ('id', 'category_id', 'bbox')
LARGEST_ID = 256**3 - 1      # three bytes of a colour


def read_panoptic(path: str, on_fault: OnFault = stop, annotated: bool = True) -> dict:
    """Read and check a panoptic file; return a COCO dict of its valid entries, in which each segment is an annotation.

    If the file names the panoptic image, the annotation has its name as ``seg_file``. ``annotated``: see ``read_coco``.

    Raises:
        BrokenAnnotations: names the file, the segment and the remedy; for errors in entries, ``on_fault`` decides.
    """
    content = load_coco(path, annotated)
    sound: dict[str, Any] = {**content, 'images': [], 'categories': [], 'annotations': []}

    def fault(kind: str, place: str, what: str, remedy: str) -> None:
        on_fault(Fault(kind, place, what, remedy).error(path))

    for key, check in (('categories', panoptic_category_fault), ('images', image_fault)):
        for found in part(content, key, sound[key], check):
            on_fault(found.error(path))
    sound['images'] = with_slashes(sound['images'])
    images, categories = KnownIds(i['id'] for i in sound['images']), KnownIds(c['id'] for c in sound['categories'])
    for n, entry in enumerate(content['annotations']):
        missing = [key for key in ENTRY_KEYS if key not in entry]
        if missing or not isinstance(entry['segments_info'], list):
            fault('key missing', f'annotations[{n}]', f"has no {missing[0] if missing else 'list segments_info'!r}",
                  'This is no panoptic file: each annotation lists the segments of an image. Use CocoDataset for objects alone.')
            continue
        twice = {i for i, count in Counter(str(s.get('id')) for s in entry['segments_info']).items() if count > 1}
        for segment in entry['segments_info']:
            flat = dict(segment, image_id=entry['image_id'], seg_file=entry.get('file_name'))
            wrong = segment_fault(flat, twice) or annotation_fault(flat, images, categories)
            if wrong:
                fault(wrong[0], f"segment {str(segment.get('id'))[:40]} of image {str(entry['image_id'])[:40]}", *wrong[1:])
            else:
                sound['annotations'].append(flat)
    return sound


def panoptic_category_fault(category: dict) -> tuple[str, str, str] | None:
    if category.get('isthing') not in (0, 1):
        return 'isthing', f"has isthing {category.get('isthing')}", 'Write 1 for things that can be counted, 0 for stuff.'
    return category_fault(category)


def segment_fault(segment: dict, twice: set[str]) -> tuple[str, str, str] | None:
    basic = basic_fault(segment, SEGMENT_KEYS)
    if basic:
        return basic
    if type(segment['id']) is not int or not 0 < segment['id'] <= LARGEST_ID:
        return ('segment id', f"has the id {segment['id']}, which no colour stands for",
                'An id is red + 256 green + 65536 blue of its pixels, above 0.')
    if str(segment['id']) in twice:
        return 'id not unique', 'stands twice in the list of its image', 'Give each segment of an image an id of its own.'
    return None
