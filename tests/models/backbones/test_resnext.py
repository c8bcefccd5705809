"""ResNeXt: keys, counts and outputs of torchvision's."""
from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from detkit.models.backbones.resnext import ResNeXt
from detkit.registry import MODELS


def on_meta(**cfg: object) -> nn.Module:
    with torch.device('meta'):
        return MODELS.build(dict(type='ResNeXt', **cfg))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in module.state_dict().items() if not k.startswith('fc.')}


@pytest.mark.parametrize(('depth', 'groups', 'base_width', 'name'), [
    (50, 32, 4, 'resnext50_32x4d'), (101, 32, 8, 'resnext101_32x8d'), (101, 64, 4, 'resnext101_64x4d')])
def test_keys_and_shapes_are_torchvisions(depth: int, groups: int, base_width: int, name: str):
    with torch.device('meta'):
        reference = getattr(torchvision.models, name)()
    assert shapes(on_meta(depth=depth, groups=groups, base_width=base_width)) == shapes(reference)


def test_the_outputs_are_torchvisions():
    torch.manual_seed(0)
    reference = torchvision.models.resnext50_32x4d().eval()
    model = ResNeXt(depth=50, groups=32).eval()
    model.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith('fc.')})
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        outs = model(x)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for i, out in enumerate(outs):
            x = getattr(reference, f'layer{i + 1}')(x)
            assert_close(out, x)


def test_deformable_convolutions_keep_the_groups():
    conv = on_meta(depth=50, groups=32, dcn=dict(type='DCN', deform_groups=1), stage_with_dcn=(False, False, True, True)).layer3[0].conv2
    assert tuple(conv.weight.shape) == (512, 16, 3, 3) and tuple(conv.conv_offset.weight.shape) == (18, 512, 3, 3)


def test_one_group_is_a_resnet():
    assert shapes(on_meta(depth=50)) == shapes(MODELS.build(dict(type='ResNet', depth=50)))
