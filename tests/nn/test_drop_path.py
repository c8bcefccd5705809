"""Stochastic depth."""
from __future__ import annotations

import torch

from detkit.nn.drop_path import DropPath


def test_whole_samples_are_left_out_and_the_others_scaled_up():
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(4000, 2, 3))
    values = out.flatten(1)
    assert torch.equal(values, values[:, :1].expand(-1, 6))             # a sample is in or out as a whole
    assert set(values.unique().tolist()) == {0., torch.tensor(1 / 0.75).item()}
    assert abs((values[:, 0] == 0).float().mean() - 0.25) < 0.03


def test_nothing_happens_in_evaluation_or_without_probability():
    x = torch.randn(3, 5)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.).train()(x) is x


def test_an_input_of_another_precision_keeps_it():
    assert DropPath(0.5).train()(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
