import pytest
import torch

from detkit.tasks.query_boxes import SigmoidBoxes, inverse_sigmoid


def test_no_change_gives_the_reference():
    reference = torch.tensor([[0.2, 0.7, 0.1, 0.9]])
    torch.testing.assert_close(SigmoidBoxes()(torch.zeros(1, 4), reference), reference)


def test_a_point_moves_the_centre_alone():
    assert SigmoidBoxes()(torch.zeros(1, 4), torch.tensor([[0.2, 0.7]]))[0].tolist() == pytest.approx([0.2, 0.7, 0.5, 0.5])


def test_references_at_the_edge_stay_movable():
    edge = torch.tensor([0., 1.])
    assert torch.isfinite(inverse_sigmoid(edge)).all()
    assert inverse_sigmoid(edge, 1e-3).sigmoid().tolist() == pytest.approx([1e-3, 1 - 1e-3], abs=1e-5)
