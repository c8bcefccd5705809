"""The base class of all detection datasets: seeds, classes, and the handling of images that cannot be read."""
from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from detkit.data.cache.samples import CacheSettings
from detkit.data.cache.use import open_cache
from detkit.data.compose import Compose
from detkit.data.datasets.entries import (
    BELOW_MIN_SIZE,
    SMALL_IMAGE,
    WITHOUT_MASK,
    ObjectCounts,
    entries_of,
    label_of_category,
)
from detkit.data.formats.faults import OnFault, stop
from detkit.data.known import KNOWN
from detkit.data.transforms.loading import UnreadableImage, check_local
from detkit.files import existing_path, find_data, local_path
from detkit.mmdet_names import old_attribute
from detkit.registry import ConfigError, check_keys, did_you_mean
from detkit.structures.random_streams import RandomStream

ON_ERROR = ('fail', 'skip')
PREFIXES = ('img', 'seg', 'sub_data_root')     # valid keys of data_prefix
FILTERS = dict(filter_empty_gt=bool, min_size=int, bbox_min_size=int)


class DetDataset(BaseDataset):
    """A list of images with objects, processed by a pipeline.

    Args (as in MMDetection's datasets):
        ann_file, data_root, data_prefix: where the annotations and images are. A relative ``data_root`` that does not exist is
            searched in ``$DETKIT_DATA_ROOT``.
        metainfo: ``dict(classes=(...))`` selects and orders classes by name.
        filter_cfg: ``filter_empty_gt`` drops images without objects; ``min_size`` drops images with a side below this many pixels;
            ``bbox_min_size`` marks objects with a shorter side as ignored. Not applied in ``test_mode``.
        pipeline: configs of transforms. max_refetch: maximum number of new samples drawn when a pipeline returns None.
        return_classes: add the class names to each sample as ``text``.
        on_error: what to do with an image that cannot be read. ``fail``: raise an error with its path. ``skip``: use another image
            and warn once per file. In ``test_mode`` it always fails, because a metric on other images is not comparable.
        cache: ``dict(type='lmdb', ...)`` stores every sample on disk as it is before its first random transform. Results do not
            change. See detkit.data.cache.samples.CacheSettings.
        seed: seed of all random numbers; the training engine sets it.

    Raises:
        ConfigError: ``data_root`` does not exist; ``metainfo``, ``filter_cfg`` or ``on_error`` is invalid; or no image is left.
    """

    METAINFO: dict[str, Any] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if 'CLASSES' in vars(cls):
            raise TypeError(f"{cls.__name__}.CLASSES is MMDetection 2's form, which nothing reads. Write "
                            f'METAINFO = dict(classes={vars(cls)["CLASSES"]!r}).')

    def __getattr__(self, name: str) -> NoReturn:
        old_attribute(name)

    complete = True      # the annotation file lists all classes, also classes without objects

    def __init__(self, ann_file: Any = '', metainfo: dict | None = None, data_root: Any = '', data_prefix: Any = dict(img=''),
                 filter_cfg: dict | None = None, indices: int | Sequence[int] | None = None, serialize_data: bool = True,
                 pipeline: Sequence[dict | Callable] = (), test_mode: bool = False, lazy_init: bool = False,
                 max_refetch: int = 1000, backend_args: dict | None = None, return_classes: bool = False,
                 seg_map_suffix: str = '.png', on_error: str = 'fail', cache: dict | None = None, seed: int = 0) -> None:
        check_local(backend_args)
        check_keys(filter_cfg or {}, FILTERS, 'filter_cfg')
        if on_error not in ON_ERROR:
            raise ConfigError(f"on_error='{on_error}' is unknown. Known: {', '.join(ON_ERROR)}.")
        self.return_classes, self.seg_map_suffix, self.on_error, self.seed = return_classes, seg_map_suffix, on_error, seed
        self.unreadable: set[str] = set()
        self.cache_settings = CacheSettings.from_config(cache) if cache else None
        self.is_cache_open = False
        self.counts = ObjectCounts()         # complete after the annotations are read
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()   # shared memory: persistent workers see the change
        check_metainfo(metainfo)
        ann_file, data_root = one_path(ann_file, 'ann_file'), one_path(data_root, 'data_root')
        super().__init__(ann_file=ann_file, metainfo=metainfo, data_root=find_root(data_root, ann_file),
                         data_prefix=checked_prefix(data_prefix), filter_cfg=filter_cfg, indices=indices, serialize_data=serialize_data,
                         pipeline=[], test_mode=test_mode, lazy_init=True, max_refetch=max_refetch)
        self.ann_file = existing_path(self.ann_file)
        check_classes(self._metainfo)
        self.pipeline = Compose(pipeline, self.get_data_info, self.__len__)
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        if not self._fully_initialized:
            collects = gc.isenabled()
            gc.disable()                 # garbage collection would scan millions of new objects repeatedly: a third of the loading time
            try:
                super().full_init()
            finally:
                if collects:
                    gc.enable()
            open_cache(self)

    def read(self, on_fault: OnFault = stop) -> dict:
        """Return the annotations as a COCO dict that contains only valid entries; ``on_fault`` is called for each invalid entry."""
        raise NotImplementedError(f'{type(self).__name__} defines no read().')

    def load_data_list(self) -> list[dict]:
        return self.data_of(self.read())

    def count_objects(self, content: dict) -> ObjectCounts:
        """Count the objects of ``content`` (the result of ``read``) that training would use, without making samples.

        Raises:
            ConfigError: as when the dataset is loaded.
        """
        self.data_list = self.data_of(content)
        self.select_entries()
        return self.counts

    def data_of(self, content: dict) -> list[dict]:
        """Return one dict per image of ``content`` (the result of ``read``), before filtering. Resets ``counts``."""
        self.counts = ObjectCounts()
        known, named = list(dict.fromkeys(c['name'] for c in by_id(content['categories']))), self._metainfo.get('classes')
        if named is None:
            self._metainfo['classes'] = tuple(known)
            check_classes(self._metainfo)
        given = 'metainfo.classes' if named != self.METAINFO.get('classes') else \
            f'the {len(named or ())} classes of {type(self).__name__} (no metainfo is given)'
        self.cat2label = label_of_category(content, self._metainfo['classes'], self.ann_file, self.complete, given)
        self.cat_ids = sorted(self.cat2label, key=self.cat2label.get)
        data = self.entries(content)
        least = (self.filter_cfg or {}).get('bbox_min_size')
        for entry in data if least and not self.test_mode else ():
            for i in entry['instances']:
                if not i['ignore_flag'] and min(i['bbox'][2] - i['bbox'][0], i['bbox'][3] - i['bbox'][1]) < least:
                    i['ignore_flag'] = 1
                    self.counts.left_out[BELOW_MIN_SIZE] += 1
        for entry in data if self.return_classes else ():
            entry.update(text=self._metainfo.get('thing_classes', self._metainfo['classes']), custom_entities=True)
        return data

    def entries(self, content: dict) -> list[dict]:
        """Return one dict per image, from which its sample is made. ``content``: the result of ``read``."""
        return entries_of(content, self.cat2label, self.data_prefix, self.ann_file, self.seg_map_suffix, self.counts)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch: from now on, samples are those of pass ``epoch`` over the data."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        """Return sample ``index`` of the current epoch, or of the given epoch if ``index`` is a pair (epoch, index)."""
        if not self._fully_initialized:
            self.full_init()
        epoch, index = index if isinstance(index, tuple) else (self.epoch, index)
        if not -len(self) <= index < len(self):
            raise IndexError(f'{self.ann_file}: there is no sample {index}, there are {len(self)}.')
        first = index = int(index) % len(self)
        for attempt in range(self.max_refetch + 1):
            data = self.sample(index, (self.seed, epoch, index, attempt))
            if data is not None:
                return data
            if self.test_mode:
                break
            index = int(np.random.default_rng([self.seed, epoch, index, attempt, RandomStream.OTHER_SAMPLE]).integers(len(self)))
        unreadable = f' {len(self.unreadable)} of the images could not be read.' if self.unreadable else ''
        raise ValueError(f'{self.ann_file}: no sample could be made from image {self.get_data_info(first)["img_path"]}'
                         f'{"" if self.test_mode else f", nor from {self.max_refetch} others"}.{unreadable} '
                         f'Look at the pipeline: which of its transforms gives None?')

    def sample(self, index: int, key: tuple[int, ...]) -> dict | None:
        """Return image ``index`` after the pipeline; None if a transform returns None or the image is skipped."""
        try:
            return self.pipeline.sample(index, key)
        except UnreadableImage as error:
            if self.on_error == 'fail' or self.test_mode:
                raise
            if error.path not in self.unreadable:
                self.unreadable.add(error.path)
                print_log(f'{error.path} cannot be read ({error.reason}); another image takes its place (on_error=skip, '
                          f'{len(self.unreadable)} so far in this process).', 'current', logging.WARNING)
            return None

    def _copy_without_annotation(self, memo: dict | None = None) -> DetDataset:
        """Copy for ``get_subset``; workers share the copy's epoch too (mmengine's default ``memo`` is one dict for all calls)."""
        other = super()._copy_without_annotation({} if memo is None else memo)
        other._epoch.share_memory_()
        other.pipeline.stored = None             # a subset has other indices
        return other

    def prepare_data(self, idx: int) -> dict | None:
        return self.sample(int(idx), (self.seed, self.epoch, int(idx), 0))

    def filter_data(self) -> list[dict]:
        """Return the entries without the images that ``filter_cfg`` drops."""
        kept = self.select_entries()
        if not self.data_list:
            raise ConfigError(f'{self.ann_file}: it lists no images. Is it the right file?')
        if not kept and not self.test_mode:
            hint = f'; {self.labels_hint()}' if self.labels_hint() else ''
            raise ConfigError(f'{self.ann_file}: none of its {len(self.data_list)} images is left after filter_cfg={self.filter_cfg} '
                              f'for the classes {tuple(self.metainfo.get("classes", ()))}; {self.counts}{hint}.')
        return kept

    def select_entries(self) -> list[dict]:
        """Return the entries that ``filter_cfg`` keeps (all entries in ``test_mode``) and count their objects."""
        cfg = self.filter_cfg or {}
        drop_empty, min_size = cfg.get('filter_empty_gt', False), cfg.get('min_size', 0)
        large = [d for d in self.data_list if self.test_mode or min(d['width'], d['height']) >= min_size]
        kept = [d for d in large if d['instances'] or not drop_empty or self.test_mode]
        self.count_used(kept)
        if len(large) < len(self.data_list):
            self.counts.left_out[SMALL_IMAGE] += sum(self.objects_in(d) for d in self.data_list if min(d['width'], d['height']) < min_size)
        return kept

    def count_used(self, data: list[dict]) -> None:
        """Count the objects of ``data`` that training uses. If the pipeline loads masks, objects without a mask are not counted."""
        self.counts.used = sum(map(self.objects_in, data))
        self.counts.masks = sum(not i['ignore_flag'] and bool(i.get('mask')) for d in data for i in d['instances'])
        if any(getattr(t, 'with_mask', False) for t in self.pipeline.transforms):
            self.counts.left_out[WITHOUT_MASK] += self.counts.used - self.counts.masks
            self.counts.used = self.counts.masks

    def objects_in(self, entry: dict) -> int:
        """Return the number of objects in an image's entry that are not ignored."""
        return sum(not i['ignore_flag'] for i in entry['instances'])

    def labels_hint(self) -> str:
        """Return where this dataset reads its objects, for the error that there are none; '' if the annotation file is enough."""
        return ''

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the labels in an image (used by ClassBalancedDataset)."""
        return [i['bbox_label'] for i in self.get_data_info(idx)['instances']]


def by_id(categories: list[dict]) -> list[dict]:
    """Sort categories by id if all ids are numbers."""
    return sorted(categories, key=lambda c: c['id']) if all(isinstance(c['id'], (int, float)) for c in categories) else categories


def check_metainfo(metainfo: Any) -> None:
    """Raise ConfigError for the metainfo keys of MMDetection 2 and early 3.0, which would have no effect."""
    old = [k for k in ('CLASSES', 'PALETTE') if k in (metainfo or {})]
    if old:
        raise ConfigError(f"metainfo has '{old[0]}'; it is written '{old[0].lower()}' now.")


def check_classes(metainfo: dict) -> None:
    """Make ``metainfo['classes']`` a tuple of names.

    Raises:
        ConfigError: it is one string, or it has a duplicate name.
    """
    if 'classes' not in metainfo:
        return
    classes = metainfo['classes']
    if isinstance(classes, str):
        raise ConfigError(f"metainfo.classes='{classes}' is one string and no file with a name a line. A single class is written "
                          f"classes=('{classes}',), with a comma.")
    twice = [c for c, n in Counter(classes).items() if n > 1]
    if twice:
        raise ConfigError(f"metainfo.classes has '{twice[0]}' {Counter(classes)[twice[0]]} times. Name each class once.")
    metainfo['classes'] = tuple(classes)


def one_path(path: Any, key: str) -> str:
    """Return ``path`` as a string; see ``local_path``.

    Raises:
        ConfigError: it is a list (as in MMDetection 2), or it is not a path.
    """
    if isinstance(path, (list, tuple)):
        raise ConfigError(f"{list(path)} is a list; a data set reads one. Join several data sets: dict(type='ConcatDataset', "
                          f"datasets=[dict(type='CocoDataset', ...), ...]), each with its own {key}.", path=tuple(key.split('.')))
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f'{path!r} is a {type(path).__name__}, not a path. Give it as text.', path=tuple(key.split('.')))
    return local_path(path or '')


def checked_prefix(data_prefix: Any) -> dict[str, str]:
    """Return ``data_prefix`` with its paths as strings.

    Raises:
        ConfigError: it is not a dict of paths, or it has an unused key.
    """
    if not isinstance(data_prefix, dict):
        raise ConfigError(f"data_prefix={data_prefix!r} is a {type(data_prefix).__name__}; it is written data_prefix=dict(img='images/').",
                          path=('data_prefix',))
    unknown = [key for key in data_prefix if key not in PREFIXES]
    if unknown:
        raise ConfigError(f"data_prefix has no '{unknown[0]}'.{did_you_mean(unknown[0], PREFIXES)} It has: {', '.join(PREFIXES)}.",
                          data_prefix)
    return {key: one_path(path, f'data_prefix.{key}') for key, path in data_prefix.items()}


def find_root(data_root: str, ann_file: str) -> str:
    """Return ``data_root``, or its path in ``$DETKIT_DATA_ROOT`` if ``data_root`` does not exist.

    Raises:
        ConfigError: neither exists. The message gives both paths, and the download command if detkit knows the dataset.
    """
    found = find_data(data_root) if data_root else Path()
    if not data_root or os.path.isabs(ann_file) or found.is_dir():
        return data_root if found == Path(data_root) else str(found)
    tried = [Path(data_root).absolute()]
    if os.environ.get('DETKIT_DATA_ROOT') and not os.path.isabs(data_root):
        parts = Path(data_root).parts
        tried.append(Path(os.environ['DETKIT_DATA_ROOT'], *(parts[1:] if parts[0] == 'data' else parts)))
    name = Path(data_root).name
    how = {'shapes': 'tools/make_dataset.py draws it'}.get(name, f'tools/download_dataset.py {name} fetches it' if name in KNOWN
                                                           else 'tools/download_dataset.py fetches those that detkit knows')
    raise ConfigError(f'data_root: {" and ".join(map(str, tried))} {"do" if len(tried) > 1 else "does"} not exist. Put the data set '
                      f'there ({how}), give its place with --cfg-options data_root=..., or set DETKIT_DATA_ROOT to the folder that '
                      f'holds your data sets.')
