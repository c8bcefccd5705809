"""Two processes learn from their halves of a batch what one learns from all of it, however unequally the objects are spread."""
from __future__ import annotations

import os
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from kinds import DETECTORS, make_batch, make_images, make_sample, small_config, small_detector
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from detkit.registry import register_all_modules

# objects of four images, the last two of which the second process gets
BOXES = [[[4., 6., 40., 44.], [10., 30., 30., 60.], [40., 8., 60., 30.]], [[20., 10., 60., 30.]], [], []]


def calm(cfg: object) -> object:
    """A config without dropout, with as many groups of denoising queries whatever the batch holds."""
    if isinstance(cfg, (list, tuple)):
        return [calm(part) for part in cfg]
    if not isinstance(cfg, dict):
        return cfg
    changed = {key: calm(value) for key, value in cfg.items()}
    changed.update((key, 0.) for key in ('dropout', 'attn_drop', 'proj_drop', 'ffn_drop', 'drop_path_rate') if key in cfg)
    if 'group_cfg' in cfg:
        changed['group_cfg'] = dict(dynamic=False, num_groups=2)
    return changed


def gradient(kind: str, part: slice, wrap: bool) -> dict[str, Tensor]:
    """Of the images ``part`` of the batch. ``wrap``: averaged over the processes, as in training."""
    model = small_detector(kind, **calm(small_config(kind))).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
        if isinstance(module, nn.Dropout):
            module.p = 0.
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.
    # denoising queries are filled up to the batch's fullest image: both halves hold one of three objects
    objects = [*BOXES[:2], BOXES[0], BOXES[3]] if hasattr(model, 'dn_query_generator') else BOXES
    samples = [make_sample(boxes, seed=i) for i, boxes in enumerate(objects)]
    data = make_batch(model, make_images(len(BOXES))[part], samples[part])
    entry = nn.parallel.DistributedDataParallel(model) if wrap else model          # averages as long as it is there
    losses = entry(**data, mode='loss')
    model.parse_losses(losses)[0].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def learn(rank: int, folder: str, kinds: list[str]) -> None:
    """One process: its gradients of every kind, or what went wrong, in a file each."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1')
    register_all_modules(init_default_scope=True)
    for kind in kinds:
        dist.init_process_group('gloo', f'file://{folder}/{kind}', rank=rank, world_size=2, timeout=timedelta(seconds=120))
        try:
            found: object = gradient(kind, slice(0, 2) if rank == 0 else slice(2, 4), wrap=True)
        except Exception:
            found = traceback.format_exc()
        torch.save(found, f'{folder}/{kind}.{rank}.pt')
        dist.destroy_process_group()


@pytest.fixture(scope='module')
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both processes run once, for all kinds."""
    folder = tmp_path_factory.mktemp('processes')
    torch.multiprocessing.spawn(learn, (str(folder), list(DETECTORS)), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('kind', list(DETECTORS))
def test_two_processes_have_the_gradient_of_one_on_the_whole_batch(kind: str, learnt: Path):
    first, second = (torch.load(learnt / f'{kind}.{rank}.pt') for rank in (0, 1))
    assert isinstance(first, dict) and isinstance(second, dict), f'{first}\n{second}'
    whole = gradient(kind, slice(0, 4), wrap=False)
    assert set(first) == set(second) == set(whole)
    scale = max(g.abs().max().item() for g in whole.values())
    assert scale > 0
    wrong = {name: ((first[name] - g).abs().max().item(), g.abs().max().item()) for name, g in whole.items()
             if not torch.allclose(first[name], g, atol=1e-4 * scale, rtol=1e-2)}
    assert wrong == {}
    for name in whole:
        assert_close(first[name], second[name])
