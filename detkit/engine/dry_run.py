"""Run a model on fake tensors, which have shapes and dtypes but no values, without memory for its weights and without arithmetic.

This finds layers whose shapes do not match and models that ``torch.export`` cannot trace. ``torch.export.export`` does the same trace
but takes 2 to 5 times as long (RetinaNet, Faster R-CNN, DINO).
"""
from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from detkit.models.detectors.detector import Detector
from detkit.ops.nms import NotExportable
from detkit.registry import ConfigError

SIDES = (256, 224)              # of the square images: multiples of 32; many pretrained networks require 224
MAX_REASON = 160                # characters of a torch error message
DATA_DEPENDENT = ('DataDependentOutputException', 'DynamicOutputShapeException', 'GuardOnDataDependentSymNode')
FAULTS_OF_INPUTS = (ValueError, IndexError)        # raised by a module's forward if it gets too few or too many maps


@dataclass
class DryRun:
    """``error``: layers do not fit each other at any image size. ``export_problem``: why the model cannot be exported; '' if it can."""

    error: ConfigError | None = None
    export_problem: str = ''


@dataclass
class Failure:
    """Where and how a run failed. ``widths``: (expected, actual) number of channels of a layer with a fixed number of them."""

    error: Exception
    layer: str                                    # name in the model; '' outside of a layer
    module: nn.Module                             # the layer; outside of a layer, the part that ran last
    widths: tuple[int, int] | None
    last_part: str                                # name of the direct child of the model that ran last
    part_outputs: dict[str, list[int]]            # name of a direct child of the model -> channels of its output maps

    def is_same_fault(self, other: Failure) -> bool:
        """Return whether runs with two image sizes failed in the same way, so that the error does not depend on the size."""
        if self.layer != other.layer or type(self.error) is not type(other.error):
            return False
        if self.widths or other.widths:
            return self.widths == other.widths
        of_config = isinstance(self.error, ConfigError) and not isinstance(self.error, NotExportable)
        return (of_config or bool(self.layer) and isinstance(self.error, FAULTS_OF_INPUTS)) and str(self.error) == str(other.error)


def dry_run(model: nn.Module, described: Any = None) -> DryRun:
    """Run ``model.exportable()`` (or the network, if export is not supported) on fake tensors; the model is not changed.

    ``described``: the model's config, used to find the config key of an error. A model that is not a ``Detector``, or has lazy weights
    (shapes from the first input), is not run.
    """
    reason = missing_export(model)
    if not isinstance(model, Detector) or any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        return DryRun(export_problem=reason)
    # Fake tensors add a device. Autograd would start a thread for it, and forked processes could not train: it counts devices only once.
    torch.ones((), requires_grad=True).backward()
    modes = [(module, module.training) for module in model.modules()]
    try:
        failure = run_on_fake_images(model, SIDES[0], decodes=not reason)
        if failure is None:
            return DryRun(export_problem=reason)
        second = run_on_fake_images(model, SIDES[1], decodes=not reason)
    finally:
        for module, training in modes:
            module.training = training
    if second is None:                            # the network accepts one image size only
        return DryRun(export_problem=reason)
    if failure.is_same_fault(second):
        return DryRun(error=config_error(failure, described))
    return DryRun(export_problem=reason or export_reason(failure, described))


def missing_export(model: nn.Module) -> str:
    """Return why ``model.exportable()`` is not available; '' if it is."""
    if not hasattr(model, 'exportable'):
        return f'{type(model).__name__} has no exportable()'
    if isinstance(model, Detector) and type(model).decode is Detector.decode and not hasattr(getattr(model, 'bbox_head', None), 'decode'):
        return f'{type(getattr(model, "bbox_head", model)).__name__} has no decode()'
    return ''


def run_on_fake_images(model: nn.Module, side: int, decodes: bool) -> Failure | None:
    # Imported here because they take seconds; a training imports them in any case, at the optimizer's first step.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        inputs = torch.empty(1, 3, side, side), torch.full((1, 2), side)
        runs, inputs = (model.exportable(), inputs) if decodes else (model.eval(), inputs[:1])           # forward(images) is the network
        with fake_weights(model), watched(model) as run:
            try:
                runs(*inputs)
            except Exception as error:            # any module of any package may raise; the error is classified or becomes a reason
                layer, module, given = run.entered[-1] if run.entered else ('', getattr(model, run.last_part, model), ())
                return Failure(error, layer, module, layer_widths(module, given), run.last_part, run.part_outputs)
    return None


@contextmanager
def fake_weights(model: nn.Module) -> Iterator[None]:
    """Replace each tensor of ``model`` by a fake tensor; a shared tensor by one shared fake tensor."""
    fakes: dict[int, Tensor] = {}
    replaced = [(tensors, name, value) for module in model.modules() for tensors in (module._parameters, module._buffers, vars(module))
                for name, value in tensors.items() if isinstance(value, Tensor)]
    try:
        for tensors, name, value in replaced:
            if id(value) not in fakes:
                fakes[id(value)] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
            tensors[name] = fakes[id(value)]
        yield
    finally:
        for tensors, name, value in replaced:
            tensors[name] = value


@dataclass
class Run:
    entered: list[tuple[str, nn.Module, tuple]] = field(default_factory=list)       # modules whose forward has started and not finished
    last_part: str = ''
    part_outputs: dict[str, list[int]] = field(default_factory=dict)


@contextmanager
def watched(model: nn.Module) -> Iterator[Run]:
    """Record which module of ``model`` runs and the output maps of its direct children; torch does not print its own error report."""
    run, handles = Run(), []

    def enter(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            run.entered.append((name, module, args))
            run.last_part = name.split('.')[0]
        return hook

    def leave(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            run.entered.pop()
            if '.' not in name and isinstance(output, (list, tuple)) and all(isinstance(x, Tensor) and x.ndim == 4 for x in output):
                run.part_outputs[name] = [x.shape[1] for x in output]
        return hook

    logger = logging.getLogger('torch._subclasses.fake_tensor')
    before, logger.disabled = logger.disabled, True
    try:
        for name, module in model.named_modules():
            if name:
                handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
        yield run
    finally:
        logger.disabled = before
        for handle in handles:
            handle.remove()


def layer_widths(module: nn.Module, inputs: tuple) -> tuple[int, int] | None:
    """Return the (expected, actual) number of input channels of a layer if they differ, else None."""
    for kind, attribute, axis in ((nn.modules.conv._ConvNd, 'in_channels', 1), (nn.Linear, 'in_features', -1),
                                  (nn.modules.batchnorm._BatchNorm, 'num_features', 1), (nn.GroupNorm, 'num_channels', 1)):
        if isinstance(module, kind) and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim > 1:
            widths = getattr(module, attribute), inputs[0].shape[axis]
            return widths if widths[0] != widths[1] else None
    return None


def config_error(failure: Failure, described: Any) -> ConfigError:
    path, layer = config_part(failure.layer or failure.last_part, described)
    maps = [f"{name} gives {len(widths)} map{'s' * (len(widths) > 1)} of {', '.join(map(str, widths))} channels"
            for name, widths in failure.part_outputs.items() if name != failure.layer.split('.')[0]]
    given = f' ({maps[-1]})' if maps else ''
    if failure.widths is not None:
        expected, got = failure.widths
        return ConfigError(f'its layer {layer} ({type_of(failure.module)}) takes {expected} channels and gets {got}{given}. Make these '
                           f'equal.', path=path)
    error = failure.error
    if isinstance(error, ConfigError):
        return ConfigError(error.message, path=path)
    return ConfigError(f'{type_of(failure.module)} cannot use its input{given}: {type(error).__name__}: {one_sentence(error)}.', path=path)


def config_part(layer: str, described: Any) -> tuple[tuple[str, ...], str]:
    """Split a layer's name into the config key of the model's part that it belongs to, and the rest."""
    names, path = layer.split('.'), ['model']
    while names and (isinstance(described, dict) and isinstance(described.get(names[0]), (dict, list, tuple))
                     or isinstance(described, (list, tuple)) and names[0].isdigit() and int(names[0]) < len(described)):
        name = names.pop(0)
        described = described[name] if isinstance(described, dict) else described[int(name)]
        path.append(name if not name.isdigit() else f'[{name}]')
    return tuple(path), '.'.join(names)


def export_reason(failure: Failure, described: Any) -> str:
    path, layer = config_part(failure.layer or failure.last_part, described)
    where = f"{'.'.join(path).replace('.[', '[')}{f', layer {layer}' if layer else ''} ({type_of(failure.module)})"
    if any(cls.__name__ in DATA_DEPENDENT for cls in type(failure.error).__mro__):
        return f'{where} does one thing or another depending on the values of a tensor'
    return f'{where}: {one_sentence(failure.error)}'


def type_of(module: nn.Module) -> str:
    return type(module).__name__


def one_sentence(error: Exception) -> str:
    """Return the first sentence of an error message, without a full stop."""
    text = ' '.join((str(error) or type(error).__name__).split())
    first = re.split(r'(?<=[^.])\.\s', text)[0].rstrip('.')
    return first if len(first) <= MAX_REASON else first[:MAX_REASON].rsplit(' ', 1)[0] + ' ...'
