"""Read the datasets of a config so that one error does not hide the others."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from detkit.data.datasets.detection import DetDataset
from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.formats.pictures import picture_path
from detkit.doctor.findings import Report
from detkit.engine.datasets import leaves
from detkit.registry import DATASETS, ConfigError

SPLITS = ('train', 'val', 'test')


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log while datasets and models are built and evaluated."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@dataclass
class Part:
    """One annotation file of a split. ``content``: a COCO dict of its valid entries, None if the file cannot be used."""

    split: str
    dataset: DetDataset
    content: dict | None
    faults: list[str] = field(default_factory=list)            # errors of the entries that were left out
    path_of: dict[Any, str] = field(default_factory=dict)      # image id -> file

    @property
    def source(self) -> str:
        return self.dataset.ann_file


def parts_of(cfg: Config, splits: tuple[str, ...], report: Report) -> Iterator[Part]:
    """Yield each dataset of each split, without wrappers; a file shared by several splits is read once, for the first."""
    seen = set()
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for described in leaves(loader['dataset']) if loader else ():
            args = {**described, 'lazy_init': True}
            args.pop('cache', None)
            try:
                dataset = DATASETS.build(args)
            except ConfigError as error:
                report.add('fault', 'data set cannot be built', split, str(error), 'Correct the config.')
                continue
            if not isinstance(dataset, DetDataset):
                report.add('note', 'data set not examined', split, f"type='{described.get('type')}'", 'The doctor knows data sets that '
                                                                                                    'detkit brings.')
                continue
            key = (dataset.ann_file, str(dataset.data_prefix), getattr(dataset, 'split', ''))
            if key not in seen:
                seen.add(key)
                yield read_part(split, dataset, report)


def read_part(split: str, dataset: DetDataset, report: Report) -> Part:
    faults: list[str] = []

    def on_fault(error: BrokenAnnotations) -> None:
        faults.append(str(error))
        report.add('fault', error.kind, split, str(error),
                   'The entry is left out below, and by detkit doctor --fix; correct it at its source.')
    try:
        content = dataset.read(on_fault)
    except BrokenAnnotations as error:
        report.add('fault', 'annotation file unusable', split, str(error), 'The message says what to do.')
        return Part(split, dataset, None, faults)
    prefix = dataset.data_prefix.get('img', '')
    return Part(split, dataset, content, faults, {i['id']: picture_path(prefix, i['file_name']) for i in content['images']})
