"""Global context: mmcv's parameter names, its identity at the start, the weighted mean."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.nn.context_block import ContextBlock
from detkit.registry import ConfigError


def test_parameter_names_are_mmcvs():
    layers = {'0.weight': (2, 8, 1, 1), '0.bias': (2,), '1.weight': (2, 1, 1), '1.bias': (2, 1, 1), '3.weight': (8, 2, 1, 1),
              '3.bias': (8,)}
    block = ContextBlock(8, 1 / 4, fusion_types=('channel_add', 'channel_mul'))
    shapes = {key: tuple(value.shape) for key, value in block.state_dict().items()}
    assert shapes == {'conv_mask.weight': (1, 8, 1, 1), 'conv_mask.bias': (1,)} | {
        f'{name}_conv.{key}': shape for name in ('channel_add', 'channel_mul') for key, shape in layers.items()}
    assert set(ContextBlock(8, 1 / 4, 'avg').state_dict()) == {f'channel_add_conv.{key}' for key in layers}


def test_at_first_nothing_is_added_and_the_product_halves():
    x = torch.randn(2, 8, 5, 6)
    assert_close(ContextBlock(8, 1 / 4)(x), x)
    assert_close(ContextBlock(8, 1 / 4, fusion_types=('channel_mul',))(x), x / 2)
    assert_close(ContextBlock(8, 1 / 4, fusion_types=('channel_add', 'channel_mul'))(x), x / 2)


def test_the_context_is_a_mean_weighted_by_attention():
    x = torch.tensor([[[[0., 0.], [0., 30.]], [[1., 2.], [3., 4.]]]])
    block = ContextBlock(2, 1.)
    block.conv_mask.weight.data = torch.tensor([1., 0.]).reshape(1, 2, 1, 1)
    assert_close(block.context(x), torch.tensor([30., 4.]).reshape(1, 2, 1, 1))          # all of the last place
    block.conv_mask.weight.data.zero_()
    assert_close(block.context(x), torch.tensor([7.5, 2.5]).reshape(1, 2, 1, 1))
    assert_close(ContextBlock(2, 1., 'avg').context(x), torch.tensor([7.5, 2.5]).reshape(1, 2, 1, 1))


def test_each_place_gets_the_same_vector():
    torch.manual_seed(0)
    block, x = ContextBlock(4, 0.5), torch.randn(1, 4, 3, 5)
    torch.nn.init.normal_(block.channel_add_conv[3].weight)
    added = (block(x) - x).flatten(2)
    assert_close(added, added[..., :1].expand_as(added), atol=1e-5, rtol=0)
    assert_close(added[..., :1, None], block.channel_add_conv(block.context(x)), atol=1e-5, rtol=0)


@pytest.mark.parametrize('options', [dict(pooling_type='max'), dict(fusion_types=()), dict(fusion_types=('channel_sub',))])
def test_other_forms_are_refused(options: dict):
    with pytest.raises(ConfigError, match='must be one of att, avg, and fusion_types='):
        ContextBlock(8, 1 / 4, **options)
