"""Mixed precision and memory format: set by the config or chosen for the machine, and logged.

bfloat16 has the range of float32 and needs no loss scaling; float16 needs it, and works on CUDA only. A CPU with avx512_bf16 or AMX
trains more than twice as fast with bfloat16 and channels_last. A CPU without them is slower with bfloat16, and faster with
channels_last only if convolutions are depthwise.
"""
from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from detkit.registry import OPTIM_WRAPPERS, ConfigError

DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """Run the forward pass under autocast, on the CPU and on CUDA.

    Args:
        loss_scale: ``'dynamic'``, a number (static), or the arguments of ``torch.amp.GradScaler``. With bfloat16, ``'dynamic'``
                    means no scaling, because bfloat16 does not need it.
                dtype: ``'float16'`` (CUDA only) or ``'bfloat16'``; None: float16 on CUDA, as in MMDetection, else bfloat16.
                optimizer, accumulative_counts, clip_grad: as in mmengine's OptimWrapper. Gradients are unscaled before clipping.

    Raises:
            ConfigError: another dtype, float16 without CUDA, a wrong type of loss_scale, or ``use_fsdp=True``.
    """

    inherits_arguments = True

    def __init__(self, loss_scale: str | float | dict = 'dynamic', dtype: str | torch.dtype | None = None, use_fsdp: bool = False,
                 **kwargs: Any) -> None:
        if use_fsdp:
            raise ConfigError('AmpOptimWrapper: use_fsdp=True is not supported; leave it out.')
        super().__init__(**kwargs)
        self.device = get_device()
        self.dtype = choose_dtype(dtype, self.device)
        self.static_scale = float(loss_scale) if isinstance(loss_scale, (int, float)) else None
        self.scaler = make_scaler(loss_scale, self.dtype, self.device)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(self.device, self.dtype):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        super().backward(loss if self.scaler is None else self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        if self.scaler is None:
            super().step(**kwargs)
            return
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update(self.static_scale)

    def state_dict(self) -> dict:
        state = super().state_dict()
        return state if self.scaler is None else dict(state, loss_scaler=self.scaler.state_dict())

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        scale = state_dict.pop('loss_scaler', None)          # absent if the checkpoint's run had no loss scaling
        if scale and self.scaler is not None:
            self.scaler.load_state_dict(scale)
        super().load_state_dict(state_dict)


def choose_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    if dtype is None:
        return torch.float16 if device == 'cuda' else torch.bfloat16
    dtype = DTYPES.get(dtype, dtype)
    if dtype not in DTYPES.values():
        raise ConfigError(f"AmpOptimWrapper: dtype={dtype!r} is neither 'float16' nor 'bfloat16'. For full precision use OptimWrapper.")
    if dtype is torch.float16 and device != 'cuda':
        raise ConfigError(f"AmpOptimWrapper: dtype='float16' needs CUDA and this run is on '{device}'. Use dtype='bfloat16'.")
    return dtype


def make_scaler(loss_scale: str | float | dict, dtype: torch.dtype, device: str) -> torch.amp.GradScaler | None:
    if isinstance(loss_scale, dict):
        return torch.amp.GradScaler(device, **loss_scale)
    if isinstance(loss_scale, (int, float)) and not isinstance(loss_scale, bool):
        return torch.amp.GradScaler(device, init_scale=float(loss_scale))
    if loss_scale != 'dynamic':
        raise ConfigError(f"AmpOptimWrapper: loss_scale={loss_scale!r} is neither 'dynamic' nor a number nor a dict.")
    return torch.amp.GradScaler(device) if dtype is torch.float16 else None


# ---------------------------------------------------------------------------------------------------------- choosing
def native_bf16() -> tuple[bool, str]:
    """Return whether bfloat16 is fast on this machine, and the reason."""
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        return capability >= (8, 0), f'{torch.cuda.get_device_name()} (compute capability {capability[0]}.{capability[1]})'
    flags = cpu_flags()
    found = sorted(flags & {'avx512_bf16', 'amx_bf16', 'bf16', 'avx_ne_convert'})
    machine = platform.machine() or 'unknown'
    return bool(found), f"the CPU ({machine}) has {', '.join(found)}" if found else f'the CPU ({machine}) has no bfloat16 arithmetic'


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags from Linux's /proc/cpuinfo; empty on other systems."""
    path = Path('/proc/cpuinfo')
    lines = path.read_text(errors='replace').splitlines() if path.is_file() else []
    return next((set(line.split(':', 1)[1].split()) for line in lines if line.lower().startswith(('flags', 'features'))), set())


def settle_precision(cfg: Config) -> list[str]:
    """Apply ``amp`` and ``channels_last`` of ``cfg``, in place; return log lines about the choices.

    Each is True, False, ``'auto'`` (on if the machine is faster with it) or absent (``amp``: as in optim_wrapper; ``channels_last``: off).
    ``amp=False`` also turns an AmpOptimWrapper off.
    """
    native, why = native_bf16()
    said = []
    amp, wrapper = switch(cfg, 'amp'), cfg.get('optim_wrapper')
    if amp is not None and wrapper is not None:
        if amp is True or (amp == 'auto' and (native or torch.cuda.is_available())):
            turn_on(wrapper, native and amp == 'auto')
            said.append(f"mixed precision: on ({wrapper.get('dtype') or str(choose_dtype(None, get_device()))[6:]}; {why})")
        else:
            turn_off(wrapper)
            said.append(f'mixed precision: off ({why})' if amp == 'auto' else 'mixed precision: off')
    if switch(cfg, 'channels_last') == 'auto' and (native or torch.cuda.is_available()):
        cfg.channels_last = True
        said.append(f'channels_last: on ({why})')
    return said                                           # otherwise ``settle_memory_format`` decides, which needs the model


def switch(cfg: Config, key: str) -> bool | str | None:
    value = cfg.get(key)
    if value not in (True, False, 'auto', None):
        raise ConfigError(f"{key}={value!r} is neither True, False nor 'auto'.")
    return value


def turn_on(wrapper: dict, bfloat16: bool) -> None:
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(f"amp works with OptimWrapper, not with optim_wrapper.type='{kind}'.")
    wrapper['type'] = 'AmpOptimWrapper'
    if bfloat16:
        wrapper.setdefault('dtype', 'bfloat16')


def turn_off(wrapper: dict) -> None:
    if wrapper.get('type') == 'AmpOptimWrapper':
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)


def settle_memory_format(cfg: Config, model: nn.Module) -> list[str]:
    """Apply ``channels_last`` of ``cfg`` to ``model``; return log lines about the choice.

    If ``settle_precision`` left ``'auto'``: on for a model with depthwise convolutions. In float32 on a CPU without bfloat16, channels_last
    multiplies the time of their training steps by 0.7 to 0.85, and that of ResNets by 1.06 to 1.08 (benchmarks/threads.py).
    """
    said = []
    if cfg.get('channels_last') == 'auto':
        cfg.channels_last = has_depthwise(model)
        said.append(f"channels_last: {'on (the model has' if cfg.channels_last else 'off (the model has no'} depthwise convolutions)")
    if cfg.get('channels_last'):
        use_channels_last(model)
    return said


def has_depthwise(model: nn.Module) -> bool:
    """Return whether ``model`` has a depthwise convolution (as many groups as input channels)."""
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())


def use_channels_last(model: nn.Module) -> None:
    """Use the channels_last memory format for the model's weights and its input batches."""
    model.to(memory_format=torch.channels_last)
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is not None:
        preprocessor.register_forward_hook(channels_innermost)


def channels_innermost(module: nn.Module, args: tuple, output: Any) -> Any:
    if isinstance(output, dict) and isinstance(output.get('inputs'), Tensor) and output['inputs'].dim() == 4:
        return dict(output, inputs=output['inputs'].contiguous(memory_format=torch.channels_last))
    return output
