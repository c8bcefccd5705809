"""Checks before a run: find errors in seconds, before the work dir is created and the first step is done."""
from __future__ import annotations

import copy
import importlib.util
import logging
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from torch import nn

from detkit.data.cache.use import deferred_caches
from detkit.data.classes import class_difference, class_names, in_order_of
from detkit.data.compose import Compose
from detkit.data.datasets.detection import DetDataset
from detkit.data.datasets.entries import WITHOUT_MASK, box_fault, box_reason
from detkit.data.datasets.wrappers import MultiImageMixDataset, nested_datasets
from detkit.data.transforms.loading import UnreadableImage
from detkit.engine.checkpoint import folder_hint, read_meta
from detkit.engine.datasets import check_resumed_classes, follow_classes, leaves, refuse_another_order, unread
from detkit.engine.dry_run import dry_run
from detkit.engine.hooks.checkpoint import unknown_metric
from detkit.engine.hooks.checks import check_classes
from detkit.engine.loader_settings import loader_problems, no_batch
from detkit.engine.part_checks import part_problems
from detkit.engine.prepare import kind as type_name
from detkit.engine.pretrained import dicts_in, pretrained_parts
from detkit.engine.schedule_checks import schedule_problems
from detkit.engine.sources import locate
from detkit.files import find_data
from detkit.models.detectors.detector import Detector
from detkit.models.detectors.maskformer import MaskFormer
from detkit.registry import DATASETS, METRICS, MODELS, ConfigError, did_you_mean, find_keys, join_keys

SPLITS = ('train', 'val', 'test')
SAMPLED_IMAGES = 64                # number of images of a dataset whose files are checked
MAY_PACK = ('detkit.data.transforms.formatting', 'detkit.data.transforms.choose')      # modules of transforms that may end a pipeline
SECONDS_FOR_FIRST_PROCESS = 10     # the other processes wait this long for the launcher to end them
EXPORT_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
EPOCH_SAMPLERS = ('DefaultSampler', 'ClassAwareSampler')     # samplers that end after one pass


@dataclass
class Prepared:
    """Datasets and evaluators that the checks have built, for use by the runner; ``notes``: (log level, line) for its log."""

    datasets: dict[str, Any] = field(default_factory=dict)          # split -> dataset with annotations read
    evaluators: dict[str, Evaluator] = field(default_factory=dict)
    notes: list[tuple[int, str]] = field(default_factory=list)

    def warn(self, line: str) -> None:
        if (logging.WARNING, line) not in self.notes:
            self.notes.append((logging.WARNING, line))


class Problems:
    """Collects the problems of a run and reports them in one message, each with its config keys."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.errors: list[ValueError] = []

    @contextmanager
    def collecting(self, *keys: str) -> Iterator[None]:
        """Record a ConfigError or broken annotations raised in the block. ``keys``: config key of the part that is checked."""
        try:
            yield
        except ValueError as error:
            if not isinstance(error, ConfigError) and type(error).__name__ != 'BrokenAnnotations':
                raise
            self.add(error, *keys)

    def add(self, error: ValueError, *keys: str) -> None:
        if isinstance(error, ConfigError):
            part: Any = self.cfg._cfg_dict
            for key in keys:
                part = part.get(key) if isinstance(part, dict) else None
            found = None if error.cfg is None or part is None else find_keys(part, error.cfg)
            error.path = (*keys, *(found or ()), *error.path)
            error.cfg = self.cfg._cfg_dict
        self.errors.append(error)

    def raise_all(self) -> None:
        """Raise the recorded errors: one error as it is, several as one ConfigError that lists equal errors of several keys once.

        In distributed training, all processes find the same errors and only the first one of each machine reports them. The others wait
        until the launcher ends them.
        """
        if self.errors and int(os.environ.get('LOCAL_RANK', '0')):
            time.sleep(SECONDS_FOR_FIRST_PROCESS)
        texts: dict[str, list[str]] = {}
        for error in self.errors:
            message, key = (error.message, join_keys(error.path)) if isinstance(error, ConfigError) else (str(error), '')
            texts.setdefault(message, [])
            if key not in texts[message]:
                texts[message].append(key)
        if len(texts) == 1 and len(next(iter(texts.values()))) == 1:
            raise self.errors[0]
        lines = [f"{', '.join(filter(None, keys))}: {message}" if any(keys) else message for message, keys in texts.items()]
        if len(lines) == 1:
            raise ConfigError(lines[0])
        if lines:
            raise ConfigError(f'{len(lines)} problems: ' + ' '.join(f'({n}) {line}' for n, line in enumerate(lines, 1)))


def preflight(cfg: Config) -> Prepared:
    """Check a config that ``prepare`` returned, before anything is written.

    Cheap checks come first and are reported together: settings of loaders and schedulers, folders and files, evaluators, the model. Then
    the annotations of the splits that the run uses are read (train and val; test if there is no training); the runner reuses them.

    Raises:
        ConfigError, BrokenAnnotations: the run would fail, or would train or evaluate without objects; with the full config keys.
    """
    problems, prepared = Problems(cfg), Prepared()
    training = cfg.get('train_dataloader') is not None
    splits = [s for s in (('train', 'val') if training else SPLITS) if isinstance(cfg.get(f'{s}_dataloader'), dict)]
    with deferred_caches(), kept_log(prepared):
        check_loaders(cfg, problems)
        found = schedule_problems(cfg)
        check_files(cfg, splits, problems, prepared)
        model = examine_model(cfg, problems, prepared)
        build_evaluators(cfg, splits, model, problems, prepared)
        for error in (*found.errors, *part_problems(cfg, splits)):
            problems.add(error)
        problems.raise_all()
        for line in (*getattr(cfg, '_notes', ()), *found.notes):
            prepared.warn(line)
        read_data(cfg, splits, problems, prepared)
        for split, dataset in prepared.datasets.items():
            if model is not None:
                with problems.collecting():
                    check_classes(model, dataset, f'{split}_dataloader')
            check_packed(dataset, f'{split}_dataloader', problems)
            check_images(dataset, f'{split}_dataloader', problems)
            check_objects(cfg, split, dataset, prepared, problems)
        check_monitored(cfg, prepared, problems)
        if 'train' in prepared.datasets:
            check_switched_pipelines(cfg, problems)
            check_length(cfg, prepared, problems)
        problems.raise_all()
        if training and not cfg.get('resume'):
            fetch_pretrained(cfg, problems)
            problems.raise_all()
    return prepared


@contextmanager
def kept_log(prepared: Prepared) -> Iterator[None]:
    """Collect log messages in ``prepared.notes`` while the block runs, because the run's own log does not exist yet."""
    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note = record.levelno, record.getMessage()
            if record.levelno >= logging.INFO and note not in prepared.notes:
                prepared.notes.append(note)

    logger = MMLogger.get_current_instance()
    before, logger.handlers = logger.handlers, [Keep()]
    try:
        yield
    finally:
        logger.handlers = before


# -------------------------------------------------------------------------------------------- settings, folders, files
def check_loaders(cfg: Config, problems: Problems) -> None:
    for split in SPLITS:
        key = f'{split}_dataloader'
        if isinstance(cfg.get(key), dict):
            for error in loader_problems(cfg[key]):
                problems.add(error, key)


def check_files(cfg: Config, splits: list[str], problems: Problems, prepared: Prepared) -> None:
    """Check data folders, annotation files and weights. A file that only a later test needs gives a warning."""
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
            continue
        own = problems if split in splits else Problems(cfg)
        for leaf in leaves(loader['dataset']):
            with own.collecting(f'{split}_dataloader', 'dataset'):
                dataset = unread(leaf)
                for error in missing_files(dataset, leaf) if dataset is not None else ():
                    own.add(error, f'{split}_dataloader', 'dataset')
        if split not in splits:
            known = {e.message for e in problems.errors if isinstance(e, ConfigError)}
            for error in own.errors:
                if getattr(error, 'message', None) in known:
                    problems.errors.append(error)
                else:
                    prepared.warn(f'{error} Testing with this config will end with that; training does without it.')
    if cfg.get('load_from') and not cfg.get('resume') and '://' not in cfg.load_from:
        source = Path(os.path.expanduser(cfg.load_from))
        if not source.is_file():
            lead = 'load_from: ' if 'train' in splits else ''
            problems.add(ConfigError(f"{lead}there is no checkpoint '{source}'.{nearest_file(source)}"))
    if cfg.get('train_dataloader') is not None and not cfg.get('resume'):
        for node in pretrained_parts(cfg.get('model')):
            source = os.path.expanduser(node['checkpoint'])
            if '://' not in source and not os.path.isfile(source):
                problems.add(ConfigError(f"there is no checkpoint '{source}'.{nearest_file(Path(source))}", node, ('checkpoint',)), 'model')


def missing_files(dataset: DetDataset, leaf: dict) -> Iterator[ConfigError]:
    file, folder = Path(dataset.ann_file), dataset.data_prefix.get('img')
    if dataset.ann_file and not file.is_file():
        what = 'is a folder, not a file.' if file.is_dir() else f'does not exist.{nearest_file(file)}'
        yield ConfigError(f'{file} {what}', leaf, ('ann_file',))
    if folder and '://' not in folder and not os.path.isdir(folder):
        yield ConfigError(f'the folder of the images, {folder}, does not exist.{nearest_file(Path(folder))}', leaf, ('data_prefix', 'img'))


def nearest_file(path: Path) -> str:
    """Return a hint: the missing parent folder, or the most similar name in it; '' if there is none."""
    parent = path.parent
    if not parent.is_dir():
        return f' Its folder {parent} does not exist either.'
    return folder_hint(path) or did_you_mean(path.name, sorted(p.name for p in parent.iterdir()))


def fetch_pretrained(cfg: Config, problems: Problems) -> None:
    """Download pretrained weights that are not cached yet, so that a failure is reported before the work dir is created."""
    for node in pretrained_parts(cfg.get('model')):
        with problems.collecting('model'):
            try:
                locate(node['checkpoint'])
            except ConfigError as error:
                error.cfg, error.path = node, ('checkpoint',)
                raise
    for node in dicts_in(cfg.get('model')):
        if type_name(node) == 'TIMMBackbone' and node.get('pretrained') is True:
            with problems.collecting('model'), torch.random.fork_rng(devices=[]):
                try:
                    MODELS.build(node).fetch_weights()
                except ConfigError as error:
                    error.cfg, error.path = node, ('pretrained',)
                    raise


# --------------------------------------------------------------------------------------------------------------- model
def examine_model(cfg: Config, problems: Problems, prepared: Prepared) -> nn.Module | None:
    """Build the model without memory for its weights, to read its classes; None if it cannot be built in this way."""
    described = cfg.get('model')
    if isinstance(described, nn.Module):
        try_model(described, None, problems, prepared)
        return described
    model = None
    with problems.collecting('model'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with torch.device('meta'):
                model = MODELS.build(without_download(described))
        except ConfigError:
            raise
        except Exception:   # the constructor computes with weights; the runner builds the model in memory and reports errors
            return None
    if model is not None:
        try_model(model, described, problems, prepared)
    return model


def try_model(model: nn.Module, described: Any, problems: Problems, prepared: Prepared) -> None:
    """Add an error if layers do not fit each other. Warn if the model cannot be exported and the packages for the export are installed."""
    run = dry_run(model, described)
    if run.error is not None:
        problems.add(run.error)
    elif run.export_problem and all(importlib.util.find_spec(name) for name in EXPORT_PACKAGES):
        name = type_name(model if described is None else described)
        prepared.warn(f'{name} cannot be exported to ONNX: {run.export_problem}. Training and testing do without it.')


def without_download(described: Any) -> Any:
    """Return a model's config in which no constructor downloads weights."""
    if isinstance(described, (list, tuple)):
        return [without_download(d) for d in described]
    if not isinstance(described, dict):
        return described
    return {k: False if k == 'pretrained' and v is True else without_download(v) for k, v in described.items()}


def predicts_masks(model: nn.Module | None) -> bool | None:
    """Return whether a detector predicts masks; None for a model that is not detkit's."""
    if not isinstance(model, Detector):
        return None
    if isinstance(model, MaskFormer):
        return True
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        return getattr(roi_head, 'mask_head', None) is not None
    return hasattr(getattr(model, 'bbox_head', None), 'full_masks')


# ---------------------------------------------------------------------------------------------------------- evaluation
def build_evaluators(cfg: Config, splits: list[str], model: nn.Module | None, problems: Problems, prepared: Prepared) -> None:
    roots = [e for e in problems.errors if isinstance(e, ConfigError) and e.message.startswith('data_root')]
    for split in splits:
        key = f'{split}_evaluator'
        described = cfg.get(key)
        if described is None or isinstance(described, Evaluator) or isinstance(described, dict) and 'metrics' in described:
            continue
        metrics, count = [], len(problems.errors)
        for one in described if isinstance(described, (list, tuple)) else [described]:
            if roots and isinstance(one, dict) and one.get('ann_file') and not find_data(one['ann_file']).exists():
                count = -1                    # it is in a folder that is reported as missing
                continue
            with problems.collecting(key):
                metric = METRICS.build(one)
                check_kind(metric, model)
                metrics.append(metric)
        if len(problems.errors) == count:
            prepared.evaluators[split] = Evaluator(metrics)


def check_kind(metric: Any, model: nn.Module | None) -> None:
    """Raise ConfigError if a metric needs masks and the model predicts none."""
    if 'segm' in (getattr(metric, 'metrics', None) or ()) and predicts_masks(model) is False:
        raise ConfigError(f"metric='segm' compares masks, and this model ({type(model).__name__}) predicts boxes alone. Take 'segm' out of "
                          f'metric, or train a model with a mask head.')
    if type(metric).__name__ == 'CocoPanopticMetric' and isinstance(model, Detector) and not isinstance(model, MaskFormer):
        raise ConfigError(f'CocoPanopticMetric compares panoptic maps, and this model ({type(model).__name__}) predicts none. Use '
                          f'CocoMetric.')


def check_monitored(cfg: Config, prepared: Prepared, problems: Problems) -> None:
    """Check that the evaluation computes the metrics that hooks monitor."""
    evaluator = prepared.evaluators.get('val')
    if evaluator is None or any(not hasattr(m, 'result_names') for m in evaluator.metrics):
        return
    names = [name for metric in evaluator.metrics for name in metric.result_names()]
    if not names:                                      # format_only: there are no metrics; the hook reports it
        return
    watched: list[tuple[str, Any]] = []
    for name, hook in (cfg.get('default_hooks') or {}).items():
        watched += [(f'default_hooks.{name}', hook)]
    watched += [(f'custom_hooks[{i}]', hook) for i, hook in enumerate(cfg.get('custom_hooks') or [])]
    for key, hook in watched:
        for setting, kind in (('save_best', 'CheckpointHook'), ('monitor', 'EarlyStoppingHook')):
            if isinstance(hook, dict) and type_name(hook) == kind:
                wanted = hook.get(setting)
                for one in wanted if isinstance(wanted, (list, tuple)) else [wanted]:
                    if isinstance(one, str) and one != 'auto' and one not in names:
                        problems.add(ConfigError(f'{key}.{setting}: {unknown_metric(one, names)}'))


# ---------------------------------------------------------------------------------------------------------------- data
def read_data(cfg: Config, splits: list[str], problems: Problems, prepared: Prepared) -> None:
    """Read the annotations of ``splits``. Labels follow the training dataset's classes; in a test, the checkpoint's classes."""
    classes, source = checkpoint_classes(cfg), 'the checkpoint'
    training = 'train' in splits
    for split in splits:
        key = f'{split}_dataloader'
        notes: list[str] = []
        with problems.collecting(key, 'dataset'):
            described = follow_classes(cfg[key]['dataset'], None if split == 'train' else classes, key, source, notes)
            dataset = DATASETS.build(described)
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
            prepared.datasets[split] = dataset
            now = class_names(getattr(dataset, 'metainfo', None))
            if split == 'train':
                compare_with_checkpoint(cfg, classes, now, prepared)
                classes, source = now or None, key
            else:
                refuse_another_order(classes, now, source, key)
        for line in notes:
            prepared.warn(line)
        if split == 'train' and 'train' not in prepared.datasets:
            return                                     # the other splits are compared with it
    if training and isinstance(cfg.get('test_dataloader'), dict) and classes is not None:
        with Problems(cfg).collecting():
            for leaf in leaves(cfg.test_dataloader['dataset']):
                dataset = unread(leaf)
                named = None if dataset is None else class_names(dataset._metainfo)
                if named is not None and in_order_of(classes, named) is None:
                    difference = class_difference(classes, named, 'train_dataloader', 'test_dataloader')
                    prepared.warn(f'test_dataloader has other classes than train_dataloader: {difference}. A test of this model will be '
                                  f'refused.')


def checkpoint_classes(cfg: Config) -> tuple[str, ...] | None:
    """Return the classes that the config's checkpoint was trained on; None if there is no checkpoint or it does not name them."""
    return class_names(read_meta(cfg.load_from, cfg.get('trusted_checkpoints', False))) if cfg.get('load_from') else None


def compare_with_checkpoint(cfg: Config, before: tuple[str, ...] | None, now: tuple[str, ...] | None, prepared: Prepared) -> None:
    """Compare the classes of the data with the checkpoint's. For weights of other classes, add a note that says how they are used.

    Raises:
        ConfigError: the data of a resumed run have other classes, or another order of them.
    """
    if before is None or now is None or before == now:
        return
    if cfg.get('resume'):
        check_resumed_classes(before, now, cfg.load_from)
    difference = class_difference(before, now, 'the checkpoint', 'train_dataloader')
    if len(before) == len(now):
        remedy = ' Put metainfo.classes into the order of the checkpoint to keep what it knows.' if set(before) == set(now) else ''
        prepared.warn(f"load_from: '{cfg.load_from}' was trained on other classes: {difference}. Its layers that classify have the shape "
                      f'of this model and are loaded as they are: training begins with the labels of the checkpoint.{remedy}')


def det_datasets(dataset: Any) -> list[DetDataset]:
    return [p for p in nested_datasets(dataset) if isinstance(p, DetDataset)]


def check_packed(dataset: Any, key: str, problems: Problems) -> None:
    """Check that the last transform of a pipeline packs the model's input. Transforms that are not detkit's are accepted."""
    makes_samples = next((p for p in nested_datasets(dataset) if isinstance(p, (MultiImageMixDataset, DetDataset))), None)
    if makes_samples is None:
        return
    check_last_step(makes_samples.transforms if isinstance(makes_samples, MultiImageMixDataset) else makes_samples.pipeline.transforms,
                    (key, 'dataset'), problems)
    for part in det_datasets(dataset):                  # classes that are not detkit's may load images differently
        steps = [type(step) for step in part.pipeline.transforms]
        are_ours = all(cls.__module__.startswith('detkit.') for cls in (type(part), *steps))
        if steps and are_ours and not any(map(may_load_image, steps)):
            problems.add(ConfigError("the pipeline loads no image. Put dict(type='LoadImageFromFile') at its beginning.",
                                     path=(key, 'dataset')))


def may_load_image(step: type) -> bool:
    return step.__name__.startswith('Load') and 'Annotations' not in step.__name__ or step.__module__ == 'detkit.data.transforms.choose'


def check_last_step(steps: Any, keys: tuple[str, ...], problems: Problems) -> None:
    last = type(steps[-1]) if steps else None
    if last is None or last.__module__.startswith('detkit.data.transforms.') and last.__module__ not in MAY_PACK:
        name = last.__name__ if last else 'no step at all'
        problems.add(ConfigError(f"the pipeline ends with {name} and gives no 'inputs' to the model. Put dict(type='PackDetInputs') at its "
                                 'end.', path=keys))


def check_switched_pipelines(cfg: Config, problems: Problems) -> None:
    """Check the pipelines that a hook switches to in a later epoch."""
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and type_name(hook) == 'PipelineSwitchHook' and isinstance(hook.get('switch_pipeline'), (list, tuple)):
            with problems.collecting('custom_hooks'):
                check_last_step(Compose(hook['switch_pipeline']).transforms, (f'custom_hooks[{i}]', 'switch_pipeline'), problems)


def check_images(dataset: Any, key: str, problems: Problems) -> None:
    """Check that the files of some images exist, to find a wrong ``data_prefix`` before the first step."""
    for part in det_datasets(dataset):
        loads = next((t for t in part.pipeline.transforms if type(t).__name__ == 'LoadImageFromFile'), None)
        if loads is None or not len(part):
            continue
        count = min(len(part), SAMPLED_IMAGES)
        infos = [part.get_data_info(i * len(part) // count) for i in range(count)]
        missing = [i['img_path'] for i in infos if not os.path.exists(i['img_path']) and not is_readable(loads, i)]
        if missing and (len(missing) == count or part.on_error == 'fail' or part.test_mode):
            skip = '' if len(missing) == count or part.test_mode else " Or leave such images out: on_error='skip' of the data set."
            problems.add(ConfigError(f'{len(missing)} of the {count} images looked at do not exist or cannot be read, of {len(part)} that '
                                     f'{part.ann_file} lists (first: {missing[0]}). Check data_root and data_prefix.{skip}'),
                         key, 'dataset')


def is_readable(transform: Any, info: dict) -> bool:
    """Return whether the loading transform can read the image, also if no file has this name."""
    try:
        return transform(copy.copy(info)) is not None
    except UnreadableImage:
        return False


def check_objects(cfg: Config, split: str, dataset: Any, prepared: Prepared, problems: Problems) -> None:
    """Check that there are objects to train on or to evaluate."""
    found, key = det_datasets(dataset), f'{split}_dataloader'
    for part in found:
        if part.counts.boxes_leaving:
            prepared.warn(f'{key}.dataset: {part.ann_file}: {part.counts.boxes_leaving} tools/doctor.py lists them.')
    if split == 'train':
        used = sum(p.counts.used for p in found)
        for part in found:
            if not part.counts.used and (part.counts.total or not used):
                problems.add(ConfigError(f'there is nothing to learn: {reasons_of([part])}. tools/doctor.py looks at such data in full.'),
                             key, 'dataset')
            elif part.counts.is_much_left_out:
                prepared.warn(f'{key}.dataset: {reasons_of([part])}.')
        return
    for metric in getattr(prepared.evaluators.get(split), 'metrics', ()):
        with problems.collecting(f'{split}_evaluator'):
            metric.dataset_meta = getattr(dataset, 'metainfo', None)
            if found:
                check_same_images(metric, found, key)
                check_truth(metric, found, key)


def check_same_images(metric: Any, found: list[DetDataset], key: str) -> None:
    """Raise ConfigError if a metric's annotation file has other images than the dataset, compared by id and file name."""
    truth = getattr(metric, 'truth', None)
    if not isinstance(truth, dict) or not isinstance(truth.get('images'), list):
        return
    names = {i['id']: str(i.get('file_name') or '').replace('\\', '/') for i in truth['images'] if isinstance(i, dict) and 'id' in i}
    for part in found:
        count = min(len(part), SAMPLED_IMAGES)
        for info in (part.get_data_info(i * len(part) // count) for i in range(count)):
            number, path = info['img_id'], Path(info['img_path'])
            if number not in names:
                what = f'it has no image of the id {number!r} ({path.name})'
            elif names[number] and not Path(names[number]).stem.endswith(path.stem):
                what = f"the id {number!r} is '{names[number]}' there and '{path.name}' here"
            else:
                continue
            raise ConfigError(f'{metric.source} has other images than {part.ann_file} of {key}: {what}. Results are matched by id. Give '
                              f'both the same ann_file.')


def check_truth(metric: Any, found: list[DetDataset], key: str) -> None:
    """Raise ConfigError if the ground truth of a detkit metric has no objects, or no masks for a mask metric."""
    if getattr(metric, 'format_only', True):
        return
    kinds, truth = getattr(metric, 'metrics', ()), getattr(metric, 'truth', None)
    classes = class_names(metric.dataset_meta)
    compared: list[dict] = []                              # of the annotation file, crowds included
    if classes is not None and isinstance(truth, dict) and isinstance(truth.get('annotations'), list):
        ids = {c['id'] for c in truth['categories'] if c['name'] in classes or kinds == ['proposal']}
        compared = [a for a in truth['annotations'] if a.get('category_id') in ids]
        ordinary = [a for a in compared if not a.get('iscrowd') and not a.get('ignore')]
        sizes = {i.get('id'): (i.get('width'), i.get('height')) for i in truth['images']}
        faults = [truth_fault(a, *sizes.get(a.get('image_id'), (None, None))) for a in ordinary]
        objects = [a for a, fault in zip(ordinary, faults) if not fault]
        used, masks = len(objects), sum(bool(a.get('segmentation')) for a in objects)
        where = getattr(metric, 'source', key)
        told = ''.join(f'; {n} {fault}' for fault, n in Counter(faults).items() if fault)
        reasons = f"of {len(truth['annotations'])} annotations none is an ordinary object of the classes{told}"
    else:
        used = sum(p.counts.used + p.counts.left_out[WITHOUT_MASK] for p in found)
        masks = sum(p.counts.masks for p in found)
        where, reasons = f'{key}.dataset', reasons_of(found)
    if not used:
        raise ConfigError(f'{where}: there is no object to measure against: {reasons}. AP is not defined then. Give a set with objects, or '
                          f"only write the detections: format_only=True, outfile_prefix='...'.")
    bare = [a for a in compared if not a.get('segmentation')] if 'segm' in kinds and masks else []
    if bare:
        raise ConfigError(f"{where}: metric='segm' compares masks, and {len(bare)} of {len(compared)} annotations have none (first: "
                          f"{bare[0].get('id')}). Add 'segmentation' to each, or use metric='bbox'.")
    if 'segm' in kinds and not masks:
        raise ConfigError(f"{where}: metric='segm' compares masks, and none of its {used} objects has one. Use metric='bbox', or "
                          f"annotations with 'segmentation'.")


def truth_fault(annotation: dict, width: Any, height: Any) -> str:
    """Return why no detection could match an annotation, as the end of a sentence "2 objects ..."; '' if one could.

    ``width``, ``height``: size of the image in pixels.
    """
    if 'bbox' not in annotation or not isinstance(width, (int, float)) or not isinstance(height, (int, float)):
        return ''
    fault = box_fault(annotation, width, height)
    return box_reason(annotation['bbox'], fault) if fault else ''


def reasons_of(found: list[DetDataset]) -> str:
    """Return how many objects the datasets have, and why objects are not used."""
    return '; '.join(f'{p.ann_file}: {p.counts}{f"; {p.labels_hint()}" if not p.counts.used and p.labels_hint() else ""}' for p in found)


# -------------------------------------------------------------------------------------------------------------- length
def check_length(cfg: Config, prepared: Prepared, problems: Problems) -> None:
    """Compute the batches per epoch and check that iteration-based schedulers fit."""
    loader, dataset = cfg.train_dataloader, prepared.datasets['train']
    sampler = loader['sampler']
    batch_size, grouping = loader.get('batch_size', 1), loader.get('batch_sampler') or {}
    if not isinstance(sampler, dict) or type_name(sampler) not in EPOCH_SAMPLERS or not isinstance(batch_size, int):
        return
    drop_last = bool(loader.get('drop_last') or isinstance(grouping, dict) and grouping.get('drop_last'))
    images = math.ceil(len(dataset) / get_world_size())
    batches = images // batch_size if drop_last else math.ceil(images / batch_size)
    if not batches:
        problems.add(ConfigError(no_batch(len(dataset), batch_size, drop_last, get_world_size())), 'train_dataloader')
        return
    if loader.get('num_batch_per_epoch'):
        batches = min(batches, loader['num_batch_per_epoch'])
    for line in schedule_problems(cfg, batches).notes:
        prepared.warn(line)
