"""Read COCO's annotation format (https://cocodataset.org/#format-data) and find the errors that make an entry unusable."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from detkit.data.formats.faults import LARGEST, BrokenAnnotations, Fault, OnFault, stop

KEYS = dict(images=('id', 'file_name', 'width', 'height'), categories=('id', 'name'), annotations=('image_id', 'category_id', 'bbox'))
IDS = ('id', 'image_id', 'category_id')
NEEDED = 'Give a COCO file: an object with the lists images, annotations, categories.'

Check = Callable[[dict], tuple[str, str, str] | None]      # entry -> kind, description and remedy of its first error


def read_coco(path: str, amend: Callable[[dict], None] | None = None, on_fault: OnFault = stop, annotated: bool = True) -> dict:
    """Read a COCO file, check keys, types, ids and that file names stay in the image folder; return its valid entries.

    ``amend`` may change each image entry before the check. ``annotated``: the file must have a list of annotations; files of test images
    are published without one.

    Raises:
        BrokenAnnotations: names the file, the entry and the remedy; for errors in entries, ``on_fault`` decides.
    """
    content = load_coco(path, annotated)
    for image in content['images'] if amend else ():
        amend(image)
    sound, faults = sift(content)
    for fault in faults:
        on_fault(fault.error(path))
    return sound


def load_coco(path: str, annotated: bool = True) -> dict:
    """Return the content of a COCO file that has the three lists; their entries are not checked.

    ``annotated``: see ``read_coco``; a missing list is replaced by an empty one.

    Raises:
        BrokenAnnotations: the file cannot be read, is not JSON, or has other content.
    """
    def broken(kind: str, what: str, remedy: str) -> BrokenAnnotations:
        return Fault(kind, '', what, remedy).error(path)

    if not path:
        raise broken('no file', 'ann_file is empty', 'Name the annotation file of the dataset.')
    try:
        text = Path(path).read_bytes().decode('utf-8-sig')
        content = json.loads(text)
    except FileNotFoundError:
        raise broken('no file', 'there is no such annotation file', 'Check data_root and ann_file of the dataset.') from None
    except OSError as error:
        raise broken('unreadable', f'cannot be read ({error.strerror})', 'Give the path of a readable JSON file.') from None
    except UnicodeDecodeError as error:
        raise broken('not UTF-8', f'byte {error.start} is not UTF-8', 'Save the file as UTF-8.') from None
    except json.JSONDecodeError as error:
        raise broken('not JSON', f'not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})',
                     'Was it copied or downloaded in full?') from None
    except ValueError as error:     # a number with thousands of digits
        raise broken('not JSON', f'not valid JSON ({error})', 'Write it again with its exporter.') from None
    except RecursionError:
        raise broken('nested too deeply', 'nested too deeply to be an annotation file', 'Write it again with its exporter.') from None
    if not isinstance(content, dict):
        raise broken('not COCO', f'the top level is a {type(content).__name__}, not an object', NEEDED)
    if 'annotations' not in content and isinstance(content.get('images'), list):
        if annotated:
            raise broken('not COCO', "it has images and no list 'annotations', as files of test images have", 'Such a file serves a test '
                         'alone: test_dataloader with test_mode=True, and CocoMetric with format_only=True and outfile_prefix.')
        content['annotations'] = []
    for key in KEYS:
        if not isinstance(content.get(key), list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise broken('not COCO', f"the key '{key}' is missing or not a list of objects", NEEDED)
    return content


def sift(content: dict) -> tuple[dict, Iterator[Fault]]:
    """Return the content with only its valid entries, and an iterator over the errors of the others.

    The content is complete only after the iterator is exhausted. Backslashes in file names become slashes.
    """
    sound = {**content, **{key: [] for key in KEYS}}
    return sound, sifted(content, sound)


def sifted(content: dict, sound: dict) -> Iterator[Fault]:
    for key, check in (('categories', category_fault), ('images', image_fault)):
        yield from part(content, key, sound[key], check)
    sound['images'] = with_slashes(sound['images'])
    images, categories = KnownIds(i['id'] for i in sound['images']), KnownIds(c['id'] for c in sound['categories'])
    yield from part(content, 'annotations', sound['annotations'], lambda a: annotation_fault(a, images, categories))


def with_slashes(images: list[dict]) -> list[dict]:
    return [dict(i, file_name=i['file_name'].replace('\\', '/')) if '\\' in i['file_name'] else i for i in images]


def part(content: dict, key: str, sound: list, check: Check) -> Iterator[Fault]:
    """Yield the errors of one list; entries without errors are appended to ``sound``."""
    counts = Counter(str(e['id']) for e in content[key] if 'id' in e)
    told = set()
    for n, entry in enumerate(content[key]):
        found = basic_fault(entry, KEYS[key]) or check(entry)
        name = str(entry.get('id'))
        if found:
            yield Fault(found[0], f'{key}[{n}] (id {name[:40]})' if key != 'annotations' else f'annotation {name[:40]}', *found[1:])
        elif counts.get(name, 0) > 1:
            if name not in told:
                yield Fault('id not unique', '', f'the id {name} stands {counts[name]} times in {key}', 'Give each entry an id of its own.')
            if name not in told or key == 'annotations':      # no entry refers to an annotation id, so all duplicates can be used
                sound.append(entry)
            told.add(name)
        else:
            sound.append(entry)


def basic_fault(entry: dict, keys: tuple[str, ...]) -> tuple[str, str, str] | None:
    for key in keys:
        if key not in entry:
            return 'key missing', f"has no '{key}'", 'Add it, or remove the entry.'
    for key in IDS:
        if not isinstance(entry.get(key, 0), (int, float, str)):
            return 'id of another type', f'has the {key} {entry[key]}', 'An id is a whole number.'
    return None


def category_fault(category: dict) -> tuple[str, str, str] | None:
    if not isinstance(category['name'], str):
        return 'name of another type', f"has the name {category['name']}", 'A name is a string.'
    return None


def image_fault(image: dict) -> tuple[str, str, str] | None:
    name = image['file_name']
    sizes = image['width'], image['height']
    if not all(type(s) in (int, float) and 0 < s < LARGEST and s == int(s) for s in sizes):
        return 'image size', f'has width and height {sizes}', 'Write its size in whole pixels.'
    parts = str(name).replace('\\', '/').split('/')
    if not isinstance(name, str) or '\0' in name or not name or '..' in parts or parts[0] == '' or ':' in parts[0]:
        return ('path outside the image folder', f'has the file_name {name!r}, which is no path below the image folder',
                'Use a path relative to data_prefix.img.')
    return None


def annotation_fault(annotation: dict, images: KnownIds, categories: KnownIds) -> tuple[str, str, str] | None:
    for key, known in (('image_id', images), ('category_id', categories)):
        if annotation[key] not in known:
            same = known.same_number(annotation[key])
            if same is not None:
                return (f'{key} of another type', f'has the {key} {annotation[key]!r}, and the {key[:-3]} has the id {same!r}: text is one '
                        f'thing, a number another', 'Write both alike in the whole file.')
            return (f'unknown {key}', f'has the {key} {annotation[key]}, which is not in the file (or its entry is at fault)',
                    f'Add that {key[:-3]}, or remove the annotation.')
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) and -LARGEST < v < LARGEST for v in box):
        return 'bbox is not four numbers', f'has the bbox {box}', 'A box is four finite numbers x, y, width, height, in pixels.'
    if box[2] < 0 or box[3] < 0:
        return ('bbox of negative size', f'has the bbox {box} of negative size',
                'A box is x, y, width, height; width and height are not negative.')
    if type(annotation.get('area', 0)) not in (int, float) or annotation.get('iscrowd', 0) not in (0, 1):
        return ('area or iscrowd', f"has the area {annotation.get('area')} and iscrowd {annotation.get('iscrowd')}",
                'area is a number of pixels, iscrowd is 0 or 1; both may be left out.')
    return None


class KnownIds(set):
    """The ids of a list of entries; an id of another type (``'000012'`` for 12) is found by its number."""

    @cached_property
    def by_number(self) -> dict[int | None, Any]:
        return {number_of(i): i for i in self}

    def same_number(self, value: Any) -> Any:
        number = number_of(value)
        return None if number is None else self.by_number.get(number)


def number_of(value: Any) -> int | None:
    """Return the integer value of an id or of its text, or None."""
    try:
        return int(value) if not isinstance(value, str) or value.strip().isdecimal() else None
    except (OverflowError, ValueError):
        return None


def coco_dict(images: list[dict], annotations: list[dict], classes: list[str] | tuple[str, ...]) -> dict:
    """Build a COCO dict; categories are numbered from 1 in the order of ``classes``, annotation ids start at 1.

    ``annotations`` have ``category`` (a name) and ``bbox`` (x, y, width, height); other keys are kept.
    """
    numbers = {name: n for n, name in enumerate(classes, 1)}
    entries = []
    for n, a in enumerate(annotations, 1):
        box = a['bbox']
        entries.append({'id': n, 'image_id': a['image_id'], 'category_id': numbers[a['category']], 'bbox': box,
                        'area': box[2] * box[3], 'iscrowd': 0, 'segmentation': [],
                        **{k: v for k, v in a.items() if k not in ('category', 'bbox', 'image_id')}})
    return dict(images=images, annotations=entries, categories=[dict(id=n, name=name) for name, n in numbers.items()])


def whole(value: float) -> Any:
    """Return a float without decimals as an int, for short files and exact comparisons."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
