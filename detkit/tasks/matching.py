"""The input and output of assigners."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEGATIVE, IGNORED = -1, -2   # values of a match index; all others are indices of ground-truth boxes


@dataclass(frozen=True)
class Candidates:
    """The A priors (or queries, which have no priors) of one image that can be matched to objects.

    ``logits``, ``boxes`` and ``masks`` are set only for an assigner with ``looks_at_predictions = True``. For queries they may have leading
    dimensions, for example one entry per decoder layer; the match then has the same leading dimensions.
    """

    priors: Tensor | None         # (A, 4) anchors xyxy, or points (x, y, stride_x, stride_y), pixels
    levels: list[int] | None = None   # number of priors on each level, in order
    logits: Tensor | None = None  # (A, K) class logits, detached
    boxes: Tensor | None = None   # (A, 4) decoded boxes, detached
    approximations: Tensor | None = None   # (A, m, 4) anchors of other scales and ratios at each prior's position
    masks: Tensor | None = None   # (A, P) mask logits at P points, detached; gt ``masks`` (G, P) use the same points
    size: tuple[int, int] | None = None    # (height, width) of the image in the network input
    name: str = 'an image'        # name of the image in messages

    def __len__(self) -> int:
        return self.logits.shape[-2] if self.priors is None else len(self.priors)


@dataclass(frozen=True)
class Match:
    """The object matched to each prior."""

    index: Tensor                  # (A,) int64: index of the matched object, NEGATIVE or IGNORED
    quality: Tensor | None = None  # (A,) in [0, 1]: quality of positives (IoU or alignment), 0 elsewhere
    overlap: Tensor | None = None  # (A,) largest IoU with any ground-truth box, for samplers that use it


def no_match(count: int, device: torch.device, quality: bool = False) -> Match:
    """Return a match for an image without objects: all priors are negative."""
    return Match(torch.full((count,), NEGATIVE, device=device), torch.zeros(count, device=device) if quality else None)


def preceded_by_truth(match: Match, count: int) -> Match:
    """Return ``match`` with ``count`` ground-truth boxes inserted before its priors; each of them is matched to itself."""
    def with_ones(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.cat([values.new_ones(count), values])
    own = torch.arange(count, device=match.index.device)
    return Match(torch.cat([own, match.index]), with_ones(match.quality), with_ones(match.overlap))
