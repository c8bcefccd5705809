"""Time a training step (preprocessing, forward, backward, optimizer) of each kind of detector, and of torchvision's where it has one.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --models retinanet --size 640 512 --batch 4 --repeats 9 --threads 2

Steps of all variants alternate, so that load changes affect all of them. A ratio is relative to the first variant of a table; below 1
is faster. bf16 is bfloat16 with channels_last, timed if the machine supports it. Only prints numbers.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from measure import headline, interleaved, table
from mmengine.structures import InstanceData, PixelData
from models import NUM_CLASSES, RECIPES, VARIANTS, models, network_arguments
from torch import nn

from detkit.engine.amp import use_channels_last
from detkit.engine.optim import DefaultOptimWrapperConstructor
from detkit.structures import BitmapMasks, DetDataSample

STUFF = 100                   # a stuff class of panoptic maps
SGD = dict(lr=1e-6, momentum=0.9, weight_decay=1e-4)   # a small rate, so that untrained weights hardly change; no effect on the time


def draw(batch: int, size: tuple[int, int], objects: int, seed: int = 0) -> tuple[list, list, list, list]:
    """Return ``batch`` images (uint8 (3, H, W)), boxes (float32 (objects, 4), sides from 16 pixels to half the image), labels, and masks of
    the ellipses in the boxes (uint8 (objects, H, W))."""
    rng = np.random.default_rng(seed)
    height, width = size
    images, boxes, labels, masks = [], [], [], []
    ys, xs = np.mgrid[:height, :width] + 0.5
    for _ in range(batch):
        coarse = rng.integers(0, 256, (3, height // 16 + 1, width // 16 + 1), dtype=np.uint8)
        images.append(torch.from_numpy(coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width].copy()))
        sides = np.exp(rng.uniform(np.log(16), np.log([width / 2, height / 2]), (objects, 2)))
        corner = rng.uniform(0, 1, (objects, 2)) * (np.array([width, height]) - sides)
        boxes.append(torch.from_numpy(np.concatenate([corner, corner + sides], 1).astype(np.float32)))
        masks.append(torch.from_numpy(np.stack([((xs - x) / w - 0.5)**2 + ((ys - y) / h - 0.5)**2 < 0.25
                                                for (x, y), (w, h) in zip(corner, sides)]).astype(np.uint8)))
        labels.append(torch.from_numpy(rng.integers(0, NUM_CLASSES, objects)))
    return images, boxes, labels, masks


def detkit_step(model: nn.Module, data: tuple, bf16: bool, channels_last: bool) -> Callable[[], object]:
    """Return a function that does the training loop's step for a batch."""
    images = data[0]
    height, width = images[0].shape[1:]
    if channels_last:
        use_channels_last(model)
    wrapper = DefaultOptimWrapperConstructor(dict(
        type='AmpOptimWrapper' if bf16 else 'OptimWrapper', **(dict(dtype='bfloat16') if bf16 else {}),
        optimizer=dict(type='SGD', **SGD)))(model)

    def step() -> object:
        samples = []
        for i, (boxes, labels, masks) in enumerate(zip(*data[1:])):
            sample = DetDataSample(metainfo=dict(img_id=i, img_shape=(height, width), ori_shape=(height, width), scale_factor=(1., 1.)))
            sample.gt_instances = InstanceData(bboxes=boxes.clone(), labels=labels.clone(),
                                               masks=BitmapMasks(masks.numpy(), height, width))
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
            sample.gt_sem_seg = PixelData(sem_seg=torch.where(masks.bool().any(0), 255, STUFF).to(torch.uint8)[None])
            samples.append(sample)
        return model.train_step(dict(inputs=images, data_samples=samples), wrapper)
    return step


def torchvision_step(model: nn.Module, data: tuple, bf16: bool, channels_last: bool, device: str) -> Callable[[], object]:
    first = 1 if hasattr(model, 'roi_heads') else 0      # label 0 is background in torchvision's two-stage detectors
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **SGD)

    def step() -> object:
        inputs = [image.to(device).float() / 255 for image in data[0]]
        targets = [dict(boxes=b.to(device), labels=t.to(device) + first, masks=m.to(device)) for b, t, m in zip(*data[1:])]
        with torch.autocast(device.split(':')[0], torch.bfloat16, enabled=bf16):
            losses = model(inputs, targets)
            total = sum(losses.values())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses
    return step


def main() -> None:
    parser = network_arguments(__doc__, batch=2, repeats=5)
    parser.add_argument('--objects', type=int, default=10, help='in an image (default: 10)')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = (args.size[1], args.size[0])
    data = draw(args.batch, size, args.objects)
    print(headline(args.threads, args.device))
    for name in args.models:
        steps = {}
        for variant in args.variants:
            for library, model in models(name, size).items():
                model.train().to(args.device)
                steps[f'{library} {variant}'] = (detkit_step(model, data, *VARIANTS[variant]) if library == 'detkit' else
                                                 torchvision_step(model, data, *VARIANTS[variant], args.device))
        wait = torch.cuda.synchronize if args.device.startswith('cuda') else lambda: None
        times = interleaved(steps, args.repeats, args.warmup, wait)
        print(f'\n{name}, {args.batch} images of {args.size[0]}x{args.size[1]}, {args.repeats} rounds ({RECIPES[name]})')
        print(table(times, next(iter(times)), args.batch), flush=True)


if __name__ == '__main__':
    main()
