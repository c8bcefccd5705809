"""DiceLoss by hand."""
from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from detkit.losses.dice import DiceLoss

SCORES = torch.tensor([[[.5, .5], [0., 1.]], [[0., 0.], [0., 0.]]])
TARGET = torch.tensor([[[1, 0], [0, 1]], [[0, 0], [0, 0]]])


def test_areas_are_sums_of_squares():
    # shared 1.5; squares .25 + .25 + 1 and 2
    loss = DiceLoss(activate=False, eps=0.25, reduction='none')(SCORES, TARGET)
    assert_close(loss, torch.tensor([1 - 3 / (1.5 + 2 + .5), 1.]))


def test_naive_areas_are_sums():
    loss = DiceLoss(activate=False, naive_dice=True, eps=1., reduction='none')(SCORES, TARGET)
    assert_close(loss, torch.tensor([1 - 4 / (2 + 2 + 1), 0.]))                # nothing where nothing is: right


def test_logits_are_activated():
    logits = torch.tensor([[0., math.log(3)]])                                  # .5 and .75
    loss = DiceLoss(eps=0.)(logits, torch.tensor([[1., 1.]]))
    assert loss.item() == pytest.approx(1 - 2 * 1.25 / (.25 + .5625 + 2))


def test_weights_factors_and_reductions():
    dice = DiceLoss(activate=False, naive_dice=True, eps=1., loss_weight=2.)
    one = .2
    assert dice(SCORES, TARGET).item() == pytest.approx(2 * one / 2)
    assert dice(SCORES, TARGET, avg_factor=4).item() == pytest.approx(2 * one / 4)
    assert dice(SCORES, TARGET, torch.tensor([3., 1.]), reduction_override='sum').item() == pytest.approx(2 * 3 * one)


def test_no_mask_costs_nothing_and_passes_a_gradient():
    pred = torch.zeros(0, 4, 4, requires_grad=True)
    loss = DiceLoss()(pred, torch.zeros(0, 4, 4), avg_factor=1)
    loss.backward()
    assert loss.item() == 0 and pred.grad.shape == (0, 4, 4)


def test_logits_know_no_softmax():
    with pytest.raises(ValueError, match='use_sigmoid=False'):
        DiceLoss(use_sigmoid=False)
    assert DiceLoss(use_sigmoid=False, activate=False, eps=.25)(SCORES, TARGET).item() == pytest.approx((1 - 3 / 4 + 1) / 2)
