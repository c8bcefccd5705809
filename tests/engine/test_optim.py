"""Parameter groups: mmengine's settings for every parameter, in few groups."""
from __future__ import annotations

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor as MMEngineConstructor
from torch import nn

from detkit.engine.optim import DefaultOptimWrapperConstructor
from detkit.registry import OPTIM_WRAPPER_CONSTRUCTORS, register_all_modules

RULES = {
    'norms and biases': dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    'rates': dict(bias_lr_mult=2., bias_decay_mult=0.5),
    'depthwise, flat': dict(dwconv_decay_mult=0.1, flat_decay_mult=0.2, norm_decay_mult=0.3),
    'keys': dict(custom_keys={'backbone': dict(lr_mult=0.1, decay_mult=1.0), 'backbone.0': dict(lr_mult=0.2), 'norm': dict(decay_mult=0.)},
                 norm_decay_mult=0.5),
    'biases alone': dict(bias_decay_mult=0.),
}


class Small(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)
        self.query = nn.Parameter(torch.zeros(5))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.backbone(x).mean((2, 3)))).square().sum() + self.query.sum()


def settings(kind: type, model: nn.Module, rules: dict, **optimizer: object) -> dict[str, dict]:
    wrapper = kind(dict(optimizer=dict(dict(type='AdamW', lr=0.01, weight_decay=0.1), **optimizer)), rules)(model)
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: {k: v for k, v in group.items() if k not in ('params', 'fused')}
            for group in wrapper.optimizer.param_groups for p in group['params']}


@pytest.fixture(autouse=True)
def registered():
    register_all_modules(init_default_scope=True)


@pytest.mark.parametrize('rules', RULES.values(), ids=RULES)
def test_every_parameter_has_the_settings_that_mmengine_gives_it(rules: dict):
    model = Small()
    ours, theirs = (settings(kind, model, rules) for kind in (DefaultOptimWrapperConstructor, MMEngineConstructor))
    assert ours == theirs
    assert 'head.weight' in ours and 'frozen.weight' not in ours


def test_equal_settings_share_a_group_and_nothing_is_logged(caplog: pytest.LogCaptureFixture):
    build = OPTIM_WRAPPER_CONSTRUCTORS.get('DefaultOptimWrapperConstructor')
    assert build is DefaultOptimWrapperConstructor
    with caplog.at_level('INFO', MMLogger.get_current_instance().name):
        wrapper = build(dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1)), RULES['norms and biases'])(Small())
    assert [g['weight_decay'] for g in wrapper.optimizer.param_groups] == [0.1, 0.]
    assert not caplog.records


def test_a_shared_layer_counts_once():
    model = Small()
    model.again = model.head
    assert settings(DefaultOptimWrapperConstructor, model, RULES['rates']) \
        == settings(DefaultOptimWrapperConstructor, Small(), RULES['rates'])


@pytest.mark.parametrize(('kind', 'extra'), [('AdamW', {}), ('SGD', dict(momentum=0.9))])
def test_fused_steps_are_the_steps(kind: str, extra: dict):
    """On the CPU they are taken unless the config says how."""
    models = []
    for options in ({}, dict(foreach=False)):
        torch.manual_seed(0)
        model = Small()
        wrapper = DefaultOptimWrapperConstructor(dict(optimizer=dict(type=kind, lr=0.01, weight_decay=0.1, **extra, **options)))(model)
        assert bool(wrapper.optimizer.param_groups[0].get('fused')) is (not options)
        for seed in range(3):
            wrapper.update_params(model(torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed))))
        models.append(model)
    for ours, plain in zip(*(m.parameters() for m in models)):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_an_optimizer_without_fused_steps_is_built_as_it_is():
    wrapper = DefaultOptimWrapperConstructor(dict(optimizer=dict(type='Adadelta', lr=0.01)))(Small())
    assert type(wrapper.optimizer).__name__ == 'Adadelta'
