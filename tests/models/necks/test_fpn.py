"""FPN: the top-down sum by hand, and where extra levels come from."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detkit.models.necks.fpn import FPN
from detkit.registry import ConfigError

CHANNELS = [2, 3, 4, 5]


def maps(size: int = 32) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, c, size >> i, size >> i) for i, c in enumerate(CHANNELS)]


def neck(**cfg: object) -> FPN:
    torch.manual_seed(0)
    return FPN(**dict(dict(in_channels=CHANNELS, out_channels=6, num_outs=5), **cfg))


def test_levels_halve():
    assert [tuple(o.shape[1:]) for o in neck()(maps())] == [(6, 32, 32), (6, 16, 16), (6, 8, 8), (6, 4, 4), (6, 2, 2)]
    assert [o.shape[-1] for o in neck(start_level=1, add_extra_convs='on_input')(maps())] == [16, 8, 4, 2, 1]
    assert [o.shape[-1] for o in neck(start_level=1, end_level=2, num_outs=2)(maps())] == [16, 8]


def test_the_top_down_sum():
    fpn, feats = neck(num_outs=4), maps()
    lateral = [conv(x) for conv, x in zip(fpn.lateral_convs, feats)]
    for i in (3, 2, 1):
        lateral[i - 1] = lateral[i - 1] + lateral[i].repeat_interleave(2, 2).repeat_interleave(2, 3)
    for got, conv, x in zip(fpn(feats), fpn.fpn_convs, lateral):
        assert_close(got, conv(x))


def test_odd_sizes_are_met():
    feats = [torch.randn(1, c, h, w) for c, (h, w) in zip(CHANNELS, [(25, 19), (13, 10), (7, 5), (4, 3)])]
    assert [tuple(o.shape[-2:]) for o in neck(num_outs=4)(feats)] == [(25, 19), (13, 10), (7, 5), (4, 3)]


def test_a_scale_factor_takes_the_place_of_the_size():
    bilinear = neck(num_outs=4, upsample_cfg=dict(scale_factor=2, mode='bilinear'))
    feats = maps()
    lateral = [conv(x) for conv, x in zip(bilinear.lateral_convs, feats)]
    assert_close(bilinear(feats)[2], bilinear.fpn_convs[2](lateral[2] + F.interpolate(lateral[3], scale_factor=2, mode='bilinear')))


def test_extra_levels_are_pools_or_convolutions_of_their_source():
    feats = maps()
    pooled = neck(num_outs=6)(feats)
    assert_close(pooled[4], pooled[3][..., ::2, ::2])
    assert_close(pooled[5], pooled[4][..., ::2, ::2])
    for source in ('on_input', True, 'on_lateral', 'on_output'):
        fpn = neck(num_outs=6, add_extra_convs=source)
        outs = fpn(feats)
        first = {'on_lateral': fpn.lateral_convs[3](feats[3]), 'on_output': outs[3]}.get(source, feats[3])
        assert_close(outs[4], fpn.fpn_convs[4](first))
        assert_close(outs[5], fpn.fpn_convs[5](outs[4]))


def test_relu_stands_between_extra_convolutions_only():
    fpn, feats = neck(num_outs=6, add_extra_convs='on_output', relu_before_extra_convs=True), maps()
    outs = fpn(feats)
    assert (outs[4] < 0).any()
    assert_close(outs[4], fpn.fpn_convs[4](outs[3]))
    assert_close(outs[5], fpn.fpn_convs[5](outs[4].relu()))


def test_names_norms_and_activations():
    fpn = neck(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'), no_norm_on_lateral=True)
    keys = fpn.state_dict()
    assert 'lateral_convs.0.conv.bias' in keys
    assert 'lateral_convs.0.bn.weight' not in keys
    assert 'fpn_convs.0.bn.weight' in keys
    assert all((o >= 0).all() for o in fpn(maps()))
    assert 'fpn_convs.3.conv.weight' in neck().state_dict()
    assert 'fpn_convs.4.conv.weight' not in neck().state_dict()       # a pool has no weights


def test_inputs_are_left_as_they_were():
    feats = maps()
    before = [x.clone() for x in feats]
    neck(act_cfg=dict(type='ReLU'), add_extra_convs='on_input', num_outs=6, relu_before_extra_convs=True)(feats)
    for x, kept in zip(feats, before):
        assert torch.equal(x, kept)


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(num_outs=3), 'FPN num_outs=3 does not fit the 4 backbone maps it uses '
                       '(in_channels=[2, 3, 4, 5], start_level=0, end_level=-1): it must be no fewer.'),
    (dict(end_level=2, num_outs=4), 'FPN num_outs=4 does not fit the 3 backbone maps it uses'),
    (dict(add_extra_convs='on_outputs'), "FPN add_extra_convs='on_outputs' is unknown. Known: on_input, on_lateral, on_output.")])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        neck(**cfg)
    assert said in str(caught.value)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ConfigError, match='FPN in_channels has 4 entries; the backbone gives 3 maps'):
        neck()(maps()[:3])
