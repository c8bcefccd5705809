"""The optimizer's parameter groups."""
from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor as MMEngineConstructor
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from detkit.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DefaultOptimWrapperConstructor(MMEngineConstructor):
    """mmengine's constructor with ``paramwise_cfg``, but one parameter group for all parameters with the same options.

    mmengine makes one group per parameter. An optimizer loops over groups, so a step of RTMDet would have hundreds of small updates,
    and the log a page of groups. On the CPU, torch's fused kernels are used unless the config chooses other ones.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = getattr(model, 'module', model)
        kind = self.optimizer_cfg['type']
        kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
        if 'fused' in inspect.signature(kind).parameters and not {'fused', 'foreach', 'differentiable'} & set(self.optimizer_cfg) \
                and all(p.device.type == 'cpu' for p in model.parameters()):
            self.optimizer_cfg = {**self.optimizer_cfg, 'fused': True}
        return super().__call__(model)

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: bool | None = None) -> None:
        """Append the groups of ``module``'s trainable parameters in the order of their first parameter; add a shared parameter once."""
        groups: dict[str, dict] = {}
        seen = set()
        for name, owner in module.named_modules(prefix=prefix):
            for key, param in owner.named_parameters(recurse=False):
                if param.requires_grad and param not in seen:
                    seen.add(param)
                    options = dict(self.options(f'{name}.{key}' if name else key, param.ndim, owner))
                    groups.setdefault(repr(sorted(options.items())), dict(params=[], **options))['params'].append(param)
        params += groups.values()

    def options(self, name: str, ndim: int, owner: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield the options of the parameter ``name`` of the layer ``owner`` that differ from the optimizer's defaults."""
        cfg = self.paramwise_cfg
        for key, values in sorted(sorted((cfg.get('custom_keys') or {}).items()), key=lambda item: len(item[0]), reverse=True):
            if key in name:                                          # the longest matching key; of keys of equal length, the first
                yield 'lr', self.base_lr * values.get('lr_mult', 1.)
                if self.base_wd is not None:
                    yield 'weight_decay', self.base_wd * values.get('decay_mult', 1.)
                yield from values.items()
                return
        norm, bias = isinstance(owner, NORMS), name.rpartition('.')[2] == 'bias'
        offsets = 'conv_offset' in name and isinstance(owner, nn.Conv2d)       # of a deformable convolution
        if bias and not norm and not offsets and cfg.get('bias_lr_mult') is not None:
            yield 'lr', self.base_lr * cfg['bias_lr_mult']
        if offsets and cfg.get('dcn_offset_lr_mult') is not None:
            yield 'lr', self.base_lr * cfg['dcn_offset_lr_mult']
        depthwise = isinstance(owner, nn.Conv2d) and owner.in_channels == owner.groups
        rules = (('norm_decay_mult', norm), ('bias_decay_mult', bias and not offsets), ('dwconv_decay_mult', depthwise),
                 ('flat_decay_mult', ndim == 1 and not offsets))
        for rule, applies in rules if self.base_wd is not None else ():
            if applies and cfg.get(rule) is not None:
                yield 'weight_decay', self.base_wd * cfg[rule]
                return
