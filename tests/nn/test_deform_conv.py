"""Deformable convolutions as layers: mmcv's parameter names and order of channels."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.nn.conv import ConvModule, build_conv
from detkit.nn.deform_conv import DeformConv2d, ModulatedDeformConv2d
from detkit.registry import ConfigError


def test_keys_and_shapes_are_mmcvs():
    conv = build_conv(dict(type='DCN', deform_groups=2), 4, 6, 3, padding=1, bias=False)
    assert {k: tuple(v.shape) for k, v in conv.state_dict().items()} == {
        'weight': (6, 4, 3, 3), 'conv_offset.weight': (36, 4, 3, 3), 'conv_offset.bias': (36,)}
    conv = build_conv(dict(type='DCNv2', deform_groups=2), 4, 6, 3, padding=1)
    assert {k: tuple(v.shape) for k, v in conv.state_dict().items()} == {
        'weight': (6, 4, 3, 3), 'bias': (6,), 'conv_offset.weight': (54, 4, 3, 3), 'conv_offset.bias': (54,)}


@pytest.mark.parametrize(('kind', 'share'), [(DeformConv2d, 1.), (ModulatedDeformConv2d, .5)])
def test_it_starts_as_a_plain_convolution(kind: type[DeformConv2d], share: float):
    conv = kind(4, 6, 3, stride=2, padding=1, groups=2)
    plain = nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False)
    plain.weight = conv.weight
    x = torch.randn(2, 4, 7, 8)
    assert_close(conv(x), plain(x) * share)


def test_offsets_come_before_shares_and_as_dy_dx():
    conv = ModulatedDeformConv2d(1, 1, 1)
    nn.init.ones_(conv.weight)
    conv.conv_offset.bias.data = torch.tensor([1., 2., 0.])             # one down, two to the right, share 0.5
    x = torch.arange(20.).view(1, 1, 4, 5)
    assert conv(x)[0, 0].tolist() == [[.5 * x[0, 0, i + 1, j + 2].item() if i < 3 and j < 3 else 0 for j in range(5)] for i in range(4)]


def test_in_a_conv_module_it_keeps_its_own_start():
    module = ConvModule(4, 6, 3, padding=1, conv_cfg=dict(type='DCNv2'), norm_cfg=dict(type='BN'))
    assert module.conv.bias is None and module.conv.weight.abs().max() <= 1 / 6 and (module.conv.conv_offset.weight == 0).all()


def test_what_does_not_go_together_is_named():
    with pytest.raises(ConfigError, match='DeformConv2d groups=3 must divide in_channels=4'):
        build_conv(dict(type='DCN'), 4, 6, 3, groups=3)
    with pytest.raises(ConfigError, match='deform_groups=3 in_channels'):
        build_conv(dict(type='DCN', deform_groups=3), 4, 6, 3)
    with pytest.raises(ConfigError, match="takes no argument 'deform_group'. Did you mean 'deform_groups'"):
        build_conv(dict(type='DCNv2', deform_group=4), 4, 6, 3)
