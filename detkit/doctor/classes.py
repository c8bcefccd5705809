"""Count the objects used for training and evaluation, and compare the class lists of the splits."""
from __future__ import annotations

from mmengine.config import Config

from detkit.data.classes import class_difference, class_names, in_order_of
from detkit.doctor.findings import Report
from detkit.doctor.reading import Part, quiet
from detkit.engine.datasets import leaves, unread
from detkit.engine.preflight import checkpoint_classes
from detkit.registry import ConfigError


def examine_objects(cfg: Config, parts: list[Part], report: Report) -> None:
    """Count the objects of each part that a run would use; a split without any is a fault."""
    counted = []
    for part in parts:
        if part.content is None or not part.content['images']:
            continue
        try:
            with quiet():
                counted.append((part, part.dataset.count_objects(part.content)))
        except ConfigError:                             # wrong classes have their own finding
            continue
    for part, counts in counted:
        others = sum(c.used for p, c in counted if p.split == part.split)
        hint = part.dataset.labels_hint()
        place = f"{part.source}: {counts}{f'; {hint}' if hint and not counts.used else ''}"
        if counts.used and counts.is_much_left_out:
            report.add('warning', 'many objects left out', part.split, place, 'The reasons stand there: are they meant?')
        elif not counts.used and (counts.total or not others):
            if part.split == 'train':
                report.add('fault', 'nothing to learn', part.split, place,
                           'Training is refused. Is it the right file, in the right format?')
            else:
                is_scored = measures(cfg, part.split)
                report.add('fault' if is_scored else 'note', 'nothing to measure', part.split, place,
                           'AP is not defined without objects. Give a set with objects, or format_only=True to write detections alone.')


def measures(cfg: Config, split: str) -> bool:
    """Return whether an evaluator of ``split`` uses the objects of the dataset, according to the config."""
    described = cfg.get(f'{split}_evaluator')
    described = described if isinstance(described, (list, tuple)) else [] if described is None else [described]
    return any(isinstance(one, dict) and not one.get('format_only') for one in described)


def examine_classes(cfg: Config, splits: tuple[str, ...], parts: list[Part], report: Report) -> None:
    """Report splits and checkpoints whose class list differs from that of the training set; labels follow that list, by name."""
    lists = [(split, source, named, is_derived) for split in splits for source, named, is_derived in lists_of(cfg, split, parts)]
    reference = next((named for split, _, named, _ in lists if split == 'train'), None)
    if reference is None:
        return
    for split, source, named, is_derived in lists:
        if split == 'train' or named == reference:
            continue
        place = f"{source}: {class_difference(reference, named, 'train', split)}"
        if is_derived:
            report.add('note', 'classes that a split lists by itself', split, place,
                       'A run uses the list of train, by name. Set metainfo=dict(classes=(...)) to choose it yourself.')
        elif in_order_of(reference, named) is None:
            report.add('fault', 'classes of two splits differ', split, place, 'Use the same names in metainfo.classes of all splits.')
        elif in_order_of(reference, named) != named:
            report.add('warning', 'classes of two splits in another order', split, place,
                       'A run uses the order of train. Bring metainfo.classes into one order.')
    try:
        trained_on = checkpoint_classes(cfg)
    except (ConfigError, OSError) as error:
        if '://' in cfg.load_from:                      # local files are checked together with the other files in the config
            report.add('fault', 'checkpoint cannot be read', '', f'load_from: {error}', 'The message says what to do.')
        return
    if trained_on is not None and len(trained_on) == len(reference) and trained_on != reference:
        report.add('warning', 'classes of checkpoint and data differ', 'train',
                   f"{cfg.load_from}: {class_difference(trained_on, reference, 'the checkpoint', 'train')}",
                   'Its layers that classify are loaded as they are. Where the names are the same, use the order of the checkpoint.')


def lists_of(cfg: Config, split: str, parts: list[Part]) -> list[tuple[str, tuple[str, ...], bool]]:
    """Return annotation file, classes, and whether the classes come from the file, for each dataset of a split."""
    found = []
    loader = cfg.get(f'{split}_dataloader')
    for leaf in leaves(loader['dataset']) if loader else ():
        try:
            dataset = unread(leaf)
        except ConfigError:
            continue                                    # it cannot be built, which has its own finding
        if dataset is None:
            continue
        named = class_names(dataset._metainfo)
        part = next((p for p in parts if p.source == dataset.ann_file and p.content is not None), None)
        derived = class_names(part.dataset._metainfo) if named is None and part is not None else None
        if named or derived:
            found.append((dataset.ann_file, named or derived, named is None))
    return found
