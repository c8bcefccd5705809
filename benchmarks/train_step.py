"""Time one training step (pre-processing, forward, backward, optimiser) of detkit against torchvision's own models.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --models retinanet --size 640 480 --batch 4 --repeats 9 --threads 2

Steps of all variants alternate, so that a change of load meets all of them; a ratio is to torchvision in fp32 and below 1 where
the variant is faster. It prints numbers and decides nothing.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from measure import headline, interleaved, table
from mmengine.structures import InstanceData
from models import NUM_CLASSES, RECIPES, pair
from torch import nn

from detkit.engine.amp import use_channels_last
from detkit.engine.optim import DefaultOptimWrapperConstructor
from detkit.structures import DetDataSample

SGD = dict(lr=1e-6, momentum=0.9, weight_decay=1e-4)   # the rate keeps untrained weights where they are; its value costs no time


def draw(batch: int, size: tuple[int, int], objects: int, seed: int = 0) -> tuple[list, list, list]:
    """``batch`` images (uint8 (3, H, W)), boxes (float32 (objects, 4), sides 16 pixels to half the image), labels."""
    rng = np.random.default_rng(seed)
    height, width = size
    images, boxes, labels = [], [], []
    for _ in range(batch):
        coarse = rng.integers(0, 256, (3, height // 16 + 1, width // 16 + 1), dtype=np.uint8)
        images.append(torch.from_numpy(coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width].copy()))
        sides = np.exp(rng.uniform(np.log(16), np.log([width / 2, height / 2]), (objects, 2)))
        corner = rng.uniform(0, 1, (objects, 2)) * (np.array([width, height]) - sides)
        boxes.append(torch.from_numpy(np.concatenate([corner, corner + sides], 1).astype(np.float32)))
        labels.append(torch.from_numpy(rng.integers(0, NUM_CLASSES, objects)))
    return images, boxes, labels


def detkit_step(model: nn.Module, data: tuple, bf16: bool, channels_last: bool) -> Callable[[], object]:
    """What the training loop calls for a batch."""
    images, boxes, labels = data
    height, width = images[0].shape[1:]
    if channels_last:
        use_channels_last(model)
    wrapper = DefaultOptimWrapperConstructor(dict(
        type='AmpOptimWrapper' if bf16 else 'OptimWrapper', **(dict(dtype='bfloat16') if bf16 else {}),
        optimizer=dict(type='SGD', **SGD)))(model)

    def step() -> object:
        samples = []
        for i, (b, t) in enumerate(zip(boxes, labels)):
            sample = DetDataSample(metainfo=dict(img_id=i, img_shape=(height, width), ori_shape=(height, width), scale_factor=(1., 1.)))
            sample.gt_instances = InstanceData(bboxes=b.clone(), labels=t.clone())
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
            samples.append(sample)
        return model.train_step(dict(inputs=images, data_samples=samples), wrapper)
    return step


def torchvision_step(model: nn.Module, data: tuple, bf16: bool, channels_last: bool, device: str) -> Callable[[], object]:
    images, boxes, labels = data
    first = 0 if type(model).__name__ == 'RetinaNet' else 1      # Faster R-CNN's label 0 is background
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **SGD)

    def step() -> object:
        inputs = [image.to(device).float() / 255 for image in images]
        targets = [dict(boxes=b.to(device), labels=t.to(device) + first) for b, t in zip(boxes, labels)]
        with torch.autocast(device.split(':')[0], torch.bfloat16, enabled=bf16):
            losses = model(inputs, targets)
            total = sum(losses.values())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument('--size', nargs=2, type=int, default=(640, 480), metavar=('WIDTH', 'HEIGHT'),
                        help='of the images (default: 640 480)')
    parser.add_argument('--batch', type=int, default=2, help='images a step (default: 2)')
    parser.add_argument('--objects', type=int, default=10, help='objects in an image (default: 10)')
    parser.add_argument('--repeats', type=int, default=5, help='timed rounds (default: 5)')
    parser.add_argument('--warmup', type=int, default=1, help='rounds before them (default: 1)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help="of torch (default: torch's own choice)")
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = (args.size[1], args.size[0])
    data = draw(args.batch, size, args.objects)
    print(headline(args.threads, args.device))
    for name in args.models:
        steps = {}
        for suffix, *options in (('fp32', False, False), ('fp32 + channels_last', False, True), ('bf16 + channels_last', True, True)):
            ours, theirs = (model.train().to(args.device) for model in pair(name, size))
            steps[f'torchvision {suffix}'] = torchvision_step(theirs, data, *options, args.device)
            steps[f'detkit {suffix}'] = detkit_step(ours, data, *options)
        wait = torch.cuda.synchronize if args.device.startswith('cuda') else lambda: None
        times = interleaved(steps, args.repeats, args.warmup, wait)
        print(f'\n{name}-r50-fpn, {args.batch} images of {args.size[0]}x{args.size[1]}, {args.repeats} rounds')
        print(table(times, 'torchvision fp32'))


if __name__ == '__main__':
    main()
