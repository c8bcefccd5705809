"""What an assigner is given, and what it answers."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEGATIVE, IGNORED = -1, -2   # otherwise: the index of the matched ground-truth box


@dataclass(frozen=True)
class Candidates:
    """The A priors (or queries, which have none) of one image that may learn something.

    ``logits``, ``boxes`` and ``masks`` are there only for an assigner with ``looks_at_predictions = True``. For a matcher of queries they
    may have leading dimensions, one entry a decoder layer; its match then has them too.
    """

    priors: Tensor | None         # (A, 4) anchors xyxy, or points (x, y, stride_x, stride_y), pixels
    levels: list[int] | None = None   # how many of them lie on each level, in order
    logits: Tensor | None = None  # (A, K) class logits, detached
    boxes: Tensor | None = None   # (A, 4) decoded boxes, detached
    approximations: Tensor | None = None   # (A, m, 4) anchors of other scales and ratios at each prior's place
    masks: Tensor | None = None   # (A, P) mask logits at P points, detached; the ground truth's ``masks`` (G, P) lie at the same points
    size: tuple[int, int] | None = None    # (height, width) of the image in the network input
    name: str = 'an image'        # what a message calls the image

    def __len__(self) -> int:
        return self.logits.shape[-2] if self.priors is None else len(self.priors)


@dataclass(frozen=True)
class Match:
    """What each prior learns."""

    index: Tensor                  # (A,) int64: index of the ground-truth box, NEGATIVE or IGNORED
    quality: Tensor | None = None  # (A,) in [0, 1]: how well a positive fits (IoU or alignment), 0 elsewhere
    overlap: Tensor | None = None  # (A,) the largest IoU with any ground-truth box, for samplers that look at it


def no_match(count: int, device: torch.device, quality: bool = False) -> Match:
    """All negative: an image without objects."""
    return Match(torch.full((count,), NEGATIVE, device=device), torch.zeros(count, device=device) if quality else None)


def preceded_by_truth(match: Match, count: int) -> Match:
    """``match``, and before it ``count`` priors that are the ground-truth boxes themselves."""
    def with_ones(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.cat([values.new_ones(count), values])
    own = torch.arange(count, device=match.index.device)
    return Match(torch.cat([own, match.index]), with_ones(match.quality), with_ones(match.overlap))
