"""Which of the assigned priors enter the loss."""
from __future__ import annotations

import torch
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import NEGATIVE


def pick(indices: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """At most ``limit`` of ``indices``, at random, in ascending order."""
    if len(indices) > limit:
        order = torch.randperm(len(indices), generator=generator)[:limit]
        indices = indices[order.to(indices.device)]
    return indices.sort().values


@TASK_UTILS.register_module()
class PseudoSampler:
    """Takes every prior; the loss is then averaged over the positives (focal-loss detectors)."""

    add_gt_as_proposals = False

    def __call__(self, match: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(A,) assignments -> indices of the positives and of the negatives, ascending."""
        return (match >= 0).nonzero().squeeze(1), (match == NEGATIVE).nonzero().squeeze(1)

    def avg_factor(self, num_pos: int, num_neg: int) -> int:
        return max(num_pos, 1)


@TASK_UTILS.register_module()
class RandomSampler:
    """``num`` priors an image, at most ``pos_fraction`` of them positive (Faster R-CNN, Sec. 3.1.3).

    ``neg_pos_ub``: at most this many negatives a positive; -1: no bound. ``add_gt_as_proposals``: ground-truth boxes join the
    proposals.
    """

    def __init__(self, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True) -> None:
        if not 0 <= pos_fraction <= 1:
            raise ConfigError(f'RandomSampler pos_fraction={pos_fraction} must lie in [0, 1].')
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def __call__(self, match: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(A,) assignments -> indices of the positives and of the negatives taken, ascending."""
        pos = pick((match >= 0).nonzero().squeeze(1), int(self.num * self.pos_fraction), generator)
        room = self.num - len(pos)
        if self.neg_pos_ub >= 0:
            room = min(room, int(self.neg_pos_ub * max(1, len(pos))))
        return pos, pick((match == NEGATIVE).nonzero().squeeze(1), room, generator)

    def avg_factor(self, num_pos: int, num_neg: int) -> int:
        return max(num_pos, 1) + max(num_neg, 1)
