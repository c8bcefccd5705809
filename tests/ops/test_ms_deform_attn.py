import pytest
import torch
from torch import Tensor

from detkit.ops.ms_deform_attn import ByBag, by_grid_sample, ms_deform_attn

SHAPES = [(5, 7), (3, 2), (1, 1)]


def inputs(seed: int = 0, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor, Tensor]:
    """Values, places (some of them outside), weights of 2 images, 6 queries, 3 heads, 2 points a level."""
    g = torch.Generator().manual_seed(seed)
    cells = sum(h * w for h, w in SHAPES)
    value = torch.randn(2, cells, 3, 4, generator=g, dtype=dtype)
    locations = torch.rand(2, 6, 3, 3, 2, 2, generator=g, dtype=dtype) * 1.6 - 0.3
    return value, locations, torch.rand(2, 6, 3, 3, 2, generator=g, dtype=dtype)


def test_a_point_between_four_cells_is_their_weighted_mean():
    value = torch.tensor([1., 2., 3., 4.]).view(1, 4, 1, 1)              # 1 2 / 3 4, cell middles at 0.25 and 0.75
    places = torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.75, 0.5], [0., 0.25], [-0.5, 0.5]]).view(1, 5, 1, 1, 1, 2)
    seen = ms_deform_attn(value, [(2, 2)], places, torch.full((1, 5, 1, 1, 1), 2.))
    assert seen.flatten().tolist() == [2., 5., 6., 1., 0.]               # at the left edge half of the 1 and half of nothing


def test_weights_sum_over_levels_and_points():
    value = torch.tensor([1., 10.]).view(1, 2, 1, 1)                     # two levels of one cell
    places = torch.full((1, 1, 1, 2, 2, 2), 0.5)
    weights = torch.tensor([[1., 2.], [3., 4.]]).view(1, 1, 1, 2, 2)
    assert ms_deform_attn(value, [(1, 1), (1, 1)], places, weights).item() == 73.


def test_both_forms_give_the_same_numbers_and_gradients():
    results = []
    for form in (by_grid_sample, ByBag.apply):
        value, locations, weights = (x.requires_grad_() for x in inputs())
        out = form(value, SHAPES, locations, weights)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype))
        results.append((out.detach(), value.grad, locations.grad, weights.grad))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_that_of_the_numbers():
    tensors = tuple(x.requires_grad_() for x in inputs())
    assert torch.autograd.gradcheck(lambda value, locations, weights: ms_deform_attn(value, SHAPES, locations, weights), tensors)


@pytest.mark.parametrize('place', [float('nan'), float('inf'), -1e30])
def test_a_place_that_is_none_spoils_its_own_query_at_most(place: float):
    value, locations, weights = inputs()
    want = ms_deform_attn(value, SHAPES, locations, weights)
    locations[0, 2] = place
    got = ms_deform_attn(value, SHAPES, locations.requires_grad_(), weights)
    got.sum().backward()
    others = torch.ones(2, 6, dtype=torch.bool)
    others[0, 2] = False
    assert torch.equal(got[others], want[others])
    assert got[0, 2].isnan().all() if place != place else got[0, 2].abs().sum() == 0


def test_bfloat16_values_are_summed_in_float32():
    value, locations, weights = inputs(dtype=torch.float32)
    got = ms_deform_attn(value.bfloat16(), SHAPES, locations, weights)
    want = ms_deform_attn(value.bfloat16().float(), SHAPES, locations, weights)
    assert got.dtype == torch.bfloat16 and torch.equal(got, want.bfloat16())
