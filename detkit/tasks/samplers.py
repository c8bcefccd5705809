"""Samplers: select the assigned priors that enter the loss."""
from __future__ import annotations

import torch
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import NEGATIVE, Match


def pick(indices: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """Return at most ``limit`` random elements of ``indices``, in ascending order."""
    if len(indices) > limit:
        order = torch.randperm(len(indices), generator=generator)[:limit]
        indices = indices[order.to(indices.device)]
    return indices.sort().values


def topped_up(taken: Tensor, indices: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """Return ``taken`` plus random others of ``indices``, at most ``limit`` in total, ascending. If ``taken`` has more than ``limit``
    elements, return a random part of it."""
    rest = indices[~torch.isin(indices, taken)]
    return pick(torch.cat([taken, pick(rest, max(limit - len(taken), 0), generator)]), limit, generator)


@TASK_UTILS.register_module(name=['PseudoSampler', 'MaskPseudoSampler'])
class PseudoSampler:
    """Select all priors (or queries); the loss is averaged over the positives (detectors with focal loss)."""

    add_gt_as_proposals = False

    def __call__(self, match: Match, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return the indices of positives and negatives, ascending, from a match of A priors."""
        return (match.index >= 0).nonzero().squeeze(1), (match.index == NEGATIVE).nonzero().squeeze(1)

    def avg_factor(self, num_pos: int, num_neg: int) -> int:
        return max(num_pos, 1)


@TASK_UTILS.register_module()
class RandomSampler:
    """Sample ``num`` priors per image, with at most ``pos_fraction`` positives (Faster R-CNN, Sec. 3.1.3).

    ``neg_pos_ub``: max negatives per positive; -1: no limit. ``add_gt_as_proposals``: add the ground-truth boxes to the proposals.
    """

    def __init__(self, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True) -> None:
        if not 0 <= pos_fraction <= 1:
            raise ConfigError(f'{type(self).__name__} pos_fraction={pos_fraction} must lie in [0, 1].')
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def __call__(self, match: Match, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return the indices of the sampled positives and negatives, ascending, from a match of A priors."""
        pos = self.positives(match, int(self.num * self.pos_fraction), generator)
        room = self.num - len(pos)
        if self.neg_pos_ub >= 0:
            room = min(room, int(self.neg_pos_ub * max(1, len(pos))))
        return pos, self.negatives(match, room, generator)

    def positives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        """Return at most ``limit`` indices, ascending."""
        return pick((match.index >= 0).nonzero().squeeze(1), limit, generator)

    def negatives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        """Return at most ``limit`` indices, ascending."""
        return pick((match.index == NEGATIVE).nonzero().squeeze(1), limit, generator)

    def avg_factor(self, num_pos: int, num_neg: int) -> int:
        return max(num_pos, 1) + max(num_neg, 1)


@TASK_UTILS.register_module()
class InstanceBalancedPosSampler(RandomSampler):
    """Sample the same number of positives for each object (Libra R-CNN, https://arxiv.org/abs/1904.02701, Sec. 3.1)."""

    def positives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        pos = (match.index >= 0).nonzero().squeeze(1)
        if len(pos) <= limit:
            return pos
        objects = match.index[pos].unique()
        share = int(round(limit / len(objects)) + 1)
        taken = torch.cat([pick(pos[match.index[pos] == g], share, generator) for g in objects.tolist()])
        return topped_up(taken, pos, limit, generator)


@TASK_UTILS.register_module()
class IoUBalancedNegSampler(RandomSampler):
    """Sample the same number of negatives from each IoU range (Libra R-CNN, Sec. 3.1, eq. 2).

    Args:
        floor_thr: IoU at which the ranges start; negatives below it are easy. -1: all negatives are in a range.
        floor_fraction: fraction of easy negatives among the sampled negatives.
        num_bins: number of ranges, up to the largest IoU of any prior; 1: no balancing.
    """

    def __init__(self, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True,
                 floor_thr: float = -1, floor_fraction: float = 0, num_bins: int = 3) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        if not (floor_thr == -1 or 0 <= floor_thr < 1) or not 0 <= floor_fraction <= 1 or num_bins < 1:
            raise ConfigError(f'IoUBalancedNegSampler floor_thr={floor_thr} must be -1 or lie in [0, 1), '
                              f'floor_fraction={floor_fraction} in [0, 1], and num_bins={num_bins} be at least 1.')
        self.floor_thr, self.floor_fraction, self.num_bins = floor_thr, floor_fraction, num_bins

    def negatives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        neg = (match.index == NEGATIVE).nonzero().squeeze(1)
        if len(neg) <= limit:
            return neg
        if match.overlap is None:
            raise ConfigError('IoUBalancedNegSampler needs an assigner that tells overlaps, such as MaxIoUAssigner.')
        iou = match.overlap[neg]
        easy = iou <= 0 if self.floor_thr == 0 else iou < self.floor_thr
        hard = neg[~easy]
        wanted = int(limit * (1 - self.floor_fraction))
        if len(hard) > wanted:
            hard = self.over_ranges(hard, match.overlap, wanted, generator)
        return topped_up(torch.cat([hard, pick(neg[easy], limit - len(hard), generator)]), neg, limit, generator)

    def over_ranges(self, indices: Tensor, overlap: Tensor, wanted: int, generator: torch.Generator | None) -> Tensor:
        """Return ``wanted`` of ``indices``, evenly over ranges of their ``overlap``; if a range has too few, random others are added."""
        low = max(self.floor_thr, 0)
        width = (float(overlap.max()) - low) / self.num_bins
        edges = low + width * torch.arange(1, self.num_bins, device=overlap.device)
        bins = torch.bucketize(overlap[indices], edges, right=True)
        taken = torch.cat([pick(indices[bins == b], wanted // self.num_bins, generator) for b in range(self.num_bins)])
        return topped_up(taken, indices, wanted, generator)


@TASK_UTILS.register_module()
class CombinedSampler(RandomSampler):
    """Sample positives with one sampler and negatives with another; ``num`` and ``pos_fraction`` are their defaults."""

    def __init__(self, num: int, pos_fraction: float, pos_sampler: dict, neg_sampler: dict, neg_pos_ub: float = -1,
                 add_gt_as_proposals: bool = True) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        shared = dict(num=num, pos_fraction=pos_fraction)
        self.pos_sampler = TASK_UTILS.build(pos_sampler, default_args=shared)
        self.neg_sampler = TASK_UTILS.build(neg_sampler, default_args=shared)

    def positives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        return self.pos_sampler.positives(match, limit, generator)

    def negatives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        return self.neg_sampler.negatives(match, limit, generator)
