import pytest
import torch

from detkit.models.query_heads.proposals import best_rows, cell_boxes
from detkit.nn.positional import SinePositionalEncoding
from detkit.nn.tokens import Tokens, flatten_levels


def tokens(*sizes: tuple[int, int], **padding: object) -> Tokens:
    return flatten_levels(tuple(torch.ones(2, 4, *size) for size in sizes), SinePositionalEncoding(2), **padding)


def test_a_cell_proposes_a_square_on_its_middle_twice_as_large_on_each_level():
    found = tokens((2, 4), (1, 2))
    boxes = cell_boxes(found, found.feats)[0].sigmoid()
    torch.testing.assert_close(boxes[0, 1], torch.tensor([3 / 8, 1 / 4, 0.05, 0.05]))
    torch.testing.assert_close(boxes[0, 9], torch.tensor([3 / 4, 1 / 2, 0.1, 0.1]))


def test_cells_at_the_edge_and_in_the_padding_propose_nothing():
    found = tokens((1, 100), sizes=torch.tensor([[32, 3200], [32, 1600]]), input_size=(32, 3200))
    boxes, memory = cell_boxes(found, found.feats)
    there = boxes.isfinite().all(-1)
    assert there[0].sum() == 98 and not there[0, 0] and not there[0, 99]        # middles at 0.005 and 0.995
    assert there[1].sum() == 48 and not there[1, 49:].any()                      # middles at 0.01 and 0.99, then padding
    assert torch.equal(memory[..., 0] > 0, there)


def test_best_rows_come_in_order():
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    rows, = best_rows(scores, 2, torch.tensor([[[1., 2.], [3., 4.], [5., 6.]]]))
    assert rows.tolist() == [[[3., 4.], [5., 6.]]]


def test_more_queries_than_tokens():
    with pytest.raises(ValueError, match='num_queries=4 queries .* this input has only 3. Lower model.num_queries, or use larger images'):
        best_rows(torch.zeros(1, 3), 4, torch.zeros(1, 3, 4))
