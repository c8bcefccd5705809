"""CSP layers: names, shapes and what each path does."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.nn.csp import ChannelAttention, CSPLayer, CSPNeXtBlock, DarknetBottleneck, SPPBottleneck
from detkit.registry import ConfigError

OPTIONS = dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='SiLU'))


def test_the_gate_sees_the_channels_means():
    gate = ChannelAttention(2)
    with torch.no_grad():
        gate.fc.weight.copy_(torch.eye(2)[:, :, None, None])
        gate.fc.bias.zero_()
    x = torch.stack([torch.full((2, 2), 3.), torch.full((2, 2), -3.)])[None]   # hard sigmoid of 3 and -3: 1 and 0
    assert_close(gate(x), torch.stack([torch.full((2, 2), 3.), torch.zeros(2, 2)])[None])
    assert_close(gate(torch.ones(1, 2, 3, 3)), torch.full((1, 2, 3, 3), 4 / 6))


@pytest.mark.parametrize('kind', [CSPNeXtBlock, DarknetBottleneck])
def test_a_blocks_shortcut(kind: type[nn.Module]):
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 6)
    block = kind(4, True, False, **OPTIONS).eval()
    plain = kind(4, False, False, **OPTIONS).eval()
    plain.load_state_dict(block.state_dict())
    assert_close(block(x), plain(x) + x)


def test_a_layer_joins_two_paths():
    torch.manual_seed(0)
    layer = CSPLayer(6, 8, 0.5, num_blocks=2, channel_attention=True, **OPTIONS).eval()
    x = torch.randn(2, 6, 5, 5)
    joined = torch.cat([layer.blocks(layer.main_conv(x)), layer.short_conv(x)], 1)
    assert joined.shape == (2, 8, 5, 5)
    assert_close(layer(x), layer.final_conv(layer.attention(joined)))


def test_names_are_mmdetections():
    layer = CSPLayer(6, 8, num_blocks=1, use_depthwise=True, channel_attention=True, **OPTIONS)
    heads = {'.'.join(k.split('.')[:-1]) for k in layer.state_dict() if k.endswith('weight') and '.bn.' not in k}
    assert heads == {'main_conv.conv', 'short_conv.conv', 'final_conv.conv', 'attention.fc',
                     'blocks.0.conv1.depthwise_conv.conv', 'blocks.0.conv1.pointwise_conv.conv',
                     'blocks.0.conv2.depthwise_conv.conv', 'blocks.0.conv2.pointwise_conv.conv'}
    assert not any('attention' in k for k in CSPLayer(6, 8, **OPTIONS).state_dict())


def test_a_layer_of_darknet_blocks():
    layer = CSPLayer(6, 8, num_blocks=1, use_depthwise=True, block=DarknetBottleneck, **OPTIONS)
    convs = {k: tuple(v.shape) for k, v in layer.blocks.state_dict().items() if k.endswith('conv.weight')}
    assert convs == {'0.conv1.conv.weight': (4, 4, 1, 1), '0.conv2.depthwise_conv.conv.weight': (4, 1, 3, 3),
                     '0.conv2.pointwise_conv.conv.weight': (4, 4, 1, 1)}


def test_pyramid_pooling_joins_pools_of_several_sizes():
    torch.manual_seed(0)
    pool = SPPBottleneck(4, 6, (3, 7), norm_cfg=dict(type='BN')).eval()
    y = pool.conv1(x := torch.randn(1, 4, 9, 8))
    joined = torch.cat([y, nn.functional.max_pool2d(y, 3, 1, 1), nn.functional.max_pool2d(y, 7, 1, 3)], 1)
    assert_close(pool(x), pool.conv2(joined), rtol=0, atol=0)


@pytest.mark.parametrize('sizes', [(5, 3), (4, 8)])
def test_pools_must_be_odd_and_ascend(sizes: tuple[int, int]):
    with pytest.raises(ConfigError, match=rf'odd and ascend, not \({sizes[0]}, {sizes[1]}\)'):
        SPPBottleneck(4, 6, sizes)
