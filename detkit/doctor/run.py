"""Check the config with its data: classes, ground truth through the evaluator, matching of objects, and a short training probe."""
from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detkit.data.classes import class_names
from detkit.doctor.findings import Report
from detkit.doctor.matching import MATCH_IMAGES, MatchedObjects, judge_matching
from detkit.doctor.reading import quiet
from detkit.doctor.referenced_files import EVALUATOR_FILE_MISSING
from detkit.engine.datasets import follow_classes
from detkit.engine.hooks.checks import class_counts
from detkit.engine.loaders import build_dataset
from detkit.models.detectors.detector import Detector
from detkit.ops.boxes import clip_boxes, scale_boxes
from detkit.registry import METRICS, MODELS, ConfigError
from detkit.structures.masks import polygon_to_bitmap, rle_to_bitmap
from detkit.structures.rle_masks import rle_codes

PERFECT = 0.9995            # AP that rounds to 1.000
PROBE_IMAGES, PROBE_STEPS, PROBE_SECONDS = 4, 40, 90.
PROBE_RATE, MUST_FALL, LEAST_STEPS = 1e-3, 0.7, 6


def examine_run(cfg: Config, splits: tuple[str, ...], report: Report, probe: bool = True, say: Callable[[str], None] = print) -> None:
    """Run the checks that need the built datasets and the model; deterministic."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        examine_built(cfg, splits, report, probe, say)


def examine_built(cfg: Config, splits: tuple[str, ...], report: Report, probe: bool, say: Callable[[str], None]) -> None:
    datasets = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            try:
                with quiet():                 # entries left out have been reported already
                    datasets[split] = build_dataset(as_in_a_run(loader['dataset'], datasets.get('train')), seed=0)
            except (ConfigError, ValueError) as error:
                report.add('fault', 'data set cannot be used', split, str(error), 'The message says what to do.')
    for split in ('val', 'test'):
        evaluator = cfg.get(f'{split}_evaluator')
        if split in datasets and evaluator and not any((f.kind, f.split) == (EVALUATOR_FILE_MISSING, split) for f in report.findings):
            say(f'{split}: ground truth through pipeline and evaluator')
            round_trip(datasets[split], evaluator, split, report)
    if cfg.get('model') is None:
        return
    try:
        with quiet():
            model = MODELS.build(untrained(cfg.model))
            model.init_weights()
    except ConfigError as error:
        report.add('fault', 'model cannot be built', '', str(error), 'The message says what to do.')
        return
    for split, dataset in datasets.items():
        check_class_counts(model, dataset, split, report)
    if 'train' in datasets and not report.kinds('fault') & {'classes of head and data differ'}:
        batch_of = batches(datasets['train'], model)
        say('train: which objects can be learnt')
        examine_matching(model, batch_of, report, datasets['train'].metainfo.get('classes') or ())
        if probe and not report.kinds('fault') & {'loss is not finite', 'loss cannot be computed'}:
            say(f'train: do some steps on {PROBE_IMAGES} images bring the loss down?')
            overfit(model, batch_of, report)


def as_in_a_run(described: Any, train: Any) -> Any:
    """Return a dataset config without caches, with labels in the order of the training set if the class names are the same."""
    described = without_cache(described)
    try:
        return follow_classes(described, class_names(getattr(train, 'metainfo', None)), '', '', [])
    except ConfigError:                       # other names have their own finding
        return described


def without_cache(described: Any) -> Any:
    """Return a dataset config whose parts neither read nor build a cache."""
    if isinstance(described, (list, tuple)):
        return [without_cache(d) for d in described]
    if not isinstance(described, dict):
        return described
    return {k: without_cache(v) if k in ('dataset', 'datasets') else v for k, v in described.items() if k != 'cache'}


def untrained(described: Any) -> Any:
    """Return a model config without pretrained weights."""
    if isinstance(described, (list, tuple)):
        return [untrained(d) for d in described]
    if not isinstance(described, dict):
        return described
    loads = isinstance(described.get('init_cfg'), dict) and 'Pretrained' in str(described['init_cfg'].get('type'))
    return {k: untrained(v) for k, v in described.items() if not (k == 'init_cfg' and loads)}


def check_class_counts(model: nn.Module, dataset: Any, split: str, report: Report) -> None:
    classes = dataset.metainfo['classes']
    for name, count in class_counts(model) if classes else ():       # missing classes have their own finding
        if count != len(classes):
            named = ', '.join(classes[:8]) + (', ...' if len(classes) > 8 else '')
            report.add('fault', 'classes of head and data differ', split,
                       f'{name}.num_classes={count}, the data have {len(classes)} classes ({named})',
                       f'Set {name}.num_classes={len(classes)}, or metainfo=dict(classes=...) of the data set.')


# ---------------------------------------------------------------------------------------------------------- round trip
def round_trip(dataset: Any, evaluator: Any, split: str, report: Report) -> None:
    """Evaluate ground truth as detections, after mapping boxes to network input pixels and back. AP must be 1."""
    described = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    try:
        with quiet():
            metrics = Evaluator([METRICS.build(dict(m)) for m in described])
            metrics.dataset_meta = dataset.metainfo
            with_masks = any('segm' in getattr(m, 'metrics', ()) for m in metrics.metrics)
            truth = {}
            for index in range(len(dataset)):
                sample, instances = dataset[index]['data_samples'], dataset.get_data_info(index)['instances']
                sample.pred_instances = returned(sample, [i for i in instances if not i['ignore_flag']], with_masks)
                truth[sample.img_id] = instances
                metrics.process([sample])
            numbers = metrics.evaluate(len(dataset))
    except (ConfigError, ValueError) as error:
        report.add('fault', 'evaluation fails', split, str(error), 'The message says what to do.')
        return
    scores = {k: float(v) for k, v in numbers.items() if k.endswith('_mAP')}
    report.facts.setdefault(split, {})['round_trip'] = scores
    if not any(not i['ignore_flag'] for instances in truth.values() for i in instances):
        return                                # no objects, so there is no AP; other checks have reported it
    for name, score in scores.items():
        if not score >= PERFECT:
            reasons = losses_of(metrics, truth, dataset) or ['no cause was found: look at the evaluator']
            for reason in reasons:
                report.add('warning', 'ground truth does not score 1.000', split, f'{name} is {score:.3f}: {reason}',
                           'No detector can score more than this; mend the cause.')


def returned(sample: Any, instances: list[dict], with_masks: bool) -> InstanceData:
    """Return the objects, mapped to the network input and back, as detections with score 1."""
    boxes = torch.tensor([i['bbox'] for i in instances], dtype=torch.float32).reshape(-1, 4)
    x, y = sample.scale_factor if 'scale_factor' in sample else (1., 1.)
    on_input = clip_boxes(scale_boxes(boxes, (x, y)), sample.img_shape[:2])
    out = InstanceData(bboxes=scale_boxes(on_input, (1 / x, 1 / y)), scores=torch.ones(len(boxes)),
                       labels=torch.tensor([i['bbox_label'] for i in instances], dtype=torch.int64))
    if with_masks:
        out.masks = [code for i in instances for code in rle_codes(bitmap(i, *sample.ori_shape[:2])[None])]
    return out


def bitmap(instance: dict, height: int, width: int) -> np.ndarray:
    mask = instance.get('mask')
    if isinstance(mask, dict):
        return rle_to_bitmap(mask, height, width)
    return polygon_to_bitmap([p for p in mask or () if len(p) >= 6 and len(p) % 2 == 0], height, width)


def losses_of(metrics: Evaluator, found: dict[Any, list[dict]], dataset: Any) -> list[str]:
    """Return the reasons why ground truth known to the evaluator is lost."""
    reasons = []
    classes = set(dataset.metainfo['classes'])
    for metric in metrics.metrics:
        truth, most = getattr(metric, 'truth', None), max(getattr(metric, 'proposal_nums', (100,)))
        if truth is not None:
            names = {c['id']: c['name'] for c in truth['categories']}
            wanted = Counter(a['image_id'] for a in truth['annotations'] if not a.get('iscrowd') and names[a['category_id']] in classes)
            absent = [i['file_name'] for i in truth['images'] if i['id'] not in found and wanted[i['id']]]
            if absent:
                reasons.append(f"{len(absent)} images of the evaluator's ann_file are not in the data set (first: {absent[0]})")
            fewer = [i for i, instances in found.items() if sum(not x['ignore_flag'] for x in instances) < wanted[i]]
            if fewer:
                reasons.append(f'the data set leaves out objects of {len(fewer)} images, which the evaluator counts (first: image '
                               f'{fewer[0]})')
        crowded = [i for i, instances in found.items() if len(instances) > most]
        if crowded:
            reasons.append(f'{len(crowded)} images have more objects than the {most} detections that count (first: image {crowded[0]}, '
                           f'{len(found[crowded[0]])}); raise proposal_nums of the evaluator')
    return reasons


# ------------------------------------------------------------------------------------------------------------ matching
def batches(dataset: Any, model: nn.Module) -> Callable[[int], Iterator[dict]]:
    """Return a function that yields up to ``count`` preprocessed training images, in batches of four, evenly spaced in the dataset."""
    def run(count: int) -> Iterator[dict]:
        indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        for start in range(0, len(indices), 4):
            data = pseudo_collate([dataset[int(i)] for i in indices[start:start + 4]])
            yield model.data_preprocessor(data, training=True)
    return run


UNUSABLE = (RuntimeError, ValueError, IndexError, KeyError)     # raised by samples and losses if the data do not fit


def not_computed(error: Exception, report: Report) -> None:
    what = str(error).splitlines()[0][:200] if str(error) else ''
    report.add('fault', 'loss cannot be computed', 'train', f'{type(error).__name__}: {what}',
               'Do pictures, labels, masks and num_classes fit what the pipeline and the head need?')


def examine_matching(model: nn.Module, batch_of: Callable[[int], Iterator[dict]], report: Report, classes: Sequence[str] = ()) -> None:
    """Report objects that no prior, cell or query of a head matches, and heads for which this is unknown."""
    heads, reasons = {}, {}
    model.train()
    try:
        with torch.no_grad(), quiet():
            for batch in batch_of(MATCH_IMAGES):
                if not all(math.isfinite(float(t)) for t in terms(model, batch).values()):
                    report.add('fault', 'loss is not finite', 'train', 'with untrained weights', 'Look at the annotations of the batch.')
                    return
                for name, targets in targets_of_heads(model, batch).items():
                    if isinstance(targets, str):
                        reasons[name] = targets
                    else:
                        heads.setdefault(name, MatchedObjects(targets.assigned_by)).add(targets.matched_objects, batch['data_samples'])
    except UNUSABLE as error:
        not_computed(error, report)
        return
    for name, objects in heads.items():
        judge_matching(name, getattr(model.get_submodule(name), 'strides', ()), objects, classes, report)
    for name, reason in reasons.items():
        report.add('note', 'objects that can be learnt not examined', 'train', f'{name}: {reason}',
                   'Nothing to do: whether the loss falls is examined all the same.')


def targets_of_heads(model: nn.Module, batch: dict) -> dict[str, Any]:
    """Return the result of ``model.targets`` for each head, or a reason why there is none."""
    samples = batch['data_samples']
    if not isinstance(model, Detector):
        return dict(model=f'{type(model).__name__} is not a Detector of detkit, so it has no targets(outputs, samples)')
    if not all('bboxes' in s.gt_instances for s in samples):
        return dict(model='the samples have no boxes')
    outputs = model.network(batch['inputs'], **model.context(samples, training=True))
    try:
        return model.targets(outputs, samples)
    except (AttributeError, TypeError) as error:          # a custom detector or head with another interface
        return dict(model=f'targets(outputs, samples) of {type(model).__name__} ends with {type(error).__name__}: {error}')


def terms(model: nn.Module, batch: dict) -> dict[str, Tensor]:
    """Return the loss terms of a batch, each a scalar."""
    found = model(batch['inputs'], copy.deepcopy(batch['data_samples']), mode='loss')
    return {k: sum(v) if isinstance(v, (list, tuple)) else v for k, v in found.items() if 'loss' in k}


# --------------------------------------------------------------------------------------------------------------- probe
def overfit(model: nn.Module, batch_of: Callable[[int], Iterator[dict]], report: Report) -> None:
    """Train on one batch with a few steps of AdamW; the loss must fall from its highest value.

    The config's optimizer is not used, because the question is only whether the model can learn these labels. (Losses weighted by box
    quality, as in RTMDet, rise before they fall.)
    """
    try:
        batch = next((b for b in batch_of(4 * PROBE_IMAGES) if any(len(s.gt_instances.labels) for s in b['data_samples'])), None)
    except UNUSABLE as error:
        not_computed(error, report)
        return
    if batch is None:
        return
    free = [p for p in model.parameters() if p.requires_grad]
    if not free:
        report.add('warning', 'nothing is trained', 'train', 'no parameter of the model takes a gradient', 'Look at frozen_stages.')
        return
    optimizer = torch.optim.AdamW(free, PROBE_RATE)
    values, start, steps = [], time.monotonic(), PROBE_STEPS
    model.train()
    while len(values) <= steps and not (len(values) > LEAST_STEPS and values[-1] < MUST_FALL * max(values)):
        loss = sum(terms(model, batch).values())
        values.append(float(loss.detach()))
        if not math.isfinite(values[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35.)
        optimizer.step()
        if len(values) == 1:
            steps = max(LEAST_STEPS, min(steps, int(PROBE_SECONDS / max(time.monotonic() - start, 1e-3))))
    report.facts['probe'] = dict(loss=[round(v, 4) for v in values])
    if not values[-1] < MUST_FALL * max(values):
        report.add('warning', 'loss does not fall', 'train', f'{len(values) - 1} steps on {len(batch["data_samples"])} images: '
                   f'{values[0]:.3f}, at most {max(values):.3f}, at last {values[-1]:.3f}',
                   'Can the labels be learnt from the pixels? Look at the pictures of the training pipeline (tools/browse_dataset.py), and '
                   'at what is frozen.')
