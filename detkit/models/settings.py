"""Typed dataclasses for ``train_cfg`` and ``test_cfg``, checked when the model is built.

MMDetection passes these dicts on unchecked, so a misspelt key is silently ignored. Here each head declares the keys that it reads.
"""
from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TypeVar

from detkit.argument_values import annotations_of, value_fault
from detkit.ignored_arguments import is_ignored, warn_if_ignored
from detkit.ops.nms import checked
from detkit.registry import ConfigError, did_you_mean, find_keys

T = TypeVar('T')


@dataclass(frozen=True)
class DenseTraining:
    assigner: dict
    sampler: dict = field(default_factory=lambda: dict(type='PseudoSampler'))
    allowed_border: float = -1  # pixels by which an anchor may extend outside the image; -1: no limit
    pos_weight: float = -1      # classification weight of positives; <= 0: 1


@dataclass(frozen=True)
class TaskAlignedTraining(DenseTraining):
    initial_epoch: int = 4      # number of epochs that use initial_assigner
    initial_assigner: dict = field(default_factory=lambda: dict(type='ATSSAssigner', topk=9))
    alpha: float = 1.           # exponents of score and IoU in the alignment metric
    beta: float = 6.


@dataclass(frozen=True)
class DensePostprocess:
    nms: dict | None = None
    nms_pre: int = -1           # max candidates per level before NMS; -1: all
    score_thr: float = 0.       # in [0, 1]; candidates at or below it are dropped before NMS
    min_bbox_size: float = -1   # boxes whose width or height is at most this many input pixels are dropped; -1: keep all
    max_per_img: int = 100      # max detections per image

    def __post_init__(self) -> None:
        object.__setattr__(self, 'nms', plain_nms(self.nms))


@dataclass(frozen=True)
class HeatmapPostprocess:
    topk: int = 100                 # max peaks per image
    local_maximum_kernel: int = 3   # in cells, odd; a peak is the maximum of a square window with this side
    max_per_img: int = 100          # max detections per image

    def __post_init__(self) -> None:
        if self.local_maximum_kernel % 2 == 0:
            raise ConfigError(f'test_cfg local_maximum_kernel={self.local_maximum_kernel} must be odd.')


@dataclass(frozen=True)
class RoITraining:
    assigner: dict
    sampler: dict
    pos_weight: float = -1
    mask_size: int | tuple[int, int] = 28   # size of mask targets: (height, width), or the side of a square
    soft_mask_target: bool = False          # mask targets are the covered fraction of each cell instead of 0 and 1

    @property
    def size_of_masks(self) -> tuple[int, int]:
        return (self.mask_size, self.mask_size) if isinstance(self.mask_size, int) else tuple(self.mask_size)


@dataclass(frozen=True)
class RoIPostprocess:
    nms: dict | None
    score_thr: float = 0.
    max_per_img: int = 100
    mask_thr_binary: float = 0.5   # in (0, 1]; pixels with at least this score belong to the object

    def __post_init__(self) -> None:
        object.__setattr__(self, 'nms', plain_nms(self.nms))


def plain_nms(cfg: dict | None) -> dict | None:
    """Return ``cfg`` as a plain dict; None stays None. Raises ConfigError for NMS settings that are not valid, so that they fail when the
    model is built and not at the first evaluation."""
    if cfg is None:
        return None
    checked(cfg)
    return dict(cfg)


def settings(kind: type[T], cfg: dict | None, where: str) -> T | None:
    """Return ``cfg`` as an instance of the dataclass ``kind``; None stays None. ``where``: the path of ``cfg`` in the config, used in
    messages until an enclosing config provides it.

    Raises:
        ConfigError: a key is unknown or missing, or a value has a type or range that its annotation does not allow.
    """
    if cfg is None:
        return None
    if not isinstance(cfg, dict):
        raise ConfigError(f'is {cfg!r}; it should be a dict.', place=where)
    known, kinds = {f.name: f for f in fields(kind)}, annotations_of(kind)
    for key in cfg:
        if is_ignored(kind.__name__, key):
            warn_if_ignored(kind.__name__, key, cfg[key])
        elif key not in known:
            raise ConfigError(f"{where} has no '{key}'.{did_you_mean(key, known)} It has: {', '.join(known)}.", cfg)
    missing = [n for n, f in known.items() if n not in cfg and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{where} needs '{missing[0]}'.", cfg)
    values = {key: value for key, value in cfg.items() if key in known}
    for key, value in values.items():
        fault = value_fault(value, kinds[key], key, kind.__name__)
        if fault:
            raise ConfigError(str(fault), cfg, (key, *fault.keys), where)
    try:
        return kind(**values)
    except ConfigError as error:                          # the values are valid one by one, but not together
        if error.cfg is None:
            error.cfg, error.place = cfg, where
        elif find_keys(cfg, error.cfg) is not None:
            error.seen_from(cfg).place = where
        raise
