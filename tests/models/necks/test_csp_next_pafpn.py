"""CSPNeXtPAFPN: both ways through the pyramid."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detkit.models.necks.csp_next_pafpn import CSPNeXtPAFPN
from detkit.registry import ConfigError

CHANNELS = [4, 8, 16]


def maps() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, c, 16 >> i, 24 >> i) for i, c in enumerate(CHANNELS)]


def neck(**cfg: object) -> CSPNeXtPAFPN:
    torch.manual_seed(0)
    return CSPNeXtPAFPN(**dict(dict(in_channels=CHANNELS, out_channels=6, num_csp_blocks=1), **cfg)).eval()


def test_every_map_keeps_its_size():
    assert [tuple(o.shape) for o in neck()(maps())] == [(1, 6, 16, 24), (1, 6, 8, 12), (1, 6, 4, 6)]


def test_down_and_up_again_step_by_step():
    pafpn, (fine, middle, coarse) = neck(), maps()
    top = pafpn.reduce_layers[0](coarse)
    mixed = pafpn.top_down_blocks[0](torch.cat([F.interpolate(top, scale_factor=2), middle], 1))
    side = pafpn.reduce_layers[1](mixed)
    first = pafpn.top_down_blocks[1](torch.cat([F.interpolate(side, scale_factor=2), fine], 1))
    second = pafpn.bottom_up_blocks[0](torch.cat([pafpn.downsamples[0](first), side], 1))
    third = pafpn.bottom_up_blocks[1](torch.cat([pafpn.downsamples[1](second), top], 1))
    for got, conv, x in zip(pafpn((fine, middle, coarse)), pafpn.out_convs, (first, second, third)):
        assert_close(got, conv(x))


def test_options_reach_the_layers():
    assert len(neck(num_csp_blocks=2).top_down_blocks[0].blocks) == 2
    assert 'downsamples.0.depthwise_conv.conv.weight' in neck(use_depthwise=True).state_dict()
    assert not any('attention' in k for k in neck().state_dict())
    bilinear = neck(upsample_cfg=dict(scale_factor=2, mode='bilinear'))
    bilinear.load_state_dict(neck().state_dict())
    assert (bilinear(maps())[0] - neck()(maps())[0]).abs().max() > 1e-3


def test_another_number_of_maps_is_refused():
    with pytest.raises(ConfigError, match='CSPNeXtPAFPN in_channels has 3 entries; the backbone gives 2 maps'):
        neck()(maps()[:2])
