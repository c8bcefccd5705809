"""YOLOXPAFPN: both ways through the pyramid."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detkit.models.necks.yolox_pafpn import YOLOXPAFPN
from detkit.registry import ConfigError

CHANNELS = [4, 8, 16]


def maps() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, c, 16 >> i, 24 >> i) for i, c in enumerate(CHANNELS)]


def neck(**cfg: object) -> YOLOXPAFPN:
    torch.manual_seed(0)
    return YOLOXPAFPN(**dict(dict(in_channels=CHANNELS, out_channels=6, num_csp_blocks=1), **cfg)).eval()


def test_down_and_up_again_step_by_step():
    pafpn, (fine, middle, coarse) = neck(), maps()
    top = pafpn.reduce_layers[0](coarse)
    mixed = pafpn.top_down_blocks[0](torch.cat([F.interpolate(top, scale_factor=2), middle], 1))
    side = pafpn.reduce_layers[1](mixed)
    first = pafpn.top_down_blocks[1](torch.cat([F.interpolate(side, scale_factor=2), fine], 1))
    second = pafpn.bottom_up_blocks[0](torch.cat([pafpn.downsamples[0](first), side], 1))
    third = pafpn.bottom_up_blocks[1](torch.cat([pafpn.downsamples[1](second), top], 1))
    outs = pafpn((fine, middle, coarse))
    assert [tuple(o.shape) for o in outs] == [(1, 6, 16, 24), (1, 6, 8, 12), (1, 6, 4, 6)]
    for got, conv, x in zip(outs, pafpn.out_convs, (first, second, third)):
        assert_close(got, conv(x))


def test_options_reach_the_layers():
    assert len(neck(num_csp_blocks=2).top_down_blocks[0].blocks) == 2
    depthwise = neck(use_depthwise=True).state_dict()
    assert {'downsamples.0.depthwise_conv.conv.weight', 'top_down_blocks.0.blocks.0.conv2.depthwise_conv.conv.weight',
            'out_convs.0.conv.weight', 'reduce_layers.1.conv.weight'} <= set(depthwise)
    assert depthwise['out_convs.0.conv.weight'].shape == (6, 4, 1, 1)
    bilinear = neck(upsample_cfg=dict(scale_factor=2, mode='bilinear'))
    bilinear.load_state_dict(neck().state_dict())
    assert (bilinear(maps())[0] - neck()(maps())[0]).abs().max() > 1e-3


def test_blocks_have_no_shortcuts():
    assert all(layer.blocks[0].add is None for layer in (*neck().top_down_blocks, *neck().bottom_up_blocks))


def test_another_number_of_maps_is_refused():
    with pytest.raises(ConfigError, match='YOLOXPAFPN in_channels has 3 entries; the backbone gives 2 maps'):
        neck()(maps()[:2])
