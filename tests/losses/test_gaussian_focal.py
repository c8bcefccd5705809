"""GaussianFocalLoss by hand."""
from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from detkit.losses.gaussian_focal import GaussianFocalLoss

PRED = torch.tensor([[.5, .5], [.25, .5]])
POSITIVE, NEGATIVE = .25 * math.log(2), .25 * math.log(2)      # at p = 0.5, target 1 or 0


def test_a_target_of_one_is_positive_and_a_near_one_costs_little():
    target = torch.tensor([[1., 0.], [0., .5]])
    loss = GaussianFocalLoss(pos_weight=2., neg_weight=3., reduction='none')(PRED, target)
    assert_close(loss, torch.tensor([[2 * POSITIVE, 3 * NEGATIVE], [3 * .0625 * -math.log(.75), 3 * NEGATIVE * .5**4]]))


def test_powers_and_the_mean():
    loss = GaussianFocalLoss(alpha=1., gamma=2., loss_weight=2.)(PRED[:1], torch.tensor([[1., .5]]), avg_factor=4)
    assert loss.item() == pytest.approx(2 * (.5 * math.log(2) + .5 * math.log(2) * .25) / 4)


def test_positives_named_count_as_often_as_they_are_named():
    target = torch.tensor([[.5, 0.], [0., 0.]])
    row, column = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])
    loss = GaussianFocalLoss(reduction='none')(PRED, target, positives=(row, column))
    assert_close(loss, torch.tensor([[NEGATIVE * .5**4 + 2 * POSITIVE, NEGATIVE], [.0625 * -math.log(.75), NEGATIVE + POSITIVE]]))


def test_certain_predictions_have_a_finite_loss():
    pred = torch.tensor([[0., 1.]], requires_grad=True)
    loss = GaussianFocalLoss()(pred, torch.tensor([[1., 0.]]))
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, pred)[0]).all()
