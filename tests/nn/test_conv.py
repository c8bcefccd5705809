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
    build_upsample,
    conv_tower,
)
from detkit.registry import MODELS, ConfigError


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
    (dict(type='GN'), "GroupNorm needs 'num_groups'."), (dict(), 'norm_cfg type None is unknown.')])
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


# ------------------------------------------------------------------------------------------ classes of the user's own
@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch):
    """Register classes in MODELS until the end of a test."""
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS._module_dict))
    return lambda cls: MODELS.register_module()(cls) and cls


class RootMeanSquare(nn.Module):
    """A norm that is none of torch's, and takes no eps."""

    def __init__(self, width: int, power: float = 2.) -> None:
        super().__init__()
        self.scale, self.power = nn.Parameter(torch.ones(width)), power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.abs().pow(self.power).mean(1, keepdim=True).pow(1 / self.power) * self.scale[:, None, None]


class LayerScale(RootMeanSquare):
    _abbr_ = 'ls'


class FrozenStatistics(nn.BatchNorm2d):
    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)


class HalfGroups(nn.GroupNorm):
    pass


class InstanceLike(RootMeanSquare):
    pass


@pytest.mark.parametrize(('cls', 'options', 'name'), [
    (RootMeanSquare, dict(power=3.), 'norm_layer'), (LayerScale, {}, 'ls'), (FrozenStatistics, dict(eps=0.1), 'bn'),
    (HalfGroups, dict(num_groups=2), 'gn'), (InstanceLike, {}, 'in')])
def test_a_registered_norm_is_built_under_mmcvs_name(cls: type, options: dict, name: str, registered: object):
    registered(cls)
    module = ConvModule(3, 4, 1, norm_cfg=dict(type=cls.__name__, requires_grad=False, **options))
    norm = getattr(module, name)
    assert type(norm) is cls
    assert all(getattr(norm, key) == value for key, value in options.items())
    assert not any(p.requires_grad for p in norm.parameters())
    x = torch.randn(2, 3, 5, 5)
    assert_close(module(x), norm(module.conv(x)).relu())


def test_a_registered_norms_arguments_are_checked(registered: object):
    registered(RootMeanSquare)
    with pytest.raises(ConfigError, match=r"RootMeanSquare takes no argument 'powr'. Did you mean 'power'\?"):
        build_norm(dict(type='RootMeanSquare', powr=1.), 4)


def test_a_registered_activation_is_built(registered: object):
    @registered
    class Squared(nn.Module):
        def __init__(self, factor: float = 1.) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * x.relu()**2

    @registered
    class InPlace(nn.ReLU):
        pass

    assert build_activation(dict(type='Squared', factor=3.))(torch.tensor([-1., 2.])).tolist() == [0., 12.]
    assert build_activation(dict(type='InPlace')).inplace is True
    with pytest.raises(ConfigError, match=r"Squared takes no argument 'facter'. Did you mean 'factor'\?"):
        build_activation(dict(type='Squared', facter=3.))
    with pytest.raises(ConfigError, match="Squared takes no argument 'inplace'."):
        build_activation(dict(type='Squared', inplace=True))


def test_a_registered_convolution_is_built(registered: object):
    @registered
    class WeightStandardized(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight, self.bias)

    @registered
    class OwnStart(nn.Module):
        def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, dilation: int, groups: int,
                     bias: bool) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((out_channels, in_channels, kernel_size, kernel_size), 0.5))

        def init_weights(self) -> None:
            pass

    module = ConvModule(3, 4, 3, padding=1, conv_cfg=dict(type='WeightStandardized'), act_cfg=None)
    assert_close(module(torch.ones(1, 3, 5, 5))[:, :, 2, 2], torch.zeros(1, 4), atol=1e-5, rtol=0)
    assert (ConvModule(3, 4, 1, conv_cfg=dict(type='OwnStart')).conv.weight == 0.5).all()
    with pytest.raises(ConfigError, match="WeightStandardized takes no argument 'padding_mod'. Did you mean 'padding_mode'"):
        build_conv(dict(type='WeightStandardized', padding_mod='reflect'), 3, 4, 1)


def test_a_registered_upsampling_is_built(registered: object):
    @registered
    class Shuffle(nn.Sequential):
        def __init__(self, in_channels: int, out_channels: int, scale_factor: int) -> None:
            super().__init__(nn.Conv2d(in_channels, out_channels * scale_factor**2, 1), nn.PixelShuffle(scale_factor))

    @registered
    class Repeat(nn.Upsample):
        pass

    shuffle, channels = build_upsample(dict(type='Shuffle', scale_factor=3), 4, 6)
    assert (channels, tuple(shuffle(torch.zeros(1, 4, 2, 2)).shape)) == (6, (1, 6, 6, 6))
    repeat, channels = build_upsample(dict(type='Repeat', scale_factor=2), 4, 6)
    assert (channels, tuple(repeat(torch.zeros(1, 4, 2, 2)).shape)) == (4, (1, 4, 4, 4))
    with pytest.raises(ConfigError, match="Shuffle needs 'scale_factor'."):
        build_upsample(dict(type='Shuffle'), 4, 6)


def test_a_class_may_stand_for_its_name():
    assert isinstance(build_activation(dict(type=nn.Softplus, beta=2.)), nn.Softplus)
    assert build_norm(dict(type=nn.BatchNorm2d), 4)[0] == 'bn'


def test_an_unknown_name_is_compared_with_the_table_and_the_registry(registered: object):
    @registered
    class RootMeanSquareNorm(RootMeanSquare):
        pass

    with pytest.raises(ConfigError, match=r"norm_cfg type 'RootMeanSqareNorm' is unknown. Did you mean 'RootMeanSquareNorm'\? Known: BN, "):
        build_norm(dict(type='RootMeanSqareNorm'), 4)
    with pytest.raises(ConfigError, match=r"upsample_cfg type 'deconf' is unknown. Did you mean 'deconv'"):
        build_upsample(dict(type='deconf', scale_factor=2), 4, 4)


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
