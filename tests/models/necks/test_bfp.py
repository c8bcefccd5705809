"""BFP and its refinement, by hand."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.nn.non_local import NonLocal2d
from detkit.registry import MODELS, ConfigError

SIZES = ((16, 24), (8, 12), (4, 6))


def maps(channels: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, channels, *size, generator=generator) for size in SIZES)


def test_each_level_gains_the_mean_of_all():
    feats = maps()
    outs = MODELS.build(dict(type='BFP', in_channels=4, num_levels=3, refine_level=1))(feats)
    finer = feats[0].unflatten(3, (12, 2)).unflatten(2, (8, 2)).amax((3, 5))
    coarser = feats[2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    mean = (finer + feats[1] + coarser) / 3
    assert_close(outs[1], feats[1] + mean)
    assert_close(outs[0], feats[0] + mean.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert_close(outs[2], feats[2] + mean.unflatten(3, (6, 2)).unflatten(2, (4, 2)).amax((3, 5)))


@pytest.mark.parametrize('kind', ['conv', 'non_local'])
def test_a_refinement_has_weights_that_learn(kind: str):
    neck = MODELS.build(dict(type='BFP', in_channels=4, num_levels=3, refine_level=2, refine_type=kind))
    neck.init_weights()
    sum(x.square().sum() for x in neck(maps())).backward()
    gradients = {name: float(p.grad.abs().sum()) for name, p in neck.named_parameters()}
    assert gradients and all(name.startswith('refine.') for name in gradients)
    assert all(value > 0 for name, value in gradients.items() if name.endswith('weight'))


@pytest.mark.parametrize('use_scale', [True, False])
def test_attention_by_hand(use_scale: bool):
    torch.manual_seed(0)
    layer, x = NonLocal2d(6, reduction=2, use_scale=use_scale), torch.randn(2, 6, 3, 5)
    theta, phi, g = (conv(x).flatten(2) for conv in (layer.theta, layer.phi, layer.g))
    weights = (theta.transpose(1, 2) @ phi / (3**.5 if use_scale else 1)).softmax(-1)
    assert_close(layer(x), x + layer.conv_out((weights @ g.transpose(1, 2)).transpose(1, 2).reshape(2, 3, 3, 5)))


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="refine_type='nonlocal' is unknown. Known: None, conv, non_local"):
        MODELS.build(dict(type='BFP', in_channels=4, num_levels=3, refine_type='nonlocal'))
    with pytest.raises(ConfigError, match='refine_level=3 must be one of its 3 levels'):
        MODELS.build(dict(type='BFP', in_channels=4, num_levels=3, refine_level=3))
    with pytest.raises(ConfigError, match='num_levels=4; it was given 3 maps'):
        MODELS.build(dict(type='BFP', in_channels=4, num_levels=4))(maps())
