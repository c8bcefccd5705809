"""CSP layers: names, shapes and what each path does."""
from __future__ import annotations

import torch
from torch.testing import assert_close

from detkit.nn.csp import ChannelAttention, CSPLayer, CSPNeXtBlock

OPTIONS = dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='SiLU'))


def test_the_gate_sees_the_channels_means():
    gate = ChannelAttention(2)
    with torch.no_grad():
        gate.fc.weight.copy_(torch.eye(2)[:, :, None, None])
        gate.fc.bias.zero_()
    x = torch.stack([torch.full((2, 2), 3.), torch.full((2, 2), -3.)])[None]   # hard sigmoid of 3 and -3: 1 and 0
    assert_close(gate(x), torch.stack([torch.full((2, 2), 3.), torch.zeros(2, 2)])[None])
    assert_close(gate(torch.ones(1, 2, 3, 3)), torch.full((1, 2, 3, 3), 4 / 6))


def test_a_blocks_shortcut():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 6)
    block = CSPNeXtBlock(4, True, False, **OPTIONS).eval()
    plain = CSPNeXtBlock(4, False, False, **OPTIONS).eval()
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
