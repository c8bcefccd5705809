"""CTResNetNeck: keys, sizes, initial weights."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from detkit.models.necks.ct_resnet_neck import CTResNetNeck, bilinear_kernel
from detkit.nn.deform_conv import ModulatedDeformConv2d
from detkit.registry import ConfigError


@pytest.mark.parametrize('use_dcn', [True, False])
def test_the_last_map_grows_by_two_a_step(use_dcn: bool):
    neck = CTResNetNeck(8, (6, 4), (4, 4), use_dcn)
    out = neck((None, torch.rand(2, 8, 3, 5)))
    assert len(out) == 1 and out[0].shape == (2, 4, 12, 20)
    assert tuple(neck.state_dict()['deconv_layers.1.conv.weight'].shape) == (6, 6, 4, 4)
    assert isinstance(neck.deconv_layers[0].conv, ModulatedDeformConv2d) == use_dcn
    assert ('deconv_layers.2.conv.conv_offset.bias' in neck.state_dict()) == use_dcn


def test_a_doubling_starts_as_interpolation():
    assert bilinear_kernel(4)[0].tolist() == [.0625, .1875, .1875, .0625]
    neck = CTResNetNeck(8, (6,), (4,))
    neck.init_weights()
    conv = neck.deconv_layers[1].conv
    assert (conv.weight[:, 0] == bilinear_kernel(4)).all() and not (conv.weight[:, 1] == bilinear_kernel(4)).any()
    assert (neck.deconv_layers[0].conv.conv_offset.weight == 0).all()
    flat = nn.functional.conv_transpose2d(torch.ones(1, 1, 4, 4), bilinear_kernel(4)[None, None], stride=2, padding=1)
    assert (flat[0, 0, 1:-1, 1:-1] == 1).all()


@pytest.mark.parametrize('kernels', [(4,), (4, 3)])
def test_sizes_of_kernels_are_checked(kernels: tuple):
    with pytest.raises(ConfigError, match='CTResNetNeck needs a kernel size of 4 for each of num_deconv_filters=\\(6, 4\\)'):
        CTResNetNeck(8, (6, 4), kernels)
