"""What all detection data sets share: seeds, classes, and what happens to an image that cannot be read."""
from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from detkit.data.compose import Compose
from detkit.data.transforms.loading import UnreadableImage, check_local
from detkit.registry import ConfigError

ON_ERROR = ('fail', 'skip')


class DetDataset(BaseDataset):
    """A list of images with objects, run through a pipeline.

    Args (those of MMDetection's datasets):
        ann_file, data_root, data_prefix: where the annotations and images are; a relative ``data_root`` that does not exist is
            looked up below ``$DETKIT_DATA_ROOT``.
        metainfo: ``dict(classes=(...))`` picks and orders classes by name.
        filter_cfg: ``filter_empty_gt`` drops images without objects, ``min_size`` those with a side below so many pixels; not in
            ``test_mode``.
        pipeline: configs of transforms. max_refetch: samples drawn anew at most when a pipeline gives None.
        on_error: an image that cannot be read: ``fail`` names it; ``skip`` takes another one and warns once.
        seed: of all random numbers; the training engine sets it.
    """

    METAINFO: dict[str, Any] = {}

    def __init__(self, ann_file: str = '', metainfo: dict | None = None, data_root: str = '', data_prefix: dict = dict(img=''),
                 filter_cfg: dict | None = None, indices: int | Sequence[int] | None = None, serialize_data: bool = True,
                 pipeline: Sequence[dict | Callable] = (), test_mode: bool = False, lazy_init: bool = False,
                 max_refetch: int = 1000, backend_args: dict | None = None, return_classes: bool = False,
                 on_error: str = 'fail', seed: int = 0) -> None:
        check_local(backend_args)
        if on_error not in ON_ERROR:
            raise ConfigError(f"on_error='{on_error}' is unknown. Known: {', '.join(ON_ERROR)}.")
        self.return_classes, self.on_error, self.seed = return_classes, on_error, seed
        self.unreadable: set[str] = set()
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()   # persistent workers see it change
        super().__init__(ann_file=ann_file, metainfo=metainfo, data_root=find_root(data_root, ann_file), data_prefix=dict(data_prefix),
                         filter_cfg=filter_cfg, indices=indices, serialize_data=serialize_data, pipeline=[], test_mode=test_mode,
                         lazy_init=True, max_refetch=max_refetch)
        self.pipeline = Compose(pipeline, self.get_data_info, lambda: len(self))
        if not lazy_init:
            self.full_init()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """From now on, samples are those of pass ``epoch`` over the data."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        """Sample ``index`` of the current epoch, or of that of the pair (epoch, index)."""
        if not self._fully_initialized:
            self.full_init()
        epoch, index = index if isinstance(index, tuple) else (self.epoch, index)
        index = int(index)
        for attempt in range(self.max_refetch + 1):
            data = self.sample(index, (self.seed, epoch, index, attempt))
            if data is not None:
                return data
            if self.test_mode:
                break
            index = int(np.random.default_rng([self.seed, epoch, index, attempt, 1]).integers(len(self)))
        raise ValueError(f'{self.ann_file}: no sample could be made from image {self.get_data_info(index)["img_path"]}'
                         f'{"" if self.test_mode else f", nor from {self.max_refetch} others"}. Look at the pipeline, which gives None.')

    def sample(self, index: int, key: tuple[int, ...]) -> dict | None:
        try:
            return self.pipeline(self.get_data_info(index), key)
        except UnreadableImage as error:
            if self.on_error == 'fail' or self.test_mode:
                raise
            if error.path not in self.unreadable:
                self.unreadable.add(error.path)
                print_log(f'{error.path} cannot be read ({error.reason}); another image takes its place (on_error=skip, '
                          f'{len(self.unreadable)} so far in this process).', 'current', logging.WARNING)
            return None

    def prepare_data(self, idx: int) -> dict | None:
        return self.sample(int(idx), (self.seed, self.epoch, int(idx), 0))

    def filter_data(self) -> list[dict]:
        """Without the images that ``filter_cfg`` drops."""
        cfg = dict(self.filter_cfg or {})
        drop_empty, min_size = cfg.pop('filter_empty_gt', False), cfg.pop('min_size', 0)
        if cfg:
            raise ConfigError(f"filter_cfg has no '{next(iter(cfg))}'. It has: filter_empty_gt, min_size.", self.filter_cfg)
        if self.test_mode:
            return self.data_list
        kept = [d for d in self.data_list if min(d['width'], d['height']) >= min_size
                and not (drop_empty and all(i['ignore_flag'] for i in d['instances']))]
        if not kept:
            raise ConfigError(f'{self.ann_file}: none of its {len(self.data_list)} images is left after filter_cfg={self.filter_cfg} '
                              f'for the classes {tuple(self.metainfo.get("classes", ()))}.')
        return kept

    def get_cat_ids(self, idx: int) -> list[int]:
        """The labels in an image (ClassBalancedDataset asks for them)."""
        return [i['bbox_label'] for i in self.get_data_info(idx)['instances']]


def find_root(data_root: str, ann_file: str) -> str:
    """``data_root`` as given, or below ``$DETKIT_DATA_ROOT`` where it does not exist as given (``data/coco`` -> ``$DETKIT_DATA_ROOT/coco``).

    Raises:
        ConfigError: neither exists; the message names both.
    """
    if not data_root or os.path.isabs(ann_file) or Path(data_root).is_dir():
        return data_root
    tried = [Path(data_root).absolute()]
    if os.environ.get('DETKIT_DATA_ROOT') and not os.path.isabs(data_root):
        parts = Path(data_root).parts
        tried.append(Path(os.environ['DETKIT_DATA_ROOT'], *(parts[1:] if parts[0] == 'data' else parts)))
        if tried[-1].is_dir():
            return str(tried[-1])
    raise ConfigError(f'data_root: {" and ".join(map(str, tried))} {"do" if len(tried) > 1 else "does"} not exist. Put the data set '
                      f'there, give its place with --cfg-options data_root=..., or set DETKIT_DATA_ROOT to the folder that holds your data '
                      f'sets. tools/download_dataset.py fetches those that detkit knows.')
