"""Weight and reduce losses."""
from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
REDUCTIONS = ('mean', 'sum', 'none')


def reduce_loss(loss: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | Tensor | None) -> Tensor:
    """Weight an elementwise loss and reduce it: ``mean`` divides by ``avg_factor`` if given, else by the number of elements (empty: 0).

    ``weight`` broadcasts with ``loss``. Raises ValueError for an unknown reduction, or for ``sum`` with an ``avg_factor``.
    """
    if weight is not None:
        loss = loss * weight
    if reduction == 'none':
        return loss
    if reduction == 'mean':
        return loss.sum() / max(loss.numel(), 1) if avg_factor is None else loss.sum() / (avg_factor + EPS)
    if reduction == 'sum' and avg_factor is None:
        return loss.sum()
    raise ValueError(f"reduction '{reduction}' {'with an avg_factor ' if reduction == 'sum' else ''}is not defined. "
                     f"Known: {', '.join(REDUCTIONS)}; avg_factor goes with 'mean' or 'none'.")


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a scalar over all training processes, so that all processes divide their losses by the same number."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    value = value.clone()
    dist.all_reduce(value.div_(dist.get_world_size()))
    return value
