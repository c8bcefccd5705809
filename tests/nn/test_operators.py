"""Operations as modules: their values, and that they export and compile without a trace in the state dict."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from detkit.nn.operators import Add, Concat, MaxResize, Mean, Multiply, Resize


def test_values():
    a, b = torch.tensor([[1., 2.]]), torch.tensor([[3., 5.]])
    assert Add()(a, b).tolist() == [[4., 7.]]
    assert Multiply()(a, b).tolist() == [[3., 10.]]
    assert Mean()(a, b, b + 2, a).tolist() == [[2.5, 4.]]
    assert Concat()(a, b, a).tolist() == [[1., 2., 3., 5., 1., 2.]]
    assert Concat(0)(a, b).tolist() == [[1., 2.], [3., 5.]]


def test_sizes_are_the_callers_or_follow_from_the_factor():
    x = torch.arange(4.).reshape(1, 1, 2, 2)
    assert_close(Resize()(x, (3, 4)), F.interpolate(x, (3, 4)))
    assert_close(Resize(mode='bilinear', align_corners=False)(x, (3, 4)), F.interpolate(x, (3, 4), mode='bilinear', align_corners=False))
    assert_close(Resize(scale_factor=2)(x, (3, 4)), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert MaxResize()(x, (1, 2)).tolist() == [[[[2., 3.]]]]
    with pytest.raises(TypeError, match='mod'):
        Resize(mod='nearest')


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.add, self.multiply, self.mean, self.concat = Add(), Multiply(), Mean(), Concat()
        self.up, self.down = Resize(scale_factor=2, mode='nearest'), Resize(mode='bilinear')

    def forward(self, x: Tensor) -> Tensor:
        y = self.add(x, self.conv(x))
        y = self.concat(self.multiply(x, y), self.mean(x, y))
        return self.down(self.up(y), x.shape[-2:])


def test_they_hold_nothing_and_export_with_any_size():
    net, x = Net().eval(), torch.randn(3, 3, 6, 10)
    assert list(net.state_dict()) == ['conv.weight', 'conv.bias'] == [name for name, _ in net.named_parameters()]
    batch, height, width = (torch.export.Dim(name, min=1, max=64) for name in ('batch', 'height', 'width'))
    program = torch.export.export(net, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch, 2: height, 3: width},))
    assert_close(program.module()(x), net(x))


def test_symbolic_tracing_shows_them_as_modules():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.add = nn.Conv2d(3, 3, 1), Add()

        def forward(self, x: Tensor) -> Tensor:
            return self.add(self.conv(x), x)

    tracer = torch.fx.Tracer()
    tracer.is_leaf_module = lambda module, name: not any(True for _ in module.children())
    assert [node.target for node in tracer.trace(Residual()).nodes if node.op == 'call_module'] == ['conv', 'add']
