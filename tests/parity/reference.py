"""Hold detkit against what MMDetection computed for the same model, weights and images: five columns a case.

A column is ``'ok'``, ``'-'`` where the reference has no such result, or what differs.
"""
from __future__ import annotations

import copy
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import torch
from detweights import fill
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import nn

from detkit.engine.hooks.replay import set_train_state
from detkit.registry import MODELS
from detkit.structures import BitmapMasks, DetDataSample
from detkit.structures.train_state import TrainState

COLUMNS = ('keys', 'feat', 'pred', 'loss', 'grad')
ABSENT = '-'


def run_case(case: dict, images: dict[str, np.ndarray]) -> dict[str, str]:
    """Build the case's model with its derived weights, run it on ``images``, and compare column by column."""
    torch.manual_seed(0)
    model = MODELS.build(Config.fromstring(case['model'], '.py').model)
    result = dict.fromkeys(COLUMNS, ABSENT)
    result['keys'] = compare_keys(model, case)
    fill(model, case['scales'])
    model.eval()

    def data(training: bool) -> dict:
        batch = make_batch(images, case, same_size=training and case['same_size'])
        return model.data_preprocessor(copy.deepcopy(batch), training)

    if 'features' in case:
        with torch.no_grad():
            result['feat'] = compare_features(model.extract_feat(data(False)['inputs']), case)
    if 'predict' in case:
        with torch.no_grad():
            result['pred'] = compare_predictions(model(**data(False), mode='predict'), case)
    if 'loss' in case:
        torch.manual_seed(0)
        if case['train_mode']:
            calm_train(model)
        set_train_state(model, TrainState(case.get('epoch', 0)))
        with even_points() if case.get('points') == 'even' else nullcontext():
            total, log = model.parse_losses(model(**data(True), mode='loss'))
        result['loss'] = compare_losses(log, case)
        if 'grad_norm' in case:
            total.backward()
            result['grad'] = compare_gradients(model, case)
    return result


def make_batch(images: dict[str, np.ndarray], case: dict, same_size: bool) -> dict:
    """The two images with their boxes, labels and, where the case asks, masks: each box's area without its upper left quarter."""
    inputs, samples = [], []
    for i in range(2):
        image, boxes = torch.from_numpy(images[f'image{i}']), torch.from_numpy(images[f'boxes{i}'].copy())
        if same_size:
            image = image[:, :224, :288]
            boxes[:, 0::2].clamp_(0, 288)
            boxes[:, 1::2].clamp_(0, 224)
        if case.get('pad_to'):
            height, width = case['pad_to']
            image = nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]), value=114)
        h, w = image.shape[1:]
        sample = DetDataSample(metainfo=dict(
            img_id=i, img_path=f'{i}.jpg', ori_shape=(h * 2, w * 2), img_shape=(h, w), pad_shape=(h, w),
            scale_factor=(0.5, 0.5), flip=False, flip_direction=None, border=np.array([0, h, 0, w], np.float32)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.from_numpy(images[f'labels{i}']) % case['num_classes'])
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        if case['with_mask']:
            sample.gt_instances.masks = BitmapMasks(three_quarters(boxes, h, w), h, w)
            sample.ignored_instances.masks = BitmapMasks(np.zeros((0, h, w), np.uint8), h, w)
        if case['with_sem']:
            sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, h, w, dtype=torch.long))
        inputs.append(image)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def three_quarters(boxes: torch.Tensor, height: int, width: int) -> np.ndarray:
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().long().tolist()):
        mask[y1:y2, x1:x2] = 1
        mask[y1:(y1 + y2) // 2, x1:(x1 + x2) // 2] = 0
    return masks


def even_points():
    """Where points of masks are drawn, (n, count, 2) in [0, 1], n times one even sequence (Roberts's R2) is given instead."""
    def rand(n: int, count: int, two: int, **_: object) -> torch.Tensor:
        step = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
        return (torch.arange(1, count + 1)[:, None] * step % 1).float().expand(n, count, two).clone()
    return patch('torch.rand', rand)


def calm_train(model: nn.Module) -> None:
    """Training mode without its randomness: frozen batch statistics, no dropout of any kind."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.0


# ---------------------------------------------------------------------------------------------------------- comparing
def close(got: float, want: float, rel: float, absolute: float = 1e-5) -> bool:
    return abs(got - want) <= absolute + rel * abs(want)


def compare_keys(model: nn.Module, case: dict) -> str:
    want = {key: tuple(shape) for key, shape in case['keys']}
    got = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
    shapes = sorted(key for key in set(want) & set(got) if want[key] != got[key])
    if missing or extra or shapes:
        return f'missing {len(missing)} {missing[:3]}, unexpected {len(extra)} {extra[:3]}, other shape {shapes[:3]}'
    return 'ok'


def compare_features(features: tuple[torch.Tensor, ...], case: dict) -> str:
    want = [value for _, value in sorted(case['features'].items(), key=lambda item: int(item[0].split('.')[0] or 0))]
    if len(features) != len(want):
        return f'{len(features)} feature maps, reference {len(want)}'
    for level, (g, w) in enumerate(zip(features, want)):
        if list(g.shape) != w['shape']:
            return f'level {level}: shape {list(g.shape)}, reference {w["shape"]}'
        flat = g.detach().float().flatten()
        difference = max(abs(float(flat[i]) - value) for i, value in zip(w['at'], w['values']))
        if not difference <= 2e-3 * max(1.0, w['std']):
            return f'level {level}: differs by {difference:.2e} (reference std {w["std"]:.2f})'
    return 'ok'


def compare_predictions(samples: list[DetDataSample], case: dict) -> str:
    for i, (sample, want) in enumerate(zip(samples, case['predict'])):
        if 'scores' not in want:
            return ABSENT
        got = sample.pred_instances
        if abs(len(got) - want['n']) > max(1, 0.02 * want['n']):
            return f'image {i}: {len(got)} detections, reference {want["n"]}'
        if want['scores'] and not share_matched(got, want) >= 0.97:
            return f'image {i}: {share_matched(got, want):.0%} of the reference\'s best {len(want["scores"])} found'
    return 'ok'


def share_matched(got: InstanceData, want: dict) -> float:
    """The part of the reference's detections that have one of ours of equal label, score within 0.002 and nearly the same box."""
    pair = (np.abs(got.scores.float().numpy()[None] - np.array(want['scores'])[:, None]) <= 2e-3) \
        & (got.labels.numpy()[None] == np.array(want['labels'])[:, None])
    if want.get('bboxes') and 'mask_shape' not in want:
        boxes, reference = got.bboxes.detach().float().numpy(), np.array(want['bboxes'])
        pair &= (np.abs(boxes[None] - reference[:, None]).max(-1) <= 1.0) | (iou(reference, boxes) > 0.98)
    return float(pair.any(1).mean())


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a`` (n, 4), ``b`` (m, 4) -> (n, m)."""
    corners = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(corners[1] - corners[0], 0, None).prod(-1)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    return inter / np.clip(area_a[:, None] + area_b[None] - inter, 1e-9, None)


def compare_losses(log: dict, case: dict) -> str:
    want = {key: value for key, value in case['loss'].items() if 'acc' not in key}
    got = {key: float(value.detach() if isinstance(value, torch.Tensor) else value) for key, value in log.items() if 'acc' not in key}
    if set(want) != set(got):
        return f'loss names: missing {sorted(set(want) - set(got))[:4]}, unexpected {sorted(set(got) - set(want))[:4]}'
    bad = [f'{key} {got[key]:.5g} (reference {want[key]:.5g})' for key in want if not close(got[key], want[key], 2e-3, 1e-4)]
    return ', '.join(bad[:3]) or 'ok'


def compare_gradients(model: nn.Module, case: dict) -> str:
    grads = {key: p.grad.double() for key, p in model.named_parameters() if p.grad is not None}
    if len(grads) != case['grad_keys']:
        return f'{len(grads)} parameters with a gradient, reference {case["grad_keys"]}'
    norm = float(torch.sqrt(sum((g ** 2).sum() for g in grads.values())))
    if not close(norm, case['grad_norm'], 2e-2):
        return f'norm {norm:.5g}, reference {case["grad_norm"]:.5g}'
    bad = [key for key, value in case['grad_sample'].items()
           if key not in grads or not close(float(grads[key].norm()), value, 5e-2, 1e-3)]
    return f'other gradients: {bad[:3]}' if bad else 'ok'
