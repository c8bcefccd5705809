"""Focal loss: worked out by hand, at extreme logits, and in pieces."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.ops.focal_loss import sigmoid_focal_loss


def test_focal_loss_by_hand():
    # p = 0.5 everywhere: background (1 - 0.25) * 0.25 * ln 2, object 0.25 * 0.25 * ln 2
    loss = sigmoid_focal_loss(torch.zeros(2, 2), torch.tensor([1, 2]))
    negative, positive = 0.75 * 0.25 * 0.6931472, 0.25 * 0.25 * 0.6931472
    assert_close(loss, torch.tensor([negative + positive, 2 * negative]))


def test_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    for label in (0, 1, 2):
        loss = sigmoid_focal_loss(logits, torch.tensor([label]))
        assert torch.isfinite(loss).all()
        assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


def test_focal_loss_of_no_priors():
    assert sigmoid_focal_loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_focal_loss_gradient():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3])
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, labels, 1.5, 0.3), logits)


def test_focal_loss_in_pieces_is_focal_loss(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)      # in float64: kernels round single elements and vectors of them differently in the last digits
    logits, labels = torch.randn(50, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (50,))
    whole = sigmoid_focal_loss(logits, labels)
    slope = torch.autograd.grad(whole.sum(), logits)[0]
    monkeypatch.setattr('detkit.ops.focal_loss.CACHED', 21)
    assert_close(sigmoid_focal_loss(logits, labels), whole, atol=0, rtol=1e-6)
    assert_close(torch.autograd.grad(sigmoid_focal_loss(logits, labels).sum(), logits)[0], slope, atol=0, rtol=1e-6)
