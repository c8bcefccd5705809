import pytest
import torch

from detkit.nn.ffn import FFN, MLP
from detkit.registry import ConfigError


def test_parameters_have_mmcvs_names():
    assert list(FFN(4, 8).state_dict()) == ['layers.0.0.weight', 'layers.0.0.bias', 'layers.1.weight', 'layers.1.bias']
    assert 'layers.1.0.weight' in FFN(4, 8, num_fcs=3).state_dict()


def test_the_shortcut_can_be_left_out():
    ffn, x = FFN(4, 8), torch.randn(2, 3, 4)
    want = ffn(x) - x
    ffn.add = None
    torch.testing.assert_close(ffn(x), want)


def test_one_layer_is_none():
    with pytest.raises(ConfigError, match='num_fcs=1 must be at least 2'):
        FFN(4, 8, num_fcs=1)


def test_an_mlp_ends_without_activation():
    mlp = MLP(2, 2, 1, 2)
    for layer, weight in zip(mlp.layers, ([[1., 0.], [0., 1.]], [[1., -1.]])):
        layer.weight.data, layer.bias.data = torch.tensor(weight), torch.zeros(len(weight))
    assert mlp(torch.tensor([[-3., 2.], [5., -1.]])).flatten().tolist() == [-2., 5.]
