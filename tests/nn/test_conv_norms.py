"""Convolutions and their norms: all norms of every kind are found, and folding by these pairs keeps the outputs."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from kinds import DETECTORS, SIZE, small_detector
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from detkit.nn.conv import ConvModule
from detkit.nn.conv_norms import ConvNorms, conv_norm_pairs
from detkit.registry import MODELS

TIMM = ['test_resnet', 'test_efficientnet', 'test_byobnet', 'test_convnext', 'mobilenetv3_small_050', 'regnetx_002', 'densenet121',
        'res2net50_26w_4s', 'resnest14d', 'cspdarknet53', 'efficientnet_lite0', 'hrnet_w18_small']


@pytest.fixture(params=list(DETECTORS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def with_statistics(model: nn.Module) -> nn.Module:
    """Norms that change what they see, so that a wrong pair shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.add_(torch.rand(values.shape, generator=generator) * 0.2)
    return model.eval()


def fold(model: nn.Module, pair: ConvNorms) -> None:
    """The batch norm becomes a part of the convolution; what timm's norms do besides (the activation) stays."""
    (name, norm), conv = next(iter(pair.norms.items())), pair.conv
    factor = norm.weight.data / (norm.running_var + norm.eps).sqrt()
    transposed = isinstance(conv, nn.ConvTranspose2d)
    conv.weight.data *= factor.reshape(1, -1, 1, 1) if transposed else factor.reshape(-1, *[1] * (conv.weight.dim() - 1))
    bias = 0. if conv.bias is None else conv.bias.data
    conv.bias = nn.Parameter((bias - norm.running_mean) * factor + norm.bias.data)
    owner, _, child = name.rpartition('.')
    setattr(model.get_submodule(owner), child, nn.Sequential(*[getattr(norm, part) for part in ('drop', 'act') if hasattr(norm, part)]))


def tensors(outputs: object) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif dataclasses.is_dataclass(outputs):
        yield from tensors([getattr(outputs, each.name) for each in dataclasses.fields(outputs)])
    elif isinstance(outputs, (list, tuple)):
        for part in outputs:
            yield from tensors(part)


def foldable(pairs: list[ConvNorms]) -> list[ConvNorms]:
    return [pair for pair in pairs if len(pair.norms) == 1 and all(isinstance(norm, _BatchNorm) for norm in pair.norms.values())]


def test_every_batch_norm_belongs_to_one_convolution(kind: str):
    model = small_detector(kind)
    found = [norm for pair in conv_norm_pairs(model) for norm in pair.norms.values()]
    assert len(set(found)) == len(found)
    assert {m for m in found if isinstance(m, _BatchNorm)} == {m for m in model.modules() if isinstance(m, _BatchNorm)}


def test_names_lead_to_the_modules(kind: str):
    model = small_detector(kind)
    for pair in conv_norm_pairs(model):
        assert model.get_submodule(pair.conv_name) is pair.conv
        assert all(model.get_submodule(name) is norm for name, norm in pair.norms.items())


def test_folding_keeps_the_outputs(kind: str):
    model = with_statistics(small_detector(kind))
    images = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = list(tensors(model.network(images)))
        folded = foldable(conv_norm_pairs(model))
        for pair in folded:
            fold(model, pair)
        after = list(tensors(model.network(images)))
    assert folded or kind == 'swin'                                # which has layer norms alone
    for a, b in zip(after, before, strict=True):
        assert_close(a, b, rtol=1e-3, atol=2e-3 * max(b.abs().amax().item(), 1.))


def test_levels_that_share_a_convolution_are_one_entry():
    model = small_detector('rtmdet')
    shared = [pair for pair in conv_norm_pairs(model) if len(pair.norms) > 1]
    assert [(pair.conv_name, list(pair.norms)) for pair in shared] == [
        (f'bbox_head.{tower}.0.0.conv', [f'bbox_head.{tower}.{level}.0.bn' for level in range(3)]) for tower in ('cls_convs', 'reg_convs')]


def test_order_decides_in_a_sequence_and_not_in_a_list():
    conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    assert [list(pair.norms) for pair in conv_norm_pairs(nn.Sequential(conv, nn.Identity(), norm))] == [['2']]
    inside = conv_norm_pairs(nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), conv), norm))
    assert [(pair.conv_name, list(pair.norms)) for pair in inside] == [('0.2', ['1'])]
    assert conv_norm_pairs(nn.Sequential(conv, nn.ReLU(), norm)) == []
    assert conv_norm_pairs(nn.Sequential(norm, nn.Conv2d(4, 4, 1))) == []
    assert conv_norm_pairs(nn.Sequential(conv, nn.BatchNorm2d(8))) == []
    assert conv_norm_pairs(nn.ModuleList([conv, norm])) == []


def test_norms_of_other_kinds_and_linear_layers_are_listed():
    module = ConvModule(3, 4, 1, norm_cfg=dict(type='GN', num_groups=2))
    assert [(pair.conv_name, pair.norms) for pair in conv_norm_pairs(module)] == [('conv', {'gn': module.gn})]
    assert conv_norm_pairs(ConvModule(3, 4, 1)) == []
    linear = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    assert conv_norm_pairs(linear)[0].norms == {'1': linear[1]}


@pytest.mark.parametrize('name', TIMM)
def test_folding_keeps_the_outputs_of_timms_networks(name: str):
    pytest.importorskip('timm')
    torch.manual_seed(0)
    model = with_statistics(MODELS.build(dict(type='TIMMBackbone', model_name=name, features_only=True)))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        folded = foldable(conv_norm_pairs(model))
        for pair in folded:
            fold(model, pair)
        after = model(images)
    assert folded or name == 'test_convnext'
    for a, b in zip(after, before, strict=True):
        assert_close(a, b, rtol=1e-3, atol=1e-3 * max(b.abs().amax().item(), 1.))
