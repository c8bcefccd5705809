"""Which of the assigned priors enter the loss."""
from __future__ import annotations

import torch
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import NEGATIVE, Match


def pick(indices: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """At most ``limit`` of ``indices``, at random, in ascending order."""
    if len(indices) > limit:
        order = torch.randperm(len(indices), generator=generator)[:limit]
        indices = indices[order.to(indices.device)]
    return indices.sort().values


def topped_up(taken: Tensor, indices: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """``limit`` of ``indices``, those ``taken`` among them as far as there is room, the rest at random."""
    rest = indices[~torch.isin(indices, taken)]
    return pick(torch.cat([taken, pick(rest, max(limit - len(taken), 0), generator)]), limit, generator)


@TASK_UTILS.register_module(name=['PseudoSampler', 'MaskPseudoSampler'])
class PseudoSampler:
    """Takes every prior (or query); the loss is then averaged over the positives (focal-loss detectors)."""

    add_gt_as_proposals = False

    def __call__(self, match: Match, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A assignments -> indices of the positives and of the negatives, ascending."""
        return (match.index >= 0).nonzero().squeeze(1), (match.index == NEGATIVE).nonzero().squeeze(1)

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
            raise ConfigError(f'{type(self).__name__} pos_fraction={pos_fraction} must lie in [0, 1].')
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def __call__(self, match: Match, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A assignments -> indices of the positives and of the negatives taken, ascending."""
        pos = self.positives(match, int(self.num * self.pos_fraction), generator)
        room = self.num - len(pos)
        if self.neg_pos_ub >= 0:
            room = min(room, int(self.neg_pos_ub * max(1, len(pos))))
        return pos, self.negatives(match, room, generator)

    def positives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        """At most ``limit`` indices, ascending."""
        return pick((match.index >= 0).nonzero().squeeze(1), limit, generator)

    def negatives(self, match: Match, limit: int, generator: torch.Generator | None) -> Tensor:
        """At most ``limit`` indices, ascending."""
        return pick((match.index == NEGATIVE).nonzero().squeeze(1), limit, generator)

    def avg_factor(self, num_pos: int, num_neg: int) -> int:
        return max(num_pos, 1) + max(num_neg, 1)


@TASK_UTILS.register_module()
class InstanceBalancedPosSampler(RandomSampler):
    """As many positives of one object as of another (Libra R-CNN, https://arxiv.org/abs/1904.02701, Sec. 3.1)."""

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
    """As many negatives of one range of IoU as of another (Libra R-CNN, Sec. 3.1, eq. 2).

    Args:
        floor_thr: the ranges begin here; below it lie the easy ones. -1: everything is in a range.
        floor_fraction: share of the negatives that may be easy ones.
        num_bins: ranges, up to the largest IoU of any prior; 1: no balance.
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
        """``wanted`` of ``indices``, evenly over the ranges of their ``overlap``; where a range is short, the others fill up."""
        low = max(self.floor_thr, 0)
        width = (float(overlap.max()) - low) / self.num_bins
        edges = low + width * torch.arange(1, self.num_bins, device=overlap.device)
        bins = torch.bucketize(overlap[indices], edges, right=True)
        taken = torch.cat([pick(indices[bins == b], wanted // self.num_bins, generator) for b in range(self.num_bins)])
        return topped_up(taken, indices, wanted, generator)


@TASK_UTILS.register_module()
class CombinedSampler(RandomSampler):
    """Positives from one sampler, negatives from another; ``num`` and ``pos_fraction`` are theirs too, where they set none."""

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
