"""Time detkit's deformable convolution against torchvision's kernel.

    python benchmarks/deform_conv.py
    python benchmarks/deform_conv.py --threads 2 --repeats 5 --device cpu

The layers are the 3x3 convolutions of ResNets for two images of 512 x 640 pixels. ``learning``: forward and backward.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torchvision
from measure import headline, interleaved, table
from torch import Tensor

from detkit.ops.deform_conv import deform_conv

LAYERS = {   # channels, height, width, convolution groups, deformable groups, version 2
    'c3 v1': (128, 64, 80, 1, 1, False), 'c4 v2': (256, 32, 40, 1, 1, True), 'c5 v2': (512, 16, 20, 1, 1, True),
    'c4 of ResNeXt v1': (512, 32, 40, 32, 1, False), 'tower v2': (256, 64, 80, 1, 4, True)}


def inputs(channels: int, height: int, width: int, groups: int, deform_groups: int, modulated: bool, device: str) -> list[Tensor | None]:
    torch.manual_seed(0)
    made = [torch.randn(2, channels, height, width), torch.randn(2, 18 * deform_groups, height, width),
            torch.randn(channels, channels // groups, 3, 3) / 50, torch.rand(2, 9 * deform_groups, height, width) if modulated else None]
    return [None if t is None else t.to(device).requires_grad_() for t in made]


def steps(function: Callable[..., Tensor], given: list[Tensor | None], learning: bool) -> Callable[[], None]:
    x, offset, weight, mask = given

    def run() -> None:
        with torch.set_grad_enabled(learning):
            out = function(x, offset, weight, None, 1, 1, 1, mask)
        if learning:
            torch.autograd.grad(out.sum(), [t for t in given if t is not None])
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(headline(args.threads, args.device))
    wait = torch.cuda.synchronize if args.device != 'cpu' else lambda: None
    for name, layer in LAYERS.items():
        given = inputs(*layer, args.device)
        for what, learning in (('forward', False), ('learning', True)):
            times = interleaved({'torchvision': steps(torchvision.ops.deform_conv2d, given, learning),
                                 'detkit': steps(deform_conv, given, learning)}, args.repeats, 1, wait)
            print(f'\n{name}, {what}\n{table(times, "torchvision")}')


if __name__ == '__main__':
    main()
