"""Network parts add, multiply, join, resize and activate feature maps in modules, one for each place."""
from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kinds import DETECTORS, SIZE, small_detector
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detkit.models.backbones.resnet import BasicBlock
from detkit.nn.operators import Add, Concat, MaxResize, Mean, Multiply, Resize

DETKIT = str(Path(sys.modules['detkit'].__file__).parent)
OPERATIONS = dict(
    add=(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, torch.sub, Tensor.sub, Tensor.__sub__,
         Tensor.__rsub__),
    multiply=(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, torch.div, Tensor.div,
              Tensor.__truediv__),
    concat=(torch.cat, torch.concat, torch.hstack, torch.vstack),
    resize=(F.interpolate, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    activate=tuple(getattr(owner, name) for owner in (torch, Tensor, F) for name in (
        'relu', 'relu_', 'sigmoid', 'sigmoid_', 'tanh', 'silu', 'gelu', 'hardsigmoid', 'hardswish', 'leaky_relu', 'mish', 'elu')
        if hasattr(owner, name)))
NAMES = {function: name for name, functions in OPERATIONS.items() for function in functions}

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Hardsigmoid)
PLACES = (Add, Concat, MaxResize, Mean, Multiply, Resize, *ACTIVATIONS)

# (function of detkit, operation) -> why no module does it
TO_PIXELS = 'raw outputs become distances or boxes in pixels, in float32: decoding that stands in the head'
BOXES = 'boxes and references, four numbers a query, in float32'
EXCEPTIONS = {
    ('CenterNetUpdateHead.forward', 'multiply'): TO_PIXELS, ('RTMDetSepBNHead.forward', 'multiply'): TO_PIXELS,
    ('RTMDetInsSepBNHead.forward', 'multiply'): TO_PIXELS, ('RTMDetInsSepBNHead.forward', 'activate'): TO_PIXELS,
    ('TOODHead.forward', 'multiply'): TO_PIXELS, ('TOODHead.boxes_of', 'add'): TO_PIXELS, ('TOODHead.boxes_of', 'concat'): TO_PIXELS,
    ('geometric_mean', 'add'): 'of two scores, in float32', ('geometric_mean', 'multiply'): 'of two scores, in float32',
    ('SABLRetinaHead.forward', 'concat'): 'two raw outputs are returned as one tensor',
    ('TaskDecomposition.forward', 'multiply'): 'weights of the convolution, made for each image',
    ('MultiScaleDeformableAttention.forward', 'add'): 'coordinates that are sampled, in float32',
    ('MultiScaleDeformableAttention.forward', 'multiply'): 'coordinates that are sampled, in float32',
    ('flatten_levels', 'concat'): "the levels' cells one after the other: a change of layout",
    ('proposals_of', 'add'): BOXES, ('DETRHead.forward', 'activate'): BOXES, ('DINO.network', 'activate'): BOXES,
    ('DeformableDETR.propose', 'activate'): BOXES}
# called once for each level or layer, as the convolutions beside it
SHARED = {'rpn_head.rpn_relu', 'rpn.bbox_head.rpn_relu', 'tood.bbox_head.concat', 'conditional_detr.decoder.multiply'}


class Watch(TorchFunctionMode):
    """Collect the operations on what depends on the images that no leaf module does: function of detkit that calls, and operation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.calls: Counter[nn.Module] = Counter()
        self.stack: list[nn.Module] = []
        for module in model.modules():
            module.register_forward_pre_hook(self.enter)
            module.register_forward_hook(self.leave)

    def enter(self, module: nn.Module, inputs: object) -> None:
        self.calls[module] += 1
        self.stack.append(module)

    def leave(self, module: nn.Module, inputs: object, output: object) -> None:
        self.stack.pop()

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        in_leaf = self.stack and not any(True for _ in self.stack[-1].children())
        if function in NAMES and not in_leaf and any(x.requires_grad for x in tensors((args, kwargs))):
            self.found |= {(place, NAMES[function]) for place in caller(sys._getframe(1))}
        return function(*args, **(kwargs or {}))


def tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def caller(frame: FrameType | None) -> set[str]:
    """The innermost function of detkit; none for operators (detkit.ops), coders of boxes (detkit.tasks) and networks of timm's."""
    while frame is not None and (not frame.f_code.co_filename.startswith(DETKIT) or frame.f_code.co_name.startswith('<')):
        if '/timm/' in frame.f_code.co_filename:
            return set()
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith((f'{DETKIT}/ops/', f'{DETKIT}/tasks/')):
        return set()
    owner = f'{type(frame.f_locals["self"]).__name__}.' if 'self' in frame.f_locals else ''
    return {owner + frame.f_code.co_name}


def network_and_regions(model: nn.Module, images: Tensor) -> None:
    """The network, and the layers of a second stage, with features in place of regions."""
    model.network(images)
    roi_head = getattr(model, 'roi_head', None)
    for name, size in (('bbox_head', 3), ('mask_head', 4)):
        heads = getattr(roi_head, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads] if heads is not None else []:
            head(torch.randn(2, 16, size, size, requires_grad=True))


@cache
def watched(kind: str) -> tuple[nn.Module, Watch]:
    """Parameters are constants, so that what requires a gradient is what depends on the images."""
    model = small_detector(kind).requires_grad_(False)
    watch = Watch(model)
    with watch:
        network_and_regions(model, torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).requires_grad_())
    return model, watch


@pytest.fixture(params=list(DETECTORS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_networks_have_a_module_for_each_operation(kind: str):
    assert watched(kind)[1].found - set(EXCEPTIONS) == set()


def test_each_module_serves_one_place(kind: str):
    """It is called as often as the module that it is a part of, and not once more."""
    model, watch = watched(kind)
    for name, module in model.named_modules():
        if isinstance(module, PLACES) and not name.startswith('backbone.timm_model.') and not {name, f'{kind}.{name}'} & SHARED:
            owners = [model.get_submodule(name[:i]) for i, letter in enumerate(name) if letter == '.']
            assert watch.calls[module] <= [watch.calls[owner] for owner in owners if watch.calls[owner]][-1], name


def test_every_exception_is_needed():
    assert set(EXCEPTIONS) <= set().union(*(watched(kind)[1].found for kind in DETECTORS))


def test_a_functional_operation_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """The residual addition of a detector's ResNet, written as MMDetection writes it."""
    def forward(self: BasicBlock, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))

    code = forward.__code__.replace(co_filename=f'{DETKIT}/models/backbones/resnet.py')
    monkeypatch.setattr(BasicBlock, 'forward', FunctionType(code, globals()))
    assert watched.__wrapped__('retinanet')[1].found == {('BasicBlock.forward', 'add'), ('BasicBlock.forward', 'activate')}
