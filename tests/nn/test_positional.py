import math

import pytest
import torch

from detkit.nn.positional import LearnedPositionalEncoding, SinePositionalEncoding, build_encoding, sines
from detkit.registry import ConfigError

CPU = torch.device('cpu')


def test_sines_of_two_waves():
    got = sines(torch.tensor([0.25]), 4, temperature=100, scale=2 * math.pi)         # a quarter turn, and a fortieth
    want = [1., 0., math.sin(math.pi / 20), math.cos(math.pi / 20)]
    torch.testing.assert_close(got[0], torch.tensor(want), atol=1e-6, rtol=0)


def test_row_comes_before_column():
    pos = SinePositionalEncoding(2, normalize=True)((2, 4), CPU)
    assert pos.shape == (1, 2, 4, 4)
    torch.testing.assert_close(pos[0, 0, 0], torch.tensor([0., -1., 1., 0.]), atol=1e-5, rtol=0)   # row 1 of 2: half a turn; column 1 of 4


def test_cells_are_counted_as_they_are_without_normalize():
    pos = SinePositionalEncoding(2)((1, 3), CPU)
    torch.testing.assert_close(pos[0, 0, :, 2], torch.tensor([1., 2., 3.]).sin())


def test_offset_moves_to_the_middle_of_the_cell():
    pos = SinePositionalEncoding(2, normalize=True, offset=-0.5)((1, 4), CPU)
    torch.testing.assert_close(pos[0, 0, 0, 2:], torch.tensor([math.pi / 4]).sin().expand(2), atol=1e-5, rtol=0)   # an eighth of a turn


def test_an_images_code_does_not_depend_on_its_padding():
    encoding = SinePositionalEncoding(8, normalize=True, offset=-0.5)
    alone, padded = encoding((3, 5), CPU), encoding((6, 9), CPU, torch.tensor([[5., 3.], [9., 6.]]))
    torch.testing.assert_close(padded[:1, :3, :5], alone)
    torch.testing.assert_close(padded[1:], encoding((6, 9), CPU))


def test_a_learnt_code_is_column_then_row():
    encoding = LearnedPositionalEncoding(2, row_num_embed=3, col_num_embed=4)
    pos = encoding((3, 4), CPU)
    assert torch.equal(pos[0, 2, 1], torch.cat([encoding.col_embed.weight[1], encoding.row_embed.weight[2]]))
    with pytest.raises(ValueError, match=r'a map of 4x4 cells exceeds LearnedPositionalEncoding\(row_num_embed=3, col_num_embed=4\)'):
        encoding((4, 4), CPU)


def test_an_encoding_has_the_networks_channels():
    assert isinstance(build_encoding(dict(type='LearnedPositionalEncoding', num_feats=4), 8), LearnedPositionalEncoding)
    with pytest.raises(ConfigError, match='num_feats=4 must be half of the embed_dims=16'):
        build_encoding(dict(num_feats=4), 16)
