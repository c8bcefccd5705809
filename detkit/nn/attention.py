"""Multi-head attention (https://arxiv.org/abs/1706.03762, Sec. 3.2), with mmcv's parameter names."""
from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from detkit.nn.ms_deform_attn import refuse_batch_second
from detkit.nn.operators import Add


class MultiheadAttention(nn.Module):
    """Multi-head attention with a shortcut.

    ``attn_drop``: dropout of the attention weights; ``proj_drop``: dropout of the output; ``dropout``: mmcv's old name, sets both.
    """

    def __init__(self, embed_dims: int, num_heads: int, attn_drop: float = 0., proj_drop: float = 0., dropout: float | None = None,
                 batch_first: bool = True) -> None:
        super().__init__()
        refuse_batch_second(batch_first)
        self.embed_dims, self.num_heads = embed_dims, num_heads
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop if dropout is None else dropout)   # only holds the weights
        self.proj_drop = nn.Dropout(proj_drop if dropout is None else dropout)
        self.add_query_pos, self.add_memory_pos, self.add = Add(), Add(), Add()

    def forward(self, query: Tensor, memory: Tensor, query_pos: Tensor | None = None, memory_pos: Tensor | None = None,
                visible: Tensor | None = None) -> Tensor:
        """Return the query plus the attention output, (N, Q, C).

        Args:
            query: (N, Q, C).
            memory: (N, S, C); the same object as ``query`` for self-attention.
            query_pos, memory_pos: added to queries and keys, not to values. In self-attention ``query_pos`` is used for both.
            visible: bool, broadcast to (N, heads, Q, S): True where the query may attend; at least one True in every row.
        """
        attn, c = self.attn, self.embed_dims
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        asking = query if query_pos is None else self.add_query_pos(query, query_pos)
        if memory is query:
            q, k = F.linear(asking, weight[:2 * c], bias[:2 * c]).chunk(2, -1)
        else:
            q = F.linear(asking, weight[:c], bias[:c])
            k = F.linear(memory if memory_pos is None else self.add_memory_pos(memory, memory_pos), weight[c:2 * c], bias[c:2 * c])
        v = F.linear(memory, weight[2 * c:], bias[2 * c:])
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))             # (N, heads, length, C / heads)
        seen = F.scaled_dot_product_attention(q, k, v, visible, attn.dropout if self.training else 0.)
        return self.add(query, self.proj_drop(attn.out_proj(seen.transpose(1, 2).flatten(2))))
