"""Networks of timm's: maps by stage, weights only when they are asked for, one line for what cannot be had."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.models.backbones.timm_backbone import TIMMBackbone
from detkit.registry import MODELS, ConfigError

timm = pytest.importorskip('timm')
NAME = 'resnet18'


def test_maps_are_timms():
    model = TIMMBackbone(NAME, features_only=True, out_indices=(1, 3)).eval()
    reference = timm.create_model(NAME, features_only=True, out_indices=(1, 3)).eval()
    reference.load_state_dict({key.removeprefix('timm_model.'): value for key, value in model.state_dict().items()})   # mmpretrain's keys
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outs = model(x)
        for out, want in zip(outs, reference(x)):
            assert_close(out, want)
    assert [tuple(o.shape[1:]) for o in outs] == [(64, 16, 24), (256, 4, 6)]
    assert (model.channels, model.strides) == ((64, 256), (4, 16))


@pytest.mark.parametrize(('name', 'options', 'channels'), [
    ('efficientnet_b0', {}, (16, 24, 40, 112, 320)), ('convnext_atto', {}, (40, 80, 160, 320)),
    ('swin_tiny_patch4_window7_224', dict(img_size=64), (96, 192, 384, 768)),               # (N, H, W, C) inside
    ('vit_tiny_patch16_224', dict(dynamic_img_size=True), (192, 192, 192))])                # tokens inside
def test_maps_of_every_kind_of_network_are_channels_first(name: str, options: dict, channels: tuple):
    model = TIMMBackbone(name, features_only=True, **options).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, 64, 64))
    assert [o.shape[1] for o in outs] == list(channels) == list(model.channels)
    assert [64 // o.shape[2] for o in outs] == [64 // o.shape[3] for o in outs] == list(model.strides)


def test_without_stages_the_last_map_is_given_and_no_classifier_kept():
    model = TIMMBackbone(NAME).eval()
    assert not any('fc' in key for key in model.state_dict())
    assert [tuple(o.shape) for o in model(torch.randn(1, 3, 64, 64))] == [(1, 512, 2, 2)]
    assert (model.channels, model.strides) == ((512,), (32,))
    with pytest.raises(ValueError, match=r"'vit_tiny_patch16_224' gives \(1, 17, 192\) and no map. Set features_only=True."):
        TIMMBackbone('vit_tiny_patch16_224', img_size=64)(torch.randn(1, 3, 64, 64))


def test_options_reach_timm():
    model = TIMMBackbone(NAME, features_only=True, in_channels=5, norm_layer='SyncBN', output_stride=16)
    assert model.timm_model.conv1.in_channels == 5
    assert isinstance(model.timm_model.bn1, nn.SyncBatchNorm)
    assert model.strides == (2, 4, 8, 16, 16)


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(model_name='resnet19'), "has no model 'resnet19'. Did you mean 'resnet18'"),
    (dict(model_name=NAME, out_indices=(1,)), 'out_indices=(1,) are maps of stages: set features_only=True.'),
    (dict(model_name=NAME, features_only=True, out_indices=(9,)), "timm does not build 'resnet18' with in_chans=3, features_only=True, "
                                                                  'out_indices=(9,) (IndexError'),
    (dict(model_name=NAME, deep=True), "got an unexpected keyword argument 'deep'"), (dict(), "TIMMBackbone needs 'model_name'")])
def test_wrong_settings_are_refused_in_one_line(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        MODELS.build(dict(type='TIMMBackbone', **cfg))
    assert said in str(caught.value) and '\n' not in str(caught.value)


def test_a_network_without_stages_says_so_in_timms_words(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, features_only: bool, **kwargs: object) -> None:
        raise RuntimeError('features_only not implemented for\nthis model.')
    monkeypatch.setattr(timm, 'create_model', refuse)
    with pytest.raises(ConfigError, match=r"timm does not build 'resnet18' .*\(RuntimeError: features_only not implemented for this model"):
        TIMMBackbone(NAME, features_only=True)


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ConfigError, match=r"TIMMBackbone needs timm .*: pip install 'detkit\[timm\]'"):
        TIMMBackbone(NAME)


# ------------------------------------------------------------------------------------------------------------- weights
def test_building_fetches_nothing_and_init_weights_says_in_one_line_what_failed(monkeypatch: pytest.MonkeyPatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError('no network\nhere')
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', offline)
    model = TIMMBackbone(NAME, features_only=True, pretrained=True)
    with pytest.raises(ConfigError) as caught:
        model.init_weights()
    assert str(caught.value) == ("TIMMBackbone: the weights of 'resnet18' cannot be had (OSError: no network here). Without network, give "
                                 'a file as checkpoint_path=..., or set pretrained=False.')


@pytest.mark.parametrize('features_only', [True, False])
def test_a_file_of_the_whole_network_is_loaded_by_init_weights(features_only: bool, tmp_path: Path):
    whole = timm.create_model('convnext_atto')                       # its features have other names than the whole network
    torch.save(whole.state_dict(), tmp_path / 'whole.pth')
    model = TIMMBackbone('convnext_atto', features_only=features_only, checkpoint_path=str(tmp_path / 'whole.pth'))
    stem = model.timm_model.stem_0 if features_only else model.timm_model.stem[0]
    assert not torch.equal(stem.weight, whole.stem[0].weight)
    model.init_weights()
    assert torch.equal(stem.weight, whole.stem[0].weight)


def test_init_cfg_works_as_of_any_backbone():
    model = TIMMBackbone(NAME, features_only=True, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    model.init_weights()
    assert model.timm_model.conv1.weight.eq(0.5).all()
