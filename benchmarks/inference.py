"""Time inference from an image file to objects in its pixels, for each kind of detector, and for torchvision's where it has one.

    python benchmarks/inference.py
    python benchmarks/inference.py --models retinanet --size 640 512 --batch 1 --repeats 9 --threads 2

Every round processes the same JPEG files with each variant: read, decode, preprocess, network, NMS, boxes (and masks, as RLE in detkit)
on the CPU. The networks are untrained; their classifiers are set so that about as many candidates pass the score threshold as in a
trained detector. bf16 is bfloat16 with channels_last, timed if the machine supports it.
"""
from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from measure import headline, interleaved, table
from models import RECIPES, VARIANTS, config_of, find_something, models, network_arguments
from torch import nn
from torchvision.io import ImageReadMode, decode_image
from train_step import draw

from detkit.engine.amp import use_channels_last
from detkit.inference.detector import predict
from detkit.inference.pipeline import InferencePipeline
from detkit.opencv import cv2


def write_images(folder: Path, batch: int, size: tuple[int, int]) -> list[Path]:
    """Write JPEG files of ``size`` (height, width)."""
    images, *_ = draw(batch, size, objects=1)
    paths = [folder / f'{i}.jpg' for i in range(batch)]
    for path, image in zip(paths, images):
        cv2.imwrite(str(path), image.permute(1, 2, 0).numpy())
    return paths


def pipeline_for(name: str, size: tuple[int, int]) -> InferencePipeline:
    """Return the recipe's test pipeline with ``size``, the size of the images, as the scale."""
    dataset = config_of(name).test_dataloader.dataset
    for step in dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (size[1], size[0])
    return InferencePipeline(dataset)


def detkit_run(model: nn.Module, name: str, paths: list[Path], size: tuple[int, int], bf16: bool, last: bool) -> Callable[[], object]:
    pipeline = pipeline_for(name, size)
    if last:
        use_channels_last(model)

    def run() -> object:
        return [sample.cpu().pred_instances for sample in predict(model, [pipeline(path)[0] for path in paths], 'bf16' if bf16 else 'fp32')]
    return run


def torchvision_run(model: nn.Module, paths: list[Path], bf16: bool, last: bool, device: str) -> Callable[[], object]:
    if last:
        model.to(memory_format=torch.channels_last)

    def run() -> object:
        images = [decode_image(str(path), ImageReadMode.RGB).to(device).float() / 255 for path in paths]
        with torch.no_grad(), torch.autocast(device.split(':')[0], torch.bfloat16, enabled=bf16):
            return [{key: value.cpu() for key, value in found.items()} for found in model(images)]
    return run


def main() -> None:
    args = network_arguments(__doc__, batch=1, repeats=7).parse_args()
    torch.set_num_threads(args.threads)
    size = (args.size[1], args.size[0])
    print(headline(args.threads, args.device))
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), args.batch, size)
        for name in args.models:
            report(name, paths, size, args)


def report(name: str, paths: list[Path], size: tuple[int, int], args: argparse.Namespace) -> None:
    steps = {}
    for variant in args.variants:
        bf16, last = VARIANTS[variant]
        for library, model in models(name, size).items():
            model.eval().to(args.device)
            if library == 'detkit':
                find_something(model, detkit_run(model, name, paths[:1], size, False, False))
                steps[f'detkit {variant}'] = detkit_run(model, name, paths, size, bf16, last)
            else:
                find_something(model, torchvision_run(model, paths[:1], False, False, args.device))
                steps[f'torchvision {variant}'] = torchvision_run(model, paths, bf16, last, args.device)
    found = ', '.join(f"{variant} {sum(len(r.get('scores', ())) for r in run())}" for variant, run in steps.items())
    wait = torch.cuda.synchronize if args.device.startswith('cuda') else lambda: None
    times = interleaved(steps, args.repeats, args.warmup, wait)
    print(f'\n{name}, {args.batch} file(s) of {args.size[0]}x{args.size[1]} at a time, {args.repeats} rounds ({RECIPES[name]})')
    print(f'objects found: {found}\n{table(times, next(iter(times)), args.batch)}', flush=True)


if __name__ == '__main__':
    main()
