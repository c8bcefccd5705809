import pytest
import torch

from detkit.nn.attention import MultiheadAttention
from detkit.registry import ConfigError


@pytest.fixture
def attention() -> MultiheadAttention:
    torch.manual_seed(0)
    return MultiheadAttention(8, 2, dropout=0.1).eval()


def test_it_is_torchs_attention_with_positions_and_a_shortcut(attention: MultiheadAttention):
    query, memory = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    query_pos, memory_pos = torch.randn(2, 5, 8), torch.randn(1, 7, 8)
    attention.attn.batch_first = True
    want = query + attention.attn(query + query_pos, memory + memory_pos, memory)[0]
    torch.testing.assert_close(attention(query, memory, query_pos, memory_pos), want)


def test_self_attention_compares_with_one_position(attention: MultiheadAttention):
    x, pos = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(attention(x, x, pos), attention(x, x.clone(), pos, pos))


def test_a_query_sees_only_what_is_visible(attention: MultiheadAttention):
    query, memory = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    visible = torch.arange(7) < 3
    torch.testing.assert_close(attention(query, memory, visible=visible[None, None, None]), attention(query, memory[:, :3]))


def test_dropout_is_of_the_attention_and_of_the_output(attention: MultiheadAttention):
    assert (attention.attn.dropout, attention.proj_drop.p) == (0.1, 0.1)
    apart = MultiheadAttention(8, 2, attn_drop=0.2, proj_drop=0.3)
    assert (apart.attn.dropout, apart.proj_drop.p) == (0.2, 0.3)


def test_batches_come_first():
    with pytest.raises(ConfigError, match='batch_first=False is not supported'):
        MultiheadAttention(8, 2, batch_first=False)
