"""Losses on boxes, by hand."""
from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from detkit.losses.regression import (
    BalancedL1Loss,
    BoundedIoULoss,
    CIoULoss,
    DIoULoss,
    GIoULoss,
    IoULoss,
    L1Loss,
    MSELoss,
    SmoothL1Loss,
)

COORDINATE = [L1Loss, SmoothL1Loss, MSELoss, BalancedL1Loss]
OVERLAP = [IoULoss, GIoULoss, DIoULoss, CIoULoss, BoundedIoULoss]
# IoU 1/3 with a hull of exactly the union; and two boxes apart, union 200, hull 900
PRED = torch.tensor([[0., 0., 10., 10.], [0., 0., 10., 10.]])
TARGET = torch.tensor([[5., 0., 15., 10.], [20., 20., 30., 30.]])


def elements(loss: torch.nn.Module, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return loss(pred, target, reduction_override='none')


@pytest.mark.parametrize(('loss', 'expected'), [
    (L1Loss(), [0., .5, 1., 3.]), (MSELoss(), [0., .25, 1., 9.]), (SmoothL1Loss(), [0., .125, .5, 2.5]),
    (SmoothL1Loss(beta=.5), [0., .25, .75, 2.75]), (SmoothL1Loss(beta=2.), [0., .0625, .25, 2.])])
def test_coordinate_losses_by_hand(loss: torch.nn.Module, expected: list[float]):
    differences = torch.tensor([[0., .5, -1., 3.]])
    assert_close(elements(loss, differences, torch.zeros(1, 4)), torch.tensor([expected]))
    assert_close(elements(loss, torch.zeros(1, 4), differences), torch.tensor([expected]))


def test_balanced_l1_by_the_papers_equations():
    """Eq. 9: alpha / b (b x + 1) ln(b x + 1) - alpha x below 1, gamma x + C above, continuous, with slope gamma from 1 on."""
    alpha, gamma = .5, 1.5
    b = math.exp(gamma / alpha) - 1
    loss = BalancedL1Loss(alpha, gamma)
    x = torch.tensor([[.25, 1 - 1e-6, 1., 3.]])
    expected = alpha / b * (b * .25 + 1) * math.log(b * .25 + 1) - alpha * .25
    got = elements(loss, x, torch.zeros(1, 4))[0]
    assert got[0].item() == pytest.approx(expected, rel=1e-5)
    assert got[1].item() == pytest.approx(got[2].item(), abs=1e-4)
    assert (got[3] - got[2]).item() == pytest.approx(2 * gamma, rel=1e-5)


@pytest.mark.parametrize(('loss', 'expected'), [
    (IoULoss(), [math.log(3), -math.log(1e-6)]), (IoULoss(mode='linear'), [2 / 3, 1 - 1e-6]), (IoULoss(linear=True), [2 / 3, 1 - 1e-6]),
    (IoULoss(mode='square'), [8 / 9, 1.]), (GIoULoss(), [2 / 3, 1 + 700 / 900]), (DIoULoss(), [2 / 3 + 25 / 325, 1 + 800 / 1800]),
    (CIoULoss(), [2 / 3 + 25 / 325, 1 + 800 / 1800])])
def test_overlap_losses_by_hand(loss: torch.nn.Module, expected: list[float]):
    assert_close(elements(loss, PRED, TARGET), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_bounded_iou_by_hand():
    # shift 5 in x: 1 - (10 - 10) / (10 + 10) = 1 -> smooth L1 with beta 0.2: 0.9; nothing in y; equal sizes
    assert_close(elements(BoundedIoULoss(beta=.2), PRED[:1], TARGET[:1]), torch.tensor([[.9, 0., 0., 0.]]), atol=1e-4, rtol=0)
    half_as_wide = torch.tensor([[2.5, 0., 7.5, 10.]])       # centred: 1 - 5 / 10 = 0.5 -> 0.4
    assert_close(elements(BoundedIoULoss(beta=.2), half_as_wide, PRED[:1]), torch.tensor([[0., 0., .4, 0.]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize('kind', COORDINATE + OVERLAP)
def test_equal_boxes_cost_nothing(kind: type):
    assert kind()(PRED, PRED.clone()).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('kind', COORDINATE)
def test_reductions_of_coordinate_losses(kind: type):
    each = elements(kind(), PRED, TARGET)
    weight = torch.tensor([[1.], [.5]]).expand(2, 4)
    assert_close(kind()(PRED, TARGET), each.mean())
    assert_close(kind(loss_weight=2.)(PRED, TARGET, avg_factor=4), 2 * each.sum() / 4)
    assert_close(kind(reduction='sum')(PRED, TARGET, weight), (each * weight).sum())
    assert_close(kind()(PRED, TARGET, weight, avg_factor=4), (each * weight).sum() / 4)


@pytest.mark.parametrize('kind', OVERLAP)
def test_reductions_of_overlap_losses(kind: type):
    each = elements(kind(), PRED, TARGET)
    rows = torch.tensor([1., .5])
    weighed = each * (rows if each.dim() == 1 else rows[:, None])
    assert_close(kind()(PRED, TARGET), each.mean())
    assert_close(kind(loss_weight=2.)(PRED, TARGET, rows, avg_factor=4), 2 * weighed.sum() / 4)
    assert_close(kind(reduction='sum')(PRED, TARGET, rows[:, None].expand(2, 4)), weighed.sum())   # a row's weights are equal


@pytest.mark.parametrize('kind', COORDINATE + OVERLAP)
@pytest.mark.parametrize('avg_factor', [None, 1.])
def test_no_boxes_cost_nothing(kind: type, avg_factor: float | None):
    pred = torch.zeros(0, 4, requires_grad=True)
    loss = kind()(pred, torch.zeros(0, 4), avg_factor=avg_factor)
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize('kind', COORDINATE + OVERLAP)
def test_gradients_are_right(kind: type):
    torch.manual_seed(0)
    target = torch.tensor([[5., 1., 15., 12.], [2., 22., 31., 29.], [0., 0., 4., 4.]], dtype=torch.float64)
    pred = (target + torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    weight = torch.tensor([1., .5, 2.], dtype=torch.float64)
    weight = weight[:, None].expand(3, 4) if kind in COORDINATE else weight
    if kind is CIoULoss:       # its trade-off is held constant, as in the paper: differences would see it move
        kind()(pred, target, weight).backward()
        assert torch.isfinite(pred.grad).all()
        return
    assert torch.autograd.gradcheck(lambda x: kind()(x, target, weight, avg_factor=2.), pred)


def test_gradients_of_boxes_without_area_are_finite():
    for kind in OVERLAP:
        pred = torch.tensor([[3., 3., 3., 3.]], requires_grad=True)
        kind()(pred, torch.tensor([[0., 0., 10., 10.]])).backward()
        assert torch.isfinite(pred.grad).all()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match='SmoothL1Loss beta=0 must be positive; L1Loss is its limit'):
        SmoothL1Loss(beta=0)
    with pytest.raises(ValueError, match="IoULoss mode 'cubic' is unknown. Known: linear, square, log"):
        IoULoss(mode='cubic')
