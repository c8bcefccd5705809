import torch

from detkit.nn.positional import SinePositionalEncoding
from detkit.nn.tokens import cells_inside, flatten_levels

ENCODING = SinePositionalEncoding(2, normalize=True)


def test_maps_become_rows_after_rows():
    fine, coarse = torch.arange(24.).view(1, 4, 2, 3), torch.zeros(1, 4, 1, 1)
    tokens = flatten_levels((fine, coarse), ENCODING, torch.tensor([[0.] * 4, [9.] * 4]))
    assert tokens.feats[0, :6, 0].tolist() == [0., 1., 2., 3., 4., 5.]
    assert tokens.shapes == [(2, 3), (1, 1)] and tokens.padding is None
    torch.testing.assert_close(tokens.centers[0, [0, 5, 6]], torch.tensor([[1 / 6, 1 / 4], [5 / 6, 3 / 4], [0.5, 0.5]]))
    assert (tokens.pos[0, 6] > 7).all() and (tokens.pos[0, :6] <= 1).all()       # the second level's own vector
    assert torch.equal(tokens.references(), tokens.centers[:, :, None].expand(-1, -1, 2, -1))


def test_a_cell_is_padding_when_its_first_pixel_is():
    assert cells_inside(torch.tensor([64, 33, 32, 1]), 64, 4).sum(1).tolist() == [4, 3, 2, 1]


def test_padding_and_places_in_a_batch_of_two_sizes():
    feats = (torch.randn(2, 4, 2, 4),)
    tokens = flatten_levels(feats, ENCODING, None, torch.tensor([[64, 128], [32, 96]]), (64, 128))
    assert tokens.padding.view(2, 2, 4)[1].tolist() == [[False, False, False, True], [True] * 4]
    assert not tokens.padding[0].any()
    torch.testing.assert_close(tokens.ratios[:, 0], torch.tensor([[1., 1.], [0.75, 0.5]]))
    torch.testing.assert_close(tokens.centers[1, 2], torch.tensor([2.5 / 3, 0.5]))           # a share of the image
    torch.testing.assert_close(tokens.references()[1, 2, 0], torch.tensor([2.5 / 4, 0.25]))  # of the padded map
