"""The whole check: files, annotations, duplicates, class distribution, and the config."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from detkit.config import load_config
from detkit.data.edit import statistics
from detkit.doctor.annotations import examine_annotations
from detkit.doctor.classes import examine_classes, examine_objects
from detkit.doctor.findings import Report
from detkit.doctor.page import page
from detkit.doctor.pictures import Picture, look_at_all
from detkit.doctor.reading import SPLITS, Part, parts_of
from detkit.doctor.referenced_files import examine_referenced_files
from detkit.doctor.repair import write_repaired
from detkit.doctor.run import examine_run
from detkit.doctor.spread import examine_spread
from detkit.doctor.twins import near_twins, same_files
from detkit.files import atomic_path, write_json
from detkit.registry import register_all_modules

SHOWN = 6        # images of each split on the page


def doctor(cfg: Config | dict | str | Path, options: Any = None, splits: Iterable[str] = SPLITS, out: str | os.PathLike | None = None,
           fix: str | os.PathLike | None = None, model: bool = True, probe: bool = True, progress: bool = False,
           say: Callable[[str], None] = lambda line: None) -> Report:
    """Check the datasets of a config, and the config itself.

    Args:
        cfg: a config, its path or name, or a dict with ``train_dataloader`` and similar keys. options: overrides, as ``--cfg-options``.
        splits: any of train, val, test. out: folder for report.html and report.json.
        fix: folder for SPLIT.json, the repaired annotations, and SPLIT_changes.json, the list of changes.
        model: build the model and check matching and evaluation; files named in the config are checked in any case.
        probe: also train the model for a few steps.

    Returns the report; ``report.worst`` is ``fault``, ``warning``, ``note`` or None.

    Raises:
        ConfigError: the config cannot be read.
    """
    cfg = Config(cfg) if type(cfg) is dict else load_config(cfg, options)
    register_all_modules(init_default_scope=True)
    splits = tuple(s for s in SPLITS if s in splits)
    report = Report(config=str(cfg.filename or ''))
    parts = list(parts_of(cfg, splits, report))
    looked = [look(part, report, progress) for part in parts]
    compare(parts, looked, report)
    examine_objects(cfg, parts, report)
    examine_classes(cfg, splits, parts, report)
    examine_referenced_files(cfg, splits, report)
    spread(parts, report)
    for part, pictures in zip(parts, looked):
        if fix and part.content is not None:
            known = {i['id']: p for i, p in zip(part.content['images'], pictures)}
            path, count = write_repaired(Path(fix), name_apart(part, parts), part, known)
            say(f'{part.source}: repaired copy at {path}, {count} changes')
    if model:
        examine_run(cfg, splits, report, probe, say)
    report.sort()
    if out:
        write_json(Path(out) / 'report.json', report.as_dict(), indent=1)
        with atomic_path(Path(out) / 'report.html') as temporary:
            temporary.write_text(page(report), encoding='utf-8')
    return report


def name_apart(part: Part, parts: list[Part]) -> str:
    """Return the split, with a number if it has several files."""
    same = [p for p in parts if p.split == part.split]
    return part.split if len(same) == 1 else f'{part.split}_{same.index(part)}'


def look(part: Part, report: Report, progress: bool) -> list[Picture]:
    """Check the annotations and images of a part; return its images in order."""
    if part.content is None:
        return []
    names = [c['name'] for c in part.content['categories']]
    report.sources.append(dict(split=part.split, annotations=part.source, images=image_place(part), num_images=len(part.content['images']),
                               num_objects=len(part.content['annotations']), classes=list(part.dataset._metainfo.get('classes') or names)))
    examine_annotations(part.content, part.split, part.source, report, part.path_of)
    report.facts.setdefault(part.split, {}).setdefault('files', {})[part.source] = statistics(part.content)
    pictures = list(watched(look_at_all(part.path_of[i['id']] for i in part.content['images']), len(part.path_of), part.split, progress))
    for image, found in zip(part.content['images'], pictures):
        for level, kind, what, remedy in found.trouble:
            shown = dict(path=found.path) if found.thumb is not None else None
            report.add(level, kind, part.split, f'{found.path}: {what}', remedy, shown)
        check_size(image, found, part, report)
    boxes: dict[Any, list] = {}
    for a in part.content['annotations']:
        x, y, w, h = a['bbox']
        boxes.setdefault(a['image_id'], []).append([x, y, x + w, y + h])
    step = max(len(pictures) // SHOWN, 1)
    for image in part.content['images'][::step][:SHOWN]:
        report.samples.append(dict(path=part.path_of[image['id']], boxes=boxes.get(image['id'], [])[:300],
                                   caption=f"{part.split}: {image['file_name']}, {len(boxes.get(image['id'], []))} objects"))
    return pictures


def image_place(part: Part) -> str:
    """Return the folder that contains all images of a part; '' if there is none."""
    folders = [os.path.dirname(path) for path in part.path_of.values()]
    return os.path.commonpath(folders) if folders else ''


def watched(pictures: Iterator[Picture], count: int, split: str, progress: bool) -> Iterator[Picture]:
    from tqdm import tqdm
    yield from tqdm(pictures, total=count, desc=f'pictures of {split}', unit='image', disable=not progress or None)


def check_size(image: dict, found: Picture, part: Part, report: Report) -> None:
    stated = image['width'], image['height']
    if not found.width or stated == (found.width, found.height):
        return
    swapped = found.turned and stated == (found.height, found.width)
    place = f"{part.source}: image {image['id']} ({image['file_name']})"
    report.add('fault', 'size differs from the file', part.split, f'{place} is said to be {stated[0]}x{stated[1]}, its file is '
               f'{found.width}x{found.height}' + (' once EXIF turns it' if swapped else ''),
               "The boxes were drawn on the picture as stored: set color_type='color_ignore_orientation' of LoadImageFromFile." if swapped
               else 'Boxes of another size are wrong boxes: find the picture they were drawn on, or correct width and height (detkit '
               'doctor --fix does).',
               dict(path=found.path))


def compare(parts: list[Part], looked: list[list[Picture]], report: Report) -> None:
    """Report identical images and near-duplicates, within splits and across splits."""
    pictures = [p for found in looked for p in found]
    owner = [(part, image) for part, found in zip(parts, looked) for image, _ in zip(part.content['images'] if part.content else (), found)]

    def name(i: int) -> str:
        return f'{owner[i][0].split} {pictures[i].path}'
    for group in same_files(pictures):
        splits = sorted({owner[i][0].split for i in group}, key=SPLITS.index)
        paths = {os.path.realpath(pictures[i].path) for i in group}
        if len(splits) > 1:
            add_twins(report, leak(splits), 'same picture in two splits', ' and '.join(splits), ' = '.join(map(name, group[:4])),
                      'The model is tested on what it was trained on; take it out of one split.', pictures[group[0]], pictures[group[1]])
        elif len(paths) > 1:
            add_twins(report, 'warning', 'same picture twice', splits[0], ' = '.join(map(name, group[:4])),
                      'It counts twice, perhaps with other labels; keep one.', pictures[group[0]], pictures[group[1]])
    for i, j in near_twins(pictures):
        a, b = owner[i][0].split, owner[j][0].split
        if a != b:
            add_twins(report, leak([a, b]), 'nearly the same picture in two splits', f'{a} and {b}', f'{name(i)} ~ {name(j)}',
                      'If they show the same scene, the model is tested on what it was trained on; keep them in one split.',
                      pictures[i], pictures[j])
        else:
            add_twins(report, 'note', 'nearly the same picture twice', a, f'{name(i)} ~ {name(j)}',
                      'Frames of one video? They say less than their number.', pictures[i], pictures[j])


def leak(splits: list[str]) -> str:
    """Return the level of an image that is in several splits: ``note`` if train is not one of them (val and test may share images)."""
    return 'warning' if 'train' in splits else 'note'


def add_twins(report: Report, level: str, kind: str, split: str, place: str, remedy: str, *pictures: Picture) -> None:
    for n, p in enumerate(pictures):
        if n == 0:
            report.add(level, kind, split, place, remedy, dict(path=p.path))
        else:
            found = next(f for f in report.findings if (f.level, f.kind, f.split) == (level, kind, split))
            if len(found.pictures) < 6:
                found.pictures.append(dict(path=p.path))


def spread(parts: list[Part], report: Report) -> None:
    counts: dict[str, Counter] = {}
    images: dict[str, tuple[int, int]] = {}
    classes: list[str] = []
    for part in parts:
        if part.content is None:
            continue
        names = {c['id']: c['name'] for c in part.content['categories']}
        wanted = part.dataset._metainfo.get('classes') or tuple(names.values())
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        classes += [c for c in wanted if c not in classes]
        found = Counter(names[a['category_id']] for a in part.content['annotations'] if not a.get('iscrowd'))
        counts.setdefault(part.split, Counter()).update({n: c for n, c in found.items() if n in wanted})
        others = {n: c for n, c in found.items() if n not in wanted}
        for name, count in others.items():
            report.add('note', 'class left out', part.split, f"{part.source}: '{name}', {count} objects", 'It is not in metainfo.classes.')
        if found and not counts[part.split]:
            report.add('fault', 'no annotation has a wanted class', part.split, f'{part.source} has {", ".join(list(names.values())[:8])}; '
                       f'wanted: {", ".join(wanted[:8])}', 'Set metainfo=dict(classes=(...)) of the data set.')
        report.facts[part.split]['mapped_annotations'] = sum(counts[part.split].values())
        holders = {a['image_id'] for a in part.content['annotations']}
        before = images.get(part.split, (0, 0))
        images[part.split] = (before[0] + len(part.content['images']),
                              before[1] + sum(i['id'] not in holders for i in part.content['images']))
    examine_spread(counts, images, classes, report)
