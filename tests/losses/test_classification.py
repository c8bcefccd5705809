"""Losses on class scores, against their formulas and numbers worked out by hand."""
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from detkit.losses.classification import CrossEntropyLoss, FocalLoss, QualityFocalLoss, one_hot
from detkit.registry import MODELS

LN2 = math.log(2)
LOGITS = torch.tensor([[1.2, -.7, .3], [-2., .5, .1], [.4, .6, -1.5], [0., 0., 0.]])
LABELS = torch.tensor([0, 2, 3, 1])            # 3: background


def closed_form_focal(logits: torch.Tensor, labels: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """Eq. 4 and 5 of the paper, element by element."""
    out = torch.zeros_like(logits)
    for i, row in enumerate(logits.tolist()):
        for k, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            p_t, alpha_t = (p, alpha) if labels[i] == k else (1 - p, 1 - alpha)
            out[i, k] = -alpha_t * (1 - p_t)**gamma * math.log(p_t)
    return out


def test_one_hot_leaves_background_empty():
    assert one_hot(LABELS, 3).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]


# -------------------------------------------------------------------------------------------------------------- focal
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.integers(0, 3), st.sampled_from([0., 1., 2., 3.5]), st.floats(0.05, 0.95))
def test_focal_loss_is_the_papers_formula(row: list[float], label: int, gamma: float, alpha: float):
    logits, labels = torch.tensor([row], dtype=torch.float64), torch.tensor([label])
    loss = FocalLoss(gamma=gamma, alpha=alpha, reduction='none')
    expected = closed_form_focal(logits, labels, gamma, alpha)
    assert_close(loss(logits, labels), expected)
    assert_close(loss(logits, one_hot(labels, 3).double()), expected)
    assert_close(FocalLoss(gamma=gamma, alpha=alpha, reduction='none', activated=True)(logits.sigmoid(), labels), expected,
                 atol=1e-6, rtol=1e-4)


def test_focal_loss_reductions_weights_and_factor():
    elements = closed_form_focal(LOGITS, LABELS, 2., .25)
    loss = FocalLoss(loss_weight=3.)
    weight = torch.tensor([1., 0., 2., 1.])
    assert_close(loss(LOGITS, LABELS), 3 * elements.mean())
    assert_close(loss(LOGITS, LABELS, reduction_override='sum'), 3 * elements.sum())
    assert_close(loss(LOGITS, LABELS, weight, avg_factor=5), 3 * (elements * weight[:, None]).sum() / 5)
    assert_close(loss(LOGITS, LABELS, weight[:, None].expand(4, 3), avg_factor=5), 3 * (elements * weight[:, None]).sum() / 5)


def test_the_softmax_forms_of_sigmoid_losses_are_refused():
    for kind in (FocalLoss, QualityFocalLoss):
        with pytest.raises(ValueError, match=rf'{kind.__name__}\(use_sigmoid=False\) is not defined'):
            kind(use_sigmoid=False)


# ------------------------------------------------------------------------------------------------------------ quality focal
def test_quality_focal_loss_by_hand():
    # p = 0.5: a negative costs 0.5^2 ln 2; the label's class, quality 0.9: |0.9 - 0.5|^2 * BCE(0.5, 0.9) = 0.16 ln 2
    loss = QualityFocalLoss(reduction='none')(torch.zeros(2, 3), (torch.tensor([1, 3]), torch.tensor([.9, 0.])))
    assert_close(loss, torch.tensor([2 * .25 * LN2 + .16 * LN2, 3 * .25 * LN2]))


def test_a_prediction_equal_to_its_quality_costs_nothing():
    quality = torch.tensor([.3])
    logits = torch.tensor([[-100., math.log(.3 / .7), -100.]])
    assert QualityFocalLoss()(logits, (torch.tensor([1]), quality)).item() == pytest.approx(0, abs=1e-12)


def test_quality_focal_loss_takes_labels_soft_targets_and_probabilities():
    quality = torch.tensor([.7, .2, 0., .9])
    soft = one_hot(LABELS, 3) * quality[:, None]
    by_label = QualityFocalLoss(reduction='none')(LOGITS, (LABELS, quality))
    p = LOGITS.sigmoid()
    assert_close(by_label, ((soft - p).abs()**2 * F.binary_cross_entropy(p, soft, reduction='none')).sum(1))
    assert_close(QualityFocalLoss(reduction='none')(LOGITS, soft), by_label)
    assert_close(QualityFocalLoss(reduction='none', activated=True)(p, (LABELS, quality)), by_label)
    weight = torch.tensor([1., 2., 0., .5])
    assert_close(QualityFocalLoss(loss_weight=2.)(LOGITS, (LABELS, quality), weight, avg_factor=3), 2 * (by_label * weight).sum() / 3)
    assert_close(QualityFocalLoss()(LOGITS, (LABELS, quality)), by_label.mean())


# -------------------------------------------------------------------------------------------------------- cross entropy
def test_softmax_cross_entropy_by_hand():
    logits = torch.tensor([[0., 0., math.log(2)], [math.log(3), 0., 0.]])          # 2 of 4, 3 of 5
    loss = CrossEntropyLoss(reduction='none')
    assert_close(loss(logits, torch.tensor([2, 1])), torch.tensor([math.log(2), math.log(5)]))
    assert_close(CrossEntropyLoss(loss_weight=2.)(logits, torch.tensor([2, 1]), torch.tensor([1., .5]), avg_factor=4),
                 torch.tensor(2 * (math.log(2) + .5 * math.log(5)) / 4))


def test_class_weights_of_the_softmax():
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 2])
    loss = CrossEntropyLoss(class_weight=[1., 1., .1], reduction='none')(logits, labels)
    assert_close(loss, torch.tensor([math.log(3), .1 * math.log(3)]))


def test_sigmoid_cross_entropy_of_labels_and_targets():
    loss = CrossEntropyLoss(use_sigmoid=True, reduction='none')
    expected = F.binary_cross_entropy(LOGITS.sigmoid(), one_hot(LABELS, 3), reduction='none')
    assert_close(loss(LOGITS, LABELS), expected)
    assert_close(loss(LOGITS, one_hot(LABELS, 3)), expected)
    weight = torch.tensor([1., 0., 2., 1.])
    assert_close(loss(LOGITS, LABELS, weight, reduction_override='sum'), (expected * weight[:, None]).sum())
    assert_close(loss(LOGITS[:, :1], torch.tensor([.2, .9, 0., 1.])),
                 F.binary_cross_entropy(LOGITS[:, 0].sigmoid(), torch.tensor([.2, .9, 0., 1.]), reduction='none'))


def test_proposals_labels_are_zero_and_background_is_one():
    loss = CrossEntropyLoss(use_sigmoid=True, reduction='none')(torch.tensor([[2.], [2.]]), torch.tensor([0, 1]))
    assert_close(loss, torch.tensor([[math.log(1 + math.exp(-2))], [math.log(1 + math.exp(2))]]))


def test_class_weights_of_the_sigmoid_are_of_positive_targets():
    loss = CrossEntropyLoss(use_sigmoid=True, class_weight=[3., 1.], reduction='none')(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert_close(loss, torch.tensor([[3 * LN2, LN2], [LN2, LN2]]))


@pytest.mark.parametrize('use_sigmoid', [False, True])
def test_ignored_labels_cost_nothing_and_may_be_left_out_of_the_mean(use_sigmoid: bool):
    labels = torch.tensor([0, 255, 2, 255])
    counted = CrossEntropyLoss(use_sigmoid=use_sigmoid, ignore_index=255)
    among_others = CrossEntropyLoss(use_sigmoid=use_sigmoid, ignore_index=255, avg_non_ignore=True)
    others = CrossEntropyLoss(use_sigmoid=use_sigmoid)(LOGITS[[0, 2]], labels[[0, 2]])
    assert_close(counted(LOGITS, labels), others / 2)
    assert_close(among_others(LOGITS, labels), others)
    assert_close(among_others(LOGITS, labels, avg_factor=7), counted(LOGITS, labels, avg_factor=7))
    assert_close(CrossEntropyLoss(use_sigmoid=use_sigmoid, avg_non_ignore=True)(LOGITS, labels, ignore_index=255), others)


def test_negative_labels_cost_nothing_with_the_sigmoid():
    loss = CrossEntropyLoss(use_sigmoid=True, reduction='none')(LOGITS, torch.tensor([0, -1, 2, 1]))
    assert loss[1].tolist() == [0, 0, 0]
    assert (loss[[0, 2, 3]] > 0).all()


def test_mask_cross_entropy_is_of_the_labels_mask_alone():
    pred = torch.zeros(2, 3, 2, 2)
    pred[0, 1], pred[1, 2] = 2., -1.
    target = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])
    loss = CrossEntropyLoss(use_mask=True, loss_weight=2.)(pred, target, torch.tensor([1, 2]))
    assert_close(loss, torch.tensor([math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))]))
    weighed = CrossEntropyLoss(use_mask=True, class_weight=[1., 0., 4.])(pred, target, torch.tensor([1, 2]))
    assert_close(weighed, torch.tensor([2 * math.log(1 + math.exp(-1))]))
    assert CrossEntropyLoss(use_mask=True)(pred[:0], target[:0], torch.zeros(0, dtype=torch.long)).tolist() == [0]


def test_sigmoid_and_mask_exclude_each_other():
    with pytest.raises(ValueError, match='use_sigmoid and use_mask exclude each other'):
        CrossEntropyLoss(use_sigmoid=True, use_mask=True)


# ----------------------------------------------------------------------------------------------------------------- all
@pytest.mark.parametrize(('cfg', 'background'), [
    (dict(type='FocalLoss'), False), (dict(type='QualityFocalLoss'), False), (dict(type='CrossEntropyLoss'), True),
    (dict(type='CrossEntropyLoss', use_sigmoid=True), False), (dict(type='CrossEntropyLoss', use_mask=True), False)])
def test_a_loss_says_whether_background_has_a_score(cfg: dict, background: bool):
    assert MODELS.build(cfg).background_channel is background


@pytest.mark.parametrize('loss', [
    FocalLoss(), QualityFocalLoss(), CrossEntropyLoss(), CrossEntropyLoss(use_sigmoid=True),
    CrossEntropyLoss(class_weight=[1., 2., .5])], ids=['focal', 'quality', 'softmax', 'sigmoid', 'weighed softmax'])
def test_gradients_are_right(loss: torch.nn.Module):
    logits = LOGITS.double().requires_grad_()
    labels = LABELS.where(LABELS < 3, 0)
    target = (labels, torch.tensor([.7, .2, .5, .9])) if isinstance(loss, QualityFocalLoss) else labels
    weight = torch.tensor([1., 2., .5, 0.], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, weight, avg_factor=2.5), logits)


@pytest.mark.parametrize('kind', [FocalLoss, QualityFocalLoss, CrossEntropyLoss])
def test_no_rows_cost_nothing(kind: type):
    empty = torch.zeros(0, dtype=torch.long)
    target = (empty, torch.zeros(0)) if kind is QualityFocalLoss else empty
    for avg_factor in (None, 1.):
        assert kind()(torch.zeros(0, 3), target, avg_factor=avg_factor) == 0


def test_distribution_focal_loss_weighs_the_two_nearest_bins():
    loss = MODELS.build(dict(type='DistributionFocalLoss', loss_weight=0.5))
    pred = torch.tensor([[0., 0., 0.], [2., 0., 1.]])
    p = pred.softmax(1)
    by_hand = [-(.75 * p[0, 0].log() + .25 * p[0, 1].log()), -p[1, 1].log()]
    assert loss(pred, torch.tensor([.25, 1.])).item() == pytest.approx(.5 * (by_hand[0] + by_hand[1]).item() / 2, rel=1e-6)
    weighted = loss(pred, torch.tensor([.25, 1.]), torch.tensor([2., 0.]), avg_factor=4)
    assert weighted.item() == pytest.approx(.5 * 2 * by_hand[0].item() / 4, rel=1e-6)
