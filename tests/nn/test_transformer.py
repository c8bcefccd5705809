from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detkit.nn.attention import MultiheadAttention
from detkit.nn.transformer import Encoder, run_decoder
from detkit.registry import ConfigError

LAYER = dict(self_attn_cfg=dict(embed_dims=8, num_heads=2), ffn_cfg=dict(embed_dims=8, feedforward_channels=16))


def test_recomputed_layers_give_the_same_gradients():
    grads = []
    for num_cp in (-1, 2):
        torch.manual_seed(0)
        encoder = Encoder(MultiheadAttention, 2, LAYER, num_cp)
        encoder(torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.zeros(1, 5, 8)).sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_no_more_layers_are_recomputed_than_there_are():
    with pytest.raises(ConfigError, match='num_cp=3 exceeds num_layers=2'):
        Encoder(MultiheadAttention, 2, LAYER, 3)


def test_a_misspelt_argument_of_a_layer_is_named():
    with pytest.raises(ConfigError, match=r"ffn_cfg: FFN takes no argument 'feedforward_chanels'. Did you mean 'feedforward_channels'"):
        Encoder(MultiheadAttention, 1, LAYER | dict(ffn_cfg=dict(feedforward_chanels=16)))


class Step(nn.Module):

    def forward(self, query: Tensor, memory: Tensor, factor: float) -> Tensor:
        return query * factor + memory


def test_what_a_layer_carries_on_decides_where_the_next_looks():
    def look(i: int, query: Tensor, carried: float) -> dict[str, Any]:
        return dict(factor=carried)

    def predict(i: int, query: Tensor, carried: float) -> tuple[tuple[int, float], float]:
        return (i, query.item()), carried + 1

    # 1 * 2 + 10 = 12, then 12 * 3 + 10 = 46
    assert run_decoder(nn.ModuleList([Step(), Step()]), torch.tensor(1.), torch.tensor(10.), 2., look, predict) == [(0, 12.), (1, 46.)]
