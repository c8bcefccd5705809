"""Mixed precision on the CPU: bfloat16 where it is asked for, gradients in float32, accumulation as one large batch."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from detkit.engine import amp, train
from detkit.engine.amp import AmpOptimWrapper, choose_dtype, native_bf16, settle_memory_format, settle_precision
from detkit.registry import ConfigError


def wrapped(model: nn.Module, **kwargs: Any) -> AmpOptimWrapper:
    return AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **kwargs)


def test_the_forward_pass_is_in_bfloat16_and_weights_stay_float32() -> None:
    model = nn.Linear(4, 4)
    wrapper = wrapped(model)
    with wrapper.optim_context(model):
        out = model(torch.ones(2, 4))
    assert out.dtype is torch.bfloat16
    before = model.weight.clone()
    wrapper.update_params(out.float().square().mean())
    assert model.weight.dtype is torch.float32 and not torch.equal(model.weight, before)


def test_accumulated_steps_equal_one_large_batch() -> None:
    torch.manual_seed(0)
    data, weights = torch.randn(8, 4), torch.randn(4, 4)
    results = []
    for parts in (1, 2):
        model = nn.Linear(4, 4, bias=False)
        model.weight.data.copy_(weights)
        wrapper = wrapped(model, accumulative_counts=parts)
        wrapper.initialize_count_status(model, 0, parts)
        for part in data.chunk(parts):
            with wrapper.optim_context(model):
                loss = model(part).float().square().mean()
            wrapper.update_params(loss)
        results.append(model.weight.detach())
    assert torch.allclose(*results, atol=1e-3) and not torch.equal(results[0], weights)


def test_a_loss_scale_changes_no_gradient_and_clipping_sees_unscaled_ones() -> None:
    steps = []
    for scale in ('dynamic', 512., dict(init_scale=8.)):
        model = nn.Linear(2, 1, bias=False)
        model.weight.data.fill_(1)
        wrapper = wrapped(model, loss_scale=scale, clip_grad=dict(max_norm=1.))
        wrapper.update_params(model(torch.full((1, 2), 3.)).sum())       # gradient (3, 3), clipped to length 1
        steps.append(model.weight.detach().clone())
        wrapper.load_state_dict(wrapper.state_dict())
    expected = torch.full((1, 2), 1 - 0.1 / 2 ** 0.5)
    assert all(torch.allclose(step, expected, atol=1e-6) for step in steps)


def test_a_scaled_step_with_an_infinite_gradient_is_left_out() -> None:
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    wrapper = wrapped(model, loss_scale=dict(init_scale=8.))
    wrapper.update_params(model(torch.tensor([[float('inf')]])).sum())
    assert torch.equal(model.weight, before) and wrapper.scaler.get_scale() == 4


@pytest.mark.parametrize('kwargs, message', [
    (dict(dtype='float16'), 'needs CUDA'), (dict(dtype='float64'), 'neither'), (dict(loss_scale='static'), 'loss_scale'),
    (dict(use_fsdp=True), 'use_fsdp')])
def test_what_cannot_be_done_here_is_refused(kwargs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrapped(nn.Linear(1, 1), **kwargs)


def test_dtypes_follow_the_device() -> None:
    assert choose_dtype(None, 'cuda') is torch.float16 and choose_dtype(None, 'cpu') is torch.bfloat16
    assert choose_dtype('bfloat16', 'cuda') is torch.bfloat16 and choose_dtype(torch.float16, 'cuda') is torch.float16


@pytest.mark.parametrize('flags, native', [({'avx2', 'avx512_bf16'}, True), ({'amx_bf16'}, True), ({'bf16'}, True), ({'avx2'}, False),
                                           (set(), False)])
def test_auto_follows_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch, flags: set, native: bool) -> None:
    monkeypatch.setattr(amp, 'cpu_flags', lambda: flags)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(amp='auto', channels_last='auto', optim_wrapper=dict(type='AmpOptimWrapper', optimizer={}, loss_scale='dynamic')))
    said = settle_precision(cfg)
    assert native_bf16()[0] is native and cfg.channels_last == (True if native else 'auto')
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if native else 'OptimWrapper')
    assert all(('on' if native else 'off') in line and 'CPU' in line for line in said) and len(said) == (2 if native else 1)
    assert ('dtype' in cfg.optim_wrapper) is native and ('loss_scale' in cfg.optim_wrapper) is native


@pytest.mark.parametrize('given, depthwise, chosen, line', [
    ('auto', True, True, 'channels_last: on (the model has depthwise convolutions)'),
    ('auto', False, False, 'channels_last: off (the model has no depthwise convolutions)'),
    (True, False, True, None), (False, True, False, None), (None, True, None, None)])
def test_depthwise_convolutions_decide_where_bfloat16_does_not(given: Any, depthwise: bool, chosen: bool | None, line: str | None) -> None:
    model, cfg = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4 if depthwise else 2)), Config(dict(channels_last=given))
    assert settle_memory_format(cfg, model) == ([line] if line else []) and cfg.channels_last == chosen
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) is bool(chosen)


def test_without_the_keys_nothing_changes() -> None:
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer={})))
    assert settle_precision(cfg) == [] and cfg.optim_wrapper.type == 'OptimWrapper'
    with pytest.raises(ConfigError, match="amp='fp16'"):
        settle_precision(Config(dict(amp='fp16')))


def test_a_run_in_bfloat16_with_channels_last_trains(toy: Any, tmp_path: Any) -> None:
    runner = train(toy(tmp_path, channels_last=True), amp=True)
    assert isinstance(runner.optim_wrapper, AmpOptimWrapper)
    assert runner.model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    batch = runner.model.data_preprocessor(dict(inputs=torch.ones(2, 3, 4, 4)))
    assert batch['inputs'].is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar('train/loss').data[0])).all()
