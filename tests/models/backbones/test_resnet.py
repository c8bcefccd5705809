"""ResNet: keys, counts and outputs of torchvision's; freezing; MMDetection's options."""
from __future__ import annotations

import re
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from detkit.models.backbones.resnet import Bottleneck, ResNet, ResNetV1d, add_norms, residual_stage, shortcut
from detkit.nn.conv import build_conv
from detkit.registry import MODELS, ConfigError

# trainable parameters of MMDetection's ResNet, which are torchvision's without the classifier
COUNTS = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160, 152: 58_143_808}


def on_meta(**cfg: object) -> nn.Module:
    with torch.device('meta'):
        return MODELS.build(dict(dict(type='ResNet'), **cfg))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in module.state_dict().items() if not k.startswith('fc.')}


def small(**cfg: object) -> ResNet:
    torch.manual_seed(0)
    return ResNet(**dict(dict(depth=18, base_channels=4), **cfg))


def randomise(model: nn.Module) -> nn.Module:
    """Norms that do something, so that a layer in the wrong place shows."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(.5, 1.5)
            module.bias.data.uniform_(-.5, .5)
            module.running_mean.uniform_(-.5, .5)
            module.running_var.uniform_(.5, 1.5)
    return model


@pytest.mark.parametrize('depth', COUNTS)
def test_every_depth_has_torchvisions_keys_shapes_and_count(depth: int):
    model = on_meta(depth=depth)
    with torch.device('meta'):
        reference = getattr(torchvision.models, f'resnet{depth}')()
    assert shapes(model) == shapes(reference)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[depth]


@pytest.mark.parametrize('depth', [18, 50])
def test_the_outputs_are_torchvisions(depth: int):
    reference = randomise(getattr(torchvision.models, f'resnet{depth}')()).eval()
    model = ResNet(depth).eval()
    model.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith('fc.')})
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        outs = model(x)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for i, out in enumerate(outs):
            x = getattr(reference, f'layer{i + 1}')(x)
            assert_close(out, x)


def test_strides_are_4_to_32():
    outs = small()(torch.zeros(1, 3, 64, 96))
    assert [tuple(o.shape[1:]) for o in outs] == [(4, 16, 24), (8, 8, 12), (16, 4, 6), (32, 2, 3)]
    assert [tuple(o.shape[1:]) for o in small(out_indices=(2,))(torch.zeros(1, 3, 64, 96))] == [(16, 4, 6)]


def test_dilation_in_place_of_stride():
    outs = small(depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))(torch.zeros(1, 3, 64, 64))
    assert [o.shape[-1] for o in outs] == [16, 8, 8, 8]
    three = small(num_stages=3, out_indices=(0, 1, 2))
    assert not hasattr(three, 'layer4')


def test_styles_differ_in_where_a_bottleneck_strides():
    pytorch, caffe = on_meta(depth=50), on_meta(depth=50, style='caffe')
    assert shapes(pytorch) == shapes(caffe)
    strides = [[conv.stride for conv in (m.layer2[0].conv1, m.layer2[0].conv2, m.layer2[1].conv1)] for m in (pytorch, caffe)]
    assert strides == [[(1, 1), (2, 2), (1, 1)], [(2, 2), (1, 1), (1, 1)]]


def test_resnet_d_has_its_stem_its_pools_and_its_keys():
    with torch.device('meta'):
        model = ResNetV1d(depth=50)
    keys = shapes(model)
    stem = {k: v for k, v in keys.items() if k.startswith('stem.') and k.endswith('weight')}
    assert stem == {'stem.0.weight': (32, 3, 3, 3), 'stem.1.weight': (32,), 'stem.3.weight': (32, 32, 3, 3), 'stem.4.weight': (32,),
                    'stem.6.weight': (64, 32, 3, 3), 'stem.7.weight': (64,)}
    assert keys['layer2.0.downsample.1.weight'] == (512, 256, 1, 1)
    assert keys['layer2.0.downsample.2.weight'] == (512,)
    assert 'conv1.weight' not in keys
    # the stem's 7x7 convolution and its norm (9536) make room for three of 3x3 with theirs (28768)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[50] - 9_536 + 28_768
    assert [o.shape[-1] for o in ResNetV1d(depth=18, base_channels=4)(torch.zeros(1, 3, 64, 64))] == [16, 8, 4, 2]


def frozen(model: ResNet) -> list[str]:
    """Parts that learn nothing, by name."""
    return [name for name in ('conv1', 'bn1', 'stem', 'layer1', 'layer2', 'layer3', 'layer4')
            if hasattr(model, name) and not any(p.requires_grad for p in getattr(model, name).parameters())]


@pytest.mark.parametrize(('stages', 'parts'), [
    (-1, []), (0, ['conv1', 'bn1']), (1, ['conv1', 'bn1', 'layer1']), (4, ['conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4'])])
def test_frozen_stages_learn_nothing_from_the_start(stages: int, parts: list[str]):
    model = small(frozen_stages=stages, norm_eval=False)
    assert frozen(model) == parts
    model.train()
    assert frozen(model) == parts
    assert [name for name in parts if getattr(model, name).training] == []
    assert model.layer4.training is (stages < 4)


def test_a_deep_stem_is_frozen_as_one():
    assert frozen(ResNetV1d(depth=18, base_channels=4, frozen_stages=1)) == ['stem', 'layer1']


def test_norm_eval_keeps_statistics_and_learns_weights():
    for norm_eval in (True, False):
        model = small(norm_eval=norm_eval).train()
        before = model.layer2[0].bn1.running_mean.clone()
        sum(o.sum() for o in model(torch.randn(2, 3, 32, 32))).backward()
        assert torch.equal(model.layer2[0].bn1.running_mean, before) is norm_eval
        assert model.layer2[0].bn1.weight.grad is not None
        assert model.layer2[0].conv1.training


def test_evaluation_mode_is_left_as_asked():
    assert not small().eval().layer1[0].bn1.training


@pytest.mark.parametrize('norm_eval', [True, False])
def test_recomputing_blocks_changes_neither_outputs_nor_gradients(norm_eval: bool):
    plain, again = (randomise(small(with_cp=with_cp, norm_eval=norm_eval)).train() for with_cp in (False, True))
    x = torch.randn(2, 3, 32, 32)
    outs = [model(x) for model in (plain, again)]
    for out, same in zip(*outs):
        assert_close(out, same)
    for each in outs:
        sum((o**2).mean() for o in each).backward()
    for (name, p), q in zip(plain.named_parameters(), again.parameters()):
        assert p.grad is not None, name
        assert_close(p.grad, q.grad)


def test_residual_branches_start_at_zero():
    def last_norms(model: ResNet) -> list[float]:
        model.init_weights()
        return [block.bn2.weight.abs().max().item() for block in model.layer2]
    assert last_norms(small()) == [0, 0]
    assert last_norms(small(zero_init_residual=False)) == [1, 1]


def test_norms_are_named_by_their_kind():
    model = small(norm_cfg=dict(type='GN', num_groups=2))
    assert hasattr(model, 'gn1')
    assert hasattr(model.layer1[0], 'gn2')
    assert all(not p.requires_grad for n, p in small(norm_cfg=dict(type='BN', requires_grad=False)).named_parameters() if 'bn' in n)


def test_deformable_convolutions_stand_in_the_stages_named():
    model = on_meta(depth=50, dcn=dict(type='DCNv2', deform_groups=2, fallback_on_stride=False), stage_with_dcn=(False, True, False, True))
    found = {k: tuple(v.shape) for k, v in model.state_dict().items() if 'conv_offset' in k}
    assert set(found) == {f'layer{i}.{b}.conv2.conv_offset.{p}' for i, count in ((2, 4), (4, 3)) for b in range(count)
                          for p in ('weight', 'bias')}
    assert found['layer2.0.conv2.conv_offset.weight'] == (2 * 27, 128, 3, 3)
    older = on_meta(depth=50, dcn=dict(type='DCN', deformable_groups=2), stage_with_dcn=(True,) * 4)
    assert older.layer1[0].conv2.conv_offset.out_channels == 2 * 18


def test_a_deformable_resnet_starts_as_a_plain_one_of_other_weights():
    model = small(depth=50, dcn=dict(type='DCN'), stage_with_dcn=(True,) * 4)
    model.init_weights()
    plain = small(depth=50)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if 'conv_offset' not in k})
    x = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        for a, b in zip(model.eval()(x), plain.eval()(x), strict=True):
            assert_close(a, b)


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(depth=51), 'ResNet depth=51 is unknown. Known: 18, 34, 50, 101, 152.'),
    (dict(depth=18, style='keras'), "ResNet style='keras' is unknown. Known: pytorch, caffe."),
    (dict(depth=18, num_stages=3), 'ResNet num_stages=3 must lie in 1..4 and cover out_indices=(0, 1, 2, 3)'),
    (dict(depth=18, frozen_stages=5), 'and frozen_stages=5'),
    (dict(depth=18, strides=(1, 2)), 'ResNet strides=(1, 2) and dilations=(1, 1, 1, 1) need an entry for each of num_stages=4.'),
    (dict(depth=18, plugin=[]), "ResNet takes no argument 'plugin'."),
    (dict(depth=18, plugins=[dict(cfg=dict(type='ContextBlock', ratio=0.5), position='after_conv3')]),
     'ResNet depth=18 has no bottlenecks, into which plugins go.'),
    (dict(depth=50, plugins=[dict(cfg=dict(type='ContextBlock', ratio=0.5), position='after_conv4')]),
     "a ResNet plugin needs a cfg, and a position of after_conv1, after_conv2, after_conv3, not 'after_conv4'."),
    (dict(depth=50, plugins=[dict(cfg=dict(type='ContextBlock', ratio=0.5), position='after_conv1', stages=(True,))]),
     'ResNet plugin stages=(True,) need an entry for each of num_stages=4.'),
    (dict(depth=50, plugins=[dict(cfg=dict(type='ContextBlock', ratio=0.5), position='after_conv1', stage=(True,))]),
     "ResNet plugins have no 'stage'. They have: cfg, position, stages."),
    (dict(depth=50, plugins=[dict(cfg=dict(type='ContextBlok', ratio=0.5), position='after_conv1')]), "no 'ContextBlok' in the registry"),
    (dict(depth=18, dcn=dict(type='DCN')), 'ResNet depth=18 has no bottlenecks, whose 3x3 dcn is about.'),
    (dict(depth=34, groups=2), 'ResNet depth=34 has no bottlenecks, whose 3x3 groups is about.'),
    (dict(depth=50, dcn=dict(type='DCN'), conv_cfg=dict(type='Conv2d')), "ResNet dcn goes without conv_cfg={'type': 'Conv2d'}"),
    (dict(depth=50, dcn=dict(type='DCN'), stage_with_dcn=(True,)), 'a stage_with_dcn for each of num_stages=4, not (True,)'),
    (dict(depth=50, dcn=dict(type='DCN', fallback_on_stride=True)), 'fallback_on_stride=True is not offered'),
    (dict(depth=50, dcn=dict(type='DCNv3'), stage_with_dcn=(True,) * 4), "conv_cfg type 'DCNv3' is unknown."),
    (dict(type='ResNeXt', depth=50, plugin=[]), "ResNet takes no argument 'plugin'."),
    (dict(type='ResNetV1d', depth=50, plugin=[]), "ResNet takes no argument 'plugin'.")])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        on_meta(**cfg)
    assert said in str(caught.value)


# ------------------------------------------------------------------------------------------ plugins
CONTEXT = dict(type='ContextBlock', ratio=0.25)


def test_plugins_stand_in_the_stages_named_under_mmcvs_names():
    model = small(depth=50, plugins=[dict(cfg=CONTEXT, position='after_conv3', stages=(False, True, False, True)),
                                     dict(cfg=dict(CONTEXT, postfix='_inner'), position='after_conv1', stages=(False, False, False, True))])
    names = {name for name, _ in model.named_modules() if name.endswith(('context_block', 'context_block_inner'))}
    assert names == {*(f'layer2.{b}.context_block' for b in range(4)), *(f'layer4.{b}.context_block' for b in range(3)),
                     *(f'layer4.{b}.context_block_inner' for b in range(3))}
    assert model.layer4[0].context_block.conv_mask.in_channels == model.layer4[0].conv3.out_channels == 128
    assert model.layer4[0].context_block_inner.conv_mask.in_channels == model.layer4[0].conv1.out_channels == 32


@pytest.mark.parametrize('position', ['after_conv1', 'after_conv2', 'after_conv3'])
def test_a_plugin_acts_behind_its_convolution(position: str, monkeypatch: pytest.MonkeyPatch):
    class Double(nn.Module):
        _abbr_ = 'doubling'

        def __init__(self, in_channels: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS._module_dict, Double=Double))
    model = randomise(small(depth=50, num_stages=1, out_indices=(0,), plugins=[dict(cfg=dict(type='Double'), position=position)])).eval()
    plain = small(depth=50, num_stages=1, out_indices=(0,)).eval()
    plain.load_state_dict(model.state_dict())
    for block in plain.layer1:                   # doubled by its norm
        norm = getattr(block, f'bn{position[-1]}')
        norm.weight.data *= 2
        norm.bias.data *= 2
    x = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        assert_close(model(x)[0], plain(x)[0], rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------ networks of other residual blocks
class Bottle2neck(nn.Module):
    """Res2Net's block (https://arxiv.org/abs/1904.01169, Fig. 2) with the interface that ResNet needs: four scales of 26 channels at 64."""

    def __init__(self, in_channels: int, stride: int, inner: int, out_channels: int, dilation: int, style: str, avg_down: bool,
                 conv_cfg: dict | None, norm_cfg: dict, scales: int = 4, base_width: int = 26) -> None:
        super().__init__()
        self.out_channels = out_channels
        width = inner * base_width // 64
        self.conv1 = build_conv(conv_cfg, in_channels, width * scales, 1, bias=False)
        self.convs = nn.ModuleList(build_conv(conv_cfg, width, width, 3, stride, dilation, dilation, bias=False)
                                   for _ in range(scales - 1))
        self.conv3 = build_conv(conv_cfg, width * scales, out_channels, 1, bias=False)
        self.norm_names = add_norms(self, norm_cfg, [width * scales, 1, out_channels])
        del self.bn2
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(scales - 1))
        self.downsample = shortcut(in_channels, out_channels, stride, avg_down, conv_cfg, norm_cfg)
        self.pool = nn.AvgPool2d(3, stride, 1) if self.downsample is not None else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.bn1(self.conv1(x)).relu().chunk(len(self.convs) + 1, 1)
        outs = []
        for part, conv, norm in zip(parts, self.convs, self.bns):
            y = part if not outs or self.downsample is not None else part + outs[-1]
            outs.append(norm(conv(y)).relu())
        out = self.bn3(self.conv3(torch.cat([*outs, self.pool(parts[-1])], 1)))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class Res2Net(ResNet):
    blocks = {50: (Bottle2neck, 4, (3, 4, 6, 3))}


def test_res2net_is_a_resnet_of_other_blocks():
    timm = pytest.importorskip('timm')
    reference = randomise(timm.create_model('res2net50_26w_4s', features_only=True, out_indices=(1, 2, 3, 4))).eval()
    model = Res2Net(50).eval()
    model.load_state_dict(reference.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model(x), reference(x), strict=True):
            assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().amax().item())
    with pytest.raises(ConfigError, match='Res2Net depth=18 is unknown. Known: 50.'):
        Res2Net(18)


def test_zero_init_reaches_other_blocks():
    model = Res2Net(50, base_channels=64)
    model.init_weights()
    assert all((block.bn3.weight == 0).all() for i in range(1, 5) for block in getattr(model, f'layer{i}'))


def test_a_stage_of_regnet_has_bottlenecks_that_do_not_widen():
    reference = randomise(torchvision.models.regnet_x_400mf()).eval().trunk_output
    x = torch.randn(1, 32, 32, 32)
    for i, (count, in_channels, width) in enumerate([(1, 32, 32), (2, 32, 64), (7, 64, 160), (12, 160, 400)], 1):
        make_block = partial(Bottleneck, inner=width, out_channels=width, groups=width // 16, dilation=1, style='pytorch', avg_down=False,
                             conv_cfg=None, norm_cfg=dict(type='BN'))
        stage, theirs = residual_stage(make_block, count, in_channels, stride=2).eval(), getattr(reference, f'block{i}')
        weights = {re.sub(r'^block\d+-(\d+)', lambda m: str(int(m[1])), key): value for key, value in theirs.state_dict().items()}
        for old, new in (('f.a.0', 'conv1'), ('f.a.1', 'bn1'), ('f.b.0', 'conv2'), ('f.b.1', 'bn2'), ('f.c.0', 'conv3'), ('f.c.1', 'bn3'),
                         ('proj', 'downsample')):
            weights = {key.replace(old, new): value for key, value in weights.items()}
        assert sorted(stage.state_dict()) == sorted(weights)
        stage.load_state_dict(weights)
        with torch.no_grad():
            a, x = stage(x), theirs(x)
        assert_close(a, x, rtol=1e-4, atol=1e-4 * x.abs().amax().item())
