"""One-to-one matching of predictions and objects (DETR, https://arxiv.org/abs/2005.12872, eq. 1)."""
from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.registry import TASK_UTILS, ConfigError
from detkit.tasks.matching import NEGATIVE, Candidates, Match


@TASK_UTILS.register_module()
class HungarianAssigner:
    """Find the matching with the smallest total cost: each object gets one candidate, each candidate at most one object.

    Unmatched candidates are negative; if there are more objects than candidates, some objects stay unmatched. ``match_costs``: one cost, or
    a list of costs that are summed.
    """

    looks_at_predictions = True

    def __init__(self, match_costs: dict | list[dict]) -> None:
        costs = [match_costs] if isinstance(match_costs, dict) else list(match_costs)
        if not costs:
            raise ConfigError('HungarianAssigner match_costs is empty.')
        self.match_costs = [TASK_UTILS.build(cost) for cost in costs]

    @torch.no_grad()
    def __call__(self, candidates: Candidates, gt: InstanceData, ignored: InstanceData | None = None) -> Match:
        """Return the match; ``index`` (..., A) has the leading dimensions of the candidates' predictions, each matched separately.

        Raises:
            ValueError: a cost is not finite; the message names the image and the cost.
        """
        from scipy.optimize import linear_sum_assignment  # importing takes 0.3 s; only training needs it
        predictions = candidates.masks if candidates.logits is None else candidates.logits
        index = torch.full(predictions.shape[:-1], NEGATIVE, dtype=torch.long)
        if len(gt):
            terms = [cost(candidates, gt) for cost in self.match_costs]
            total = sum(terms).cpu()
            if not total.isfinite().all():
                raise ValueError(self.fault(terms, candidates.name))
            for costs, row in zip(total.reshape(-1, *total.shape[-2:]).numpy(), index.view(-1, index.shape[-1])):
                taken, objects = linear_sum_assignment(costs)
                row[torch.from_numpy(taken)] = torch.from_numpy(objects)
        return Match(index.to(predictions.device))

    def fault(self, terms: list[Tensor], name: str) -> str:
        for cost, term in zip(self.match_costs, terms):
            wrong = (~term.isfinite()).sum().item()
            if wrong:
                return (f'{name}: {type(cost).__name__} is not finite for {wrong} of {term.numel()} pairs of prediction and object. The '
                        f'network has diverged (lower the learning rate, clip gradients), or a box of the image is not finite.')
        return f'{name}: the matching costs are finite, but their sum is not: {", ".join(type(c).__name__ for c in self.match_costs)}.'
