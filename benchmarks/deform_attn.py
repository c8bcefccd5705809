"""Time implementations of multi-scale deformable attention, forward and backward: grid_sample per level, and weighted sums of table rows.

    python benchmarks/deform_attn.py [--threads 2] [--batch 2] [--size 512 640] [--repeats 5] [--device cpu]

``encoder``: every cell of strides 8 to 64 is a query that samples near itself; ``decoder``: 1,100 queries (DINO's in training) sample
anywhere. 8 heads of 32 channels, 4 points per level, float32. Also prints the differences of the outputs and gradients.
"""
from __future__ import annotations

import argparse
from functools import partial

import torch
from measure import headline, interleaved, table
from torch import Tensor

from detkit.nn.tokens import cell_centers
from detkit.ops.ms_deform_attn import ByBag, by_grid_sample

HEADS, DIM, POINTS = 8, 32, 4


def inputs(batch: int, shapes: list[tuple[int, int]], queries: int | None, device: str) -> list[Tensor]:
    """Return values, sampling locations and attention weights; ``queries`` None: one query per cell."""
    g = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    if queries is None:
        where = torch.cat([cell_centers(h, w, torch.device('cpu')) / torch.tensor([w, h]) for h, w in shapes], 1).expand(batch, -1, -1)
    else:
        where = torch.rand(batch, queries, 2, generator=g)
    spread = torch.randn(*where.shape[:2], HEADS, len(shapes), POINTS, 2, generator=g) * (0.03 if queries is None else 0.1)
    weights = torch.rand(*spread.shape[:-1], generator=g).flatten(3).softmax(-1).view(spread.shape[:-1])
    tensors = torch.randn(batch, cells, HEADS, DIM, generator=g), where[:, :, None, None, None] + spread, weights
    return [x.to(device).requires_grad_() for x in tensors]


def step(form: object, shapes: list[tuple[int, int]], tensors: list[Tensor]) -> list[Tensor]:
    """Return the output, and the gradients of half its squared norm."""
    value, locations, weights = tensors
    out = form(value, shapes, locations, weights)
    return [out.detach(), *torch.autograd.grad(out, tensors, out.detach())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, nargs=2, default=(512, 640), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(headline(args.threads, args.device))
    shapes = [(-(-args.size[0] // stride), -(-args.size[1] // stride)) for stride in (8, 16, 32, 64)]
    forms = dict(grid_sample=by_grid_sample) | (dict(bag=ByBag.apply) if args.device == 'cpu' else {})
    for name, queries in (('encoder', None), ('decoder', 1100)):
        tensors = inputs(args.batch, shapes, queries, args.device)
        results = [step(form, shapes, tensors) for form in forms.values()]
        apart = [max(float((a - b).norm() / a.norm()) for b in others) for a, *others in zip(*results)] if len(results) > 1 else []
        print(f'\n{name}: {tensors[1].shape[1]} queries; relative differences of output and gradients: {[f"{x:.0e}" for x in apart]}')
        wait = torch.cuda.synchronize if args.device.startswith('cuda') else lambda: None
        print(table(interleaved({k: partial(step, f, shapes, tensors) for k, f in forms.items()}, args.repeats, 1, wait), 'grid_sample'))


if __name__ == '__main__':
    main()
