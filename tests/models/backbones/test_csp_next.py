"""CSPNeXt: shapes, the paper's sizes, freezing."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from detkit.models.backbones.csp_next import CSPNeXt
from detkit.registry import MODELS, ConfigError

SMALL = dict(deepen_factor=0.167, widen_factor=0.125)


def test_strides_and_channels():
    outs = CSPNeXt(**SMALL, out_indices=(0, 1, 2, 3, 4))(torch.zeros(1, 3, 64, 96))
    assert [tuple(o.shape[1:]) for o in outs] == [(8, 32, 48), (16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    assert [o.shape[1] for o in CSPNeXt(**SMALL)(torch.zeros(1, 3, 64, 64))] == [32, 64, 128]


def test_p6_has_a_stage_more():
    outs = CSPNeXt(arch='P6', **SMALL, out_indices=(2, 3, 4, 5)).eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(o.shape[1:]) for o in outs] == [(32, 8, 8), (64, 4, 4), (96, 2, 2), (128, 1, 1)]


def test_depth_is_rounded_and_at_least_one():
    blocks = [len(getattr(CSPNeXt(deepen_factor=f, widen_factor=.125), 'stage2')[1].blocks) for f in (.05, .167, .33, .67, 1.)]
    assert blocks == [1, 1, 2, 4, 6]


def test_the_tiny_one_has_mmdetections_keys_and_shapes(root: Path):
    case = json.loads((root / 'tests/parity/cases/rtmdet_tiny_8xb32-300e_coco__drawn.json').read_text())
    recorded = {key.removeprefix('backbone.'): tuple(shape) for key, shape in case['keys'] if key.startswith('backbone.')}
    with torch.device('meta'):
        model = CSPNeXt(deepen_factor=0.167, widen_factor=0.375)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == recorded


def test_frozen_stages_learn_nothing_from_the_start():
    model = CSPNeXt(**SMALL, frozen_stages=2)
    for _ in range(2):
        assert [name for name in model.layers if not any(p.requires_grad for p in getattr(model, name).parameters())] == \
            ['stem', 'stage1', 'stage2']
        model.train()
    assert [getattr(model, name).training for name in model.layers] == [False, False, False, True, True]
    assert all(p.requires_grad for p in CSPNeXt(**SMALL).parameters())


def test_norm_eval_keeps_statistics():
    model = CSPNeXt(**SMALL, norm_eval=True).train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert model.stage1.training
    assert any(m.training for m in CSPNeXt(**SMALL).train().modules() if isinstance(m, nn.BatchNorm2d))


def test_depthwise_and_attention_are_options():
    plain = CSPNeXt(**SMALL).state_dict()
    assert any('attention' in k for k in plain)
    assert not any('attention' in k for k in CSPNeXt(**SMALL, channel_attention=False).state_dict())
    assert 'stage1.0.depthwise_conv.conv.weight' in CSPNeXt(**SMALL, use_depthwise=True).state_dict()


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(arch='P7'), "CSPNeXt arch 'P7' is unknown. Known: P5, P6."), (dict(out_indices=(2, 5)), 'CSPNeXt out_indices=(2, 5)'),
    (dict(frozen_stages=6), 'and frozen_stages=6 must lie in 0..4')])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        MODELS.build(dict(type='CSPNeXt', **cfg))
    assert said in str(caught.value)
