"""CSPDarknet: its stem, strides, channels, and what learns."""
from __future__ import annotations

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from detkit.models.backbones.csp_darknet import CSPDarknet, Focus
from detkit.registry import MODELS, ConfigError

SMALL = dict(deepen_factor=0.33, widen_factor=0.125)


def test_focus_puts_the_pixels_of_a_square_side_by_side():
    focus = Focus(1, 4, 1, act_cfg=None)
    with torch.no_grad():
        focus.conv.conv.weight.copy_(torch.eye(4)[:, :, None, None])
    found = focus(torch.arange(16.).reshape(1, 1, 4, 4))[0]
    assert found[:, 0, 0].tolist() == [0, 4, 1, 5]             # top left, bottom left, top right, bottom right
    assert found[:, 1, 1].tolist() == [10, 14, 11, 15]


def test_strides_and_channels():
    outs = CSPDarknet(**SMALL, out_indices=(0, 1, 2, 3, 4))(torch.zeros(1, 3, 64, 96))
    assert [tuple(o.shape[1:]) for o in outs] == [(8, 32, 48), (16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    outs = CSPDarknet(arch='P6', **SMALL, out_indices=(2, 3, 4, 5)).eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(o.shape[1:]) for o in outs] == [(32, 8, 8), (64, 4, 4), (96, 2, 2), (128, 1, 1)]


def test_blocks_by_stage():
    def blocks(**cfg: object) -> list[int]:
        model = CSPDarknet(widen_factor=0.125, **cfg)
        return [len(getattr(model, f'stage{i}')[-1].blocks) for i in range(1, len(model.layers))]
    assert blocks() == [3, 9, 9, 3]
    assert blocks(deepen_factor=0.33) == [1, 3, 3, 1]
    assert blocks(arch_ovewrite=[[64, 64, 2, True, False], [64, 128, 1, False, True]], out_indices=(1, 2)) == [2, 1]


def test_shortcuts_in_all_stages_but_the_last_which_pools():
    model = CSPDarknet(**SMALL)
    assert [getattr(model, f'stage{i}')[-1].blocks[0].add is not None for i in range(1, 5)] == [True, True, True, False]
    assert [len(getattr(model, f'stage{i}')) for i in range(1, 5)] == [2, 2, 2, 3]
    assert len(CSPDarknet(**SMALL, spp_kernal_sizes=(3, 5)).stage4[1].poolings) == 2


def test_depthwise_names_are_mmdetections():
    names = CSPDarknet(**SMALL, use_depthwise=True).state_dict()
    assert {'stem.conv.conv.weight', 'stage1.0.depthwise_conv.conv.weight', 'stage4.1.conv2.conv.weight',
            'stage2.1.blocks.2.conv2.pointwise_conv.bn.weight'} <= set(names)


def test_frozen_stages_learn_nothing_from_the_start():
    model = CSPDarknet(**SMALL, frozen_stages=1, norm_eval=True)
    for _ in range(2):
        assert [n for n in model.layers if not any(p.requires_grad for p in getattr(model, n).parameters())] == ['stem', 'stage1']
        model.train()
    assert [getattr(model, n).training for n in model.layers] == [False, False, True, True, True]
    assert not any(m.training for m in model.modules() if isinstance(m, _BatchNorm))


def test_convolutions_are_initialised_as_the_config_says():
    torch.manual_seed(0)
    model = CSPDarknet(**SMALL)
    model.init_weights()
    weight = model.stage3[0].conv.weight                       # uniform within 1 / sqrt(fan_in)
    bound = (weight[0].numel())**-0.5
    assert bound * 0.98 < weight.abs().max() <= bound
    assert_close(weight.std().item(), bound / 3**0.5, rtol=0.05, atol=0)


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(arch='P7'), "CSPDarknet arch 'P7' is unknown. Known: P5, P6."), (dict(out_indices=(2, 5)), 'CSPDarknet out_indices=(2, 5)'),
    (dict(frozen_stages=6), 'and frozen_stages=6 must lie in 0..4'), (dict(spp_kernal_sizes=(9, 5)), 'odd and ascend, not (9, 5)')])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        MODELS.build(dict(type='CSPDarknet', **cfg))
    assert said in str(caught.value)
