"""How losses are summed up: every reduction, with and without weights and avg_factor."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.losses.weighting import mean_over_processes, reduce_loss

LOSS = torch.tensor([[1., 2.], [3., 6.]])
WEIGHT = torch.tensor([[1.], [.5]])            # weighed: 1, 2, 1.5, 3


@pytest.mark.parametrize(('weight', 'reduction', 'avg_factor', 'expected'), [
    (None, 'mean', None, 3.), (None, 'sum', None, 12.), (None, 'none', None, [[1., 2.], [3., 6.]]), (None, 'mean', 4., 3.),
    (None, 'mean', 6, 2.), (WEIGHT, 'mean', None, 1.875), (WEIGHT, 'sum', None, 7.5), (WEIGHT, 'mean', 2.5, 3.),
    (WEIGHT, 'mean', torch.tensor(2.5), 3.), (WEIGHT, 'none', None, [[1., 2.], [1.5, 3.]]), (WEIGHT, 'none', 2., [[1., 2.], [1.5, 3.]])])
def test_reductions_by_hand(weight: torch.Tensor | None, reduction: str, avg_factor: float | None, expected: float | list):
    assert_close(reduce_loss(LOSS, weight, reduction, avg_factor), torch.tensor(expected))


def test_an_avg_factor_of_zero_does_not_divide_by_zero():
    assert torch.isfinite(reduce_loss(LOSS, None, 'mean', 0.))
    assert reduce_loss(LOSS * 0, None, 'mean', 0.) == 0


@pytest.mark.parametrize(('reduction', 'avg_factor'), [('mean', None), ('mean', 2.), ('sum', None)])
def test_the_loss_of_nothing_is_zero_with_a_gradient(reduction: str, avg_factor: float | None):
    pred = torch.zeros(0, 4, requires_grad=True)
    loss = reduce_loss(pred.abs(), None, reduction, avg_factor)
    assert loss == 0
    loss.backward()
    assert pred.grad.shape == (0, 4)


def test_an_unknown_reduction_and_a_sum_with_a_factor_are_refused():
    with pytest.raises(ValueError, match="reduction 'avg' is not defined. Known: mean, sum, none"):
        reduce_loss(LOSS, None, 'avg', None)
    with pytest.raises(ValueError, match="reduction 'sum' with an avg_factor is not defined"):
        reduce_loss(LOSS, None, 'sum', 2.)


def test_one_process_is_its_own_mean():
    value = torch.tensor(3.)
    assert mean_over_processes(value) is value
