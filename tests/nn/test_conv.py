"""ConvModule: mmcv's parameter names, config dicts and initial weights."""
from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.nn.conv import (
    ACTIVATIONS,
    ConvModule,
    DepthwiseSeparableConvModule,
    bias_for_probability,
    build_activation,
    build_conv,
    build_norm,
    conv_tower,
)
from detkit.registry import ConfigError


def keys(module: nn.Module) -> list[str]:
    return [k for k in module.state_dict() if 'running' not in k and 'num_batches' not in k]


@pytest.mark.parametrize(('norm', 'expected'), [
    (None, ['conv.weight', 'conv.bias']), (dict(type='BN'), ['conv.weight', 'bn.weight', 'bn.bias']),
    (dict(type='SyncBN'), ['conv.weight', 'bn.weight', 'bn.bias']),
    (dict(type='GN', num_groups=2), ['conv.weight', 'gn.weight', 'gn.bias']),
    (dict(type='IN', affine=True), ['conv.weight', 'in.weight', 'in.bias'])])
def test_parameter_names_are_mmcvs(norm: dict | None, expected: list[str]):
    assert keys(ConvModule(3, 4, 1, norm_cfg=norm)) == expected


def test_a_bias_beside_a_norm_must_be_asked_for():
    assert 'conv.bias' in keys(ConvModule(3, 4, 1, norm_cfg=dict(type='BN'), bias=True))
    assert 'conv.bias' not in keys(ConvModule(3, 4, 1, bias=False))


def test_forward_is_convolution_norm_activation():
    torch.manual_seed(0)
    module = ConvModule(3, 4, 3, stride=2, padding=1, norm_cfg=dict(type='BN')).eval()
    module.bn.running_mean.uniform_()
    module.bn.running_var.uniform_(1, 2)
    x = torch.randn(2, 3, 6, 6)
    assert_close(module(x), module.bn(module.conv(x)).relu())
    assert (ConvModule(3, 4, 1, act_cfg=None)(x) < 0).any()


def test_weights_start_as_kaimings_by_fan_out():
    """mmcv's kaiming_init: normal, variance 2 / (kernel area * output channels)."""
    torch.manual_seed(0)
    conv = ConvModule(16, 256, 3).conv
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.02)
    assert conv.bias.abs().max() == 0
    leaky = ConvModule(16, 256, 3, act_cfg=dict(type='LeakyReLU', negative_slope=0.5)).conv
    assert leaky.weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 0.25) / (9 * 256)), rel=0.02)


def test_a_norms_settings_are_kept():
    name, norm = build_norm(dict(type='BN', momentum=0.03, eps=0.001, requires_grad=False), 8)
    assert (name, norm.momentum, norm.eps, norm.num_features) == ('bn', 0.03, 0.001, 8)
    assert not any(p.requires_grad for p in norm.parameters())
    name, norm = build_norm(dict(type='GN', num_groups=4), 8)
    assert (name, norm.num_groups, norm.num_channels, norm.eps) == ('gn', 4, 8, 1e-5)
    name, norm = build_norm(dict(type='LN'), 8)
    assert (name, norm.normalized_shape) == ('ln', (8,))


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(type='BNN'), "norm_cfg type 'BNN' is unknown. Did you mean 'BN'"),
    (dict(type='BN', momentun=0.1), "BatchNorm2d takes no argument 'momentun'. Did you mean 'momentum'?"),
    (dict(type='GN'), "GroupNorm needs 'num_groups'."), (dict(), "norm_cfg type 'None' is unknown.")])
def test_a_wrong_norm_is_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        build_norm(cfg, 8)
    assert said in str(caught.value)


@pytest.mark.parametrize('kind', ACTIVATIONS)
def test_every_activation_builds_and_runs(kind: str):
    x = torch.linspace(-3, 3, 12).reshape(1, 3, 2, 2)
    assert_close(build_activation(dict(type=kind))(x.clone()), ACTIVATIONS[kind]()(x.clone()))


def test_activations_take_inplace_and_arguments():
    assert build_activation(None) is None
    assert build_activation(dict(type='ReLU')).inplace is True
    assert build_activation(dict(type='ReLU'), inplace=False).inplace is False
    assert build_activation(dict(type='SiLU', inplace=False)).inplace is False
    assert build_activation(dict(type='LeakyReLU', negative_slope=0.1)).negative_slope == 0.1


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(type='RelU'), "act_cfg type 'RelU' is unknown. Did you mean 'ReLU'"),
    (dict(type='LeakyReLU', slope=.1), "LeakyReLU takes no argument 'slope'.")])
def test_a_wrong_activation_is_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        build_activation(cfg)
    assert said in str(caught.value)


def test_a_convolutions_settings_are_kept_or_refused():
    assert build_conv(dict(type='Conv2d', padding_mode='reflect'), 3, 4, 3, padding=1).padding_mode == 'reflect'
    assert isinstance(build_conv(dict(type='Conv'), 3, 4, 1), nn.Conv2d)
    with pytest.raises(ConfigError, match=r"type: conv_cfg type 'DCNv9' is unknown. Did you mean 'DCNv2' or 'DCN'\? Known: Conv2d, "):
        build_conv(dict(type='DCNv9'), 3, 4, 1)
    with pytest.raises(ConfigError, match=r"Conv2d takes no argument 'pading_mode'. Did you mean 'padding_mode'"):
        build_conv(dict(type='Conv2d', pading_mode='reflect'), 3, 4, 1)


def test_depthwise_separable():
    module = DepthwiseSeparableConvModule(4, 6, 5, stride=2, padding=2, norm_cfg=dict(type='BN'))
    assert keys(module)[0] == 'depthwise_conv.conv.weight'
    assert (module.depthwise_conv.conv.groups, tuple(module.depthwise_conv.conv.weight.shape)) == (4, (4, 1, 5, 5))
    assert module(torch.rand(1, 4, 8, 8)).shape == (1, 6, 4, 4)


def test_a_tower_changes_channels_once():
    tower = conv_tower(3, 5, 7, norm_cfg=dict(type='GN', num_groups=7))
    assert [(m.conv.in_channels, m.conv.out_channels) for m in tower] == [(5, 7), (7, 7), (7, 7)]
    assert len(conv_tower(0, 5, 7)) == 0


@pytest.mark.parametrize('probability', [0.01, 0.5, 0.99])
def test_the_bias_gives_the_probability(probability: float):
    assert torch.sigmoid(torch.tensor(bias_for_probability(probability))).item() == pytest.approx(probability)
