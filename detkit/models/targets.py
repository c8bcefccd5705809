"""The interface of training targets that every head provides."""
from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import Tensor, nn

from detkit.structures import DetDataSample

AssignedBy = Literal['geometry', 'predictions', 'queries']


class Targets(Protocol):
    """Interface of the result of every head's ``targets(out, samples)``; heads add the fields that their own loss needs."""

    assigned_by: AssignedBy
    """What decides which objects are learnt: where priors or cells lie, the predictions (so it changes as the model learns), or a
    one-to-one matching of queries, which leaves out objects only if there are more of them than queries."""

    @property
    def matched_objects(self) -> list[Tensor]:
        """For each image, the indices (M,) int64 of the objects matched to at least one prior, cell or query, ascending. Indices from
        ``len(sample.gt_instances)`` upwards are targets that the head adds itself, such as the stuff segments of panoptic heads."""


def targets_or_reason(head: nn.Module, out: Any, samples: list[DetDataSample]) -> Targets | str:
    """Return ``head.targets(out, samples)``, or a string that says why the head has no targets: its ``no_targets`` attribute."""
    if hasattr(head, 'no_targets'):
        return head.no_targets
    return head.targets(out, samples) if hasattr(head, 'targets') else f'{type(head).__name__} has no targets(out, samples)'
