import pytest
import torch

from detkit.nn.ms_deform_attn import MultiScaleDeformableAttention
from detkit.registry import ConfigError

SHAPES = [(4, 6), (2, 3)]


def layer(**options: object) -> MultiScaleDeformableAttention:
    torch.manual_seed(0)
    return MultiScaleDeformableAttention(**dict(embed_dims=8, num_heads=2, num_levels=2, num_points=2) | options).eval()


def test_heads_start_by_looking_in_opposite_directions_a_cell_further_with_each_point():
    offsets = layer().sampling_offsets.bias.view(2, 2, 2, 2)                     # heads, levels, points, x y
    torch.testing.assert_close(offsets[0, 0], torch.tensor([[1., 0.], [2., 0.]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[1, 1], torch.tensor([[-1., 0.], [-2., 0.]]), atol=1e-6, rtol=0)
    assert layer().attention_weights.weight.abs().sum() == 0


def test_a_point_is_offset_in_cells_and_from_a_box_in_halves_of_it():
    attention, memory = layer(dropout=0.), torch.randn(1, 30, 8)
    query, point = torch.zeros(1, 1, 8), torch.full((1, 1, 2, 2), 0.5)
    box = torch.cat([point, torch.tensor([4 / 6, 4 / 4]).expand(1, 1, 2, 2)], -1)
    box[..., 1, 2:] = torch.tensor([4 / 3, 4 / 2])                               # 4 cells wide on each level: a point's offset is a cell
    by_point = attention(query, memory, None, point, SHAPES)
    torch.testing.assert_close(attention(query, memory, None, box, SHAPES), by_point)


def test_nothing_is_seen_in_the_padding():
    attention, memory, where = layer(), torch.randn(1, 30, 8), torch.rand(1, 5, 2, 2)
    padding = torch.zeros(1, 30, dtype=torch.bool)
    padding[:, 3::6] = True
    query, other = torch.randn(1, 5, 8), memory.clone()
    other[padding] = 1e3
    assert torch.equal(attention(query, memory, None, where, SHAPES, padding), attention(query, other, None, where, SHAPES, padding))


def test_another_number_of_maps_is_refused():
    with pytest.raises(ConfigError, match='num_levels=2, but is given 1 feature maps. .*num_feature_levels.*num_outs must agree'):
        layer()(torch.zeros(1, 1, 8), torch.zeros(1, 24, 8), None, torch.zeros(1, 1, 1, 2), SHAPES[:1])


def test_arguments_that_cannot_be():
    with pytest.raises(ConfigError, match='embed_dims=9 is not divisible by num_heads=2'):
        layer(embed_dims=9)
    with pytest.raises(ConfigError, match='batch_first=False is not supported'):
        layer(batch_first=False)
