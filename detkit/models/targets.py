"""What heads tell others about their targets."""
from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import Tensor, nn

from detkit.structures import DetDataSample

AssignedBy = Literal['geometry', 'predictions', 'queries']


class Targets(Protocol):
    """What the result of every head's ``targets(out, samples)`` offers, besides what its own loss needs."""

    assigned_by: AssignedBy
    """What decides which objects are learnt: where priors or cells lie, the predictions (so it changes as the model learns), or a
    one-to-one matching of queries, which leaves out objects only if there are more of them than queries."""

    @property
    def matched_objects(self) -> list[Tensor]:
        """For each image the indices (M,) int64 of the objects that at least one prior, cell or query may learn, ascending. Indices from
        ``len(sample.gt_instances)`` on are the head's own, such as the stuff segments of panoptic heads."""


def targets_or_reason(head: nn.Module, out: Any, samples: list[DetDataSample]) -> Targets | str:
    """Return ``head.targets(out, samples)``, or the reason why the head has none: its ``no_targets``."""
    if hasattr(head, 'no_targets'):
        return head.no_targets
    return head.targets(out, samples) if hasattr(head, 'targets') else f'{type(head).__name__} has no targets(out, samples)'
