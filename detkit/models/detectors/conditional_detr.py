"""Conditional DETR (https://arxiv.org/abs/2108.06152)."""
from __future__ import annotations

from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from detkit.models.detectors.detector import Detector
from detkit.models.query_heads.outputs import QueryOutputs, stacked
from detkit.nn.attention import MultiheadAttention
from detkit.nn.ffn import MLP
from detkit.nn.ms_deform_attn import refuse_batch_second
from detkit.nn.operators import Add, Concat, Multiply
from detkit.nn.positional import build_encoding, sines
from detkit.nn.tokens import flatten_levels
from detkit.nn.transformer import Decoder, Encoder, run_decoder
from detkit.registry import MODELS, ConfigError


class ConditionalAttention(nn.Module):
    """Attention whose queries and keys have a content part and a spatial part, each with its own projection (Sec. 3.2).

    In self-attention the two parts are added. In cross-attention they are concatenated, and the spatial part of the query is made from its
    reference point; ``qpos_proj`` also adds the query's position to its content, in the first layer only or (``keep_query_pos``) in all.
    """

    def __init__(self, embed_dims: int, num_heads: int, attn_drop: float = 0., proj_drop: float = 0., cross_attn: bool = False,
                 keep_query_pos: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        refuse_batch_second(batch_first)
        self.embed_dims, self.num_heads, self.cross_attn, self.keep_query_pos = embed_dims, num_heads, cross_attn, keep_query_pos
        self.qcontent_proj, self.qpos_proj = nn.Linear(embed_dims, embed_dims), nn.Linear(embed_dims, embed_dims)
        self.kcontent_proj, self.kpos_proj = nn.Linear(embed_dims, embed_dims), nn.Linear(embed_dims, embed_dims)
        self.v_proj = nn.Linear(embed_dims, embed_dims)
        if cross_attn:
            self.qpos_sine_proj = nn.Linear(embed_dims, embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        nn.init.zeros_(self.out_proj.bias)
        self.attn_drop, self.proj_drop = nn.Dropout(attn_drop), nn.Dropout(proj_drop)
        self.add_query_pos, self.add_memory_pos, self.add = Add(), Add(), Add()
        if cross_attn:
            self.query_concat, self.key_concat = Concat(-1), Concat(-1)

    def forward(self, query: Tensor, memory: Tensor, query_pos: Tensor, memory_pos: Tensor | None = None, visible: Tensor | None = None,
                place: Tensor | None = None) -> Tensor:
        """Return the query plus the attention output, (N, Q, C). ``place`` (N, Q, C): the encoding of the reference point; the other
        arguments are those of ``MultiheadAttention``."""
        q, k = self.qcontent_proj(query), self.kcontent_proj(memory)
        k_pos = self.kpos_proj(memory_pos if self.cross_attn else query_pos)
        if self.qpos_proj is not None:
            q, k = self.add_query_pos(q, self.qpos_proj(query_pos)), self.add_memory_pos(k, k_pos)
        q, k, v = self.heads(q), self.heads(k), self.heads(self.v_proj(memory))
        if self.cross_attn:
            q = self.query_concat(q, self.heads(self.qpos_sine_proj(place)))
            k = self.key_concat(k, self.heads(k_pos).expand_as(k))
        seen = F.scaled_dot_product_attention(q, k, v, visible, self.attn_drop.p if self.training else 0.)
        return self.add(query, self.proj_drop(self.out_proj(seen.transpose(1, 2).flatten(2))))

    def heads(self, x: Tensor) -> Tensor:
        """Split (N, length, C) into heads: (N, heads, length, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class ConditionalDecoder(Decoder):
    """Decoder with ``ref_point_head``, which predicts a reference point from a query's position, and ``query_scale``, which predicts a
    factor of the reference point's encoding from the query's content."""

    inherits_arguments = True

    def __init__(self, layer_cfg: dict, **options: Any) -> None:
        if layer_cfg.get('self_attn_cfg', {}).get('cross_attn') or not layer_cfg.get('cross_attn_cfg', {}).get('cross_attn'):
            raise ConfigError('ConditionalDETR decoder: cross_attn must be True in layer_cfg.cross_attn_cfg and False in self_attn_cfg.')
        super().__init__(ConditionalAttention, layer_cfg=layer_cfg, self_attention=ConditionalAttention, **options)
        c = self.embed_dims
        self.query_scale, self.ref_point_head = MLP(c, c, c, 2), MLP(c, c, 2, 2)
        self.multiply = Multiply()
        for layer in (*self.query_scale.layers, *self.ref_point_head.layers):
            nn.init.xavier_uniform_(layer.weight)
        for layer in self.layers[1:]:
            if not layer.cross_attn.keep_query_pos:
                layer.cross_attn.qpos_proj = None


@MODELS.register_module()
class ConditionalDETR(Detector):
    """DETR whose queries attend to content and position separately; the position is a learnt reference point."""

    def __init__(self, backbone: dict, encoder: dict, decoder: dict, bbox_head: dict, positional_encoding: dict,
                 neck: dict | list[dict] | None = None, num_queries: int = 100, train_cfg: dict | None = None, test_cfg: dict | None = None,
                 data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        self.encoder = MODELS.build(encoder, type=Encoder, attention=MultiheadAttention)
        self.decoder = MODELS.build(decoder, type=ConditionalDecoder)
        self.positional_encoding = build_encoding(positional_encoding, self.encoder.embed_dims)
        self.query_embedding = nn.Embedding(num_queries, self.encoder.embed_dims)
        self.bbox_head = MODELS.build(bbox_head, train_cfg=train_cfg, test_cfg=test_cfg)
        self.bbox_head.check_queries(num_queries)

    def padding_context(self, sizes: Tensor | None) -> dict[str, Any]:
        return dict(sizes=sizes)

    def network(self, images: Tensor, sizes: Tensor | None = None) -> QueryOutputs:
        """Predict classes and boxes. ``sizes`` (N, 2): height and width of each image in pixels, if the batch is padded."""
        tokens = flatten_levels(self.extract_feat(images)[-1:], self.positional_encoding, None, sizes, images.shape[-2:])
        visible = None if tokens.padding is None else ~tokens.padding[:, None, None]
        memory = self.encoder(tokens.feats, tokens.pos, visible=visible)
        query_pos = self.query_embedding.weight.expand(images.shape[0], -1, -1)
        reference = self.decoder.ref_point_head(query_pos).float().sigmoid()                            # (N, Q, 2) x, y
        encoded = sines(reference.flip(-1), query_pos.shape[2] // 2).flatten(2).to(memory.dtype)

        def look(layer: int, query: Tensor, carried: None) -> dict[str, Any]:
            place = encoded if layer == 0 else self.decoder.multiply(encoded, self.decoder.query_scale(query))
            return dict(query_pos=query_pos, memory_pos=tokens.pos, visible=visible, place=place)

        def predict(layer: int, query: Tensor, carried: None) -> tuple[tuple[Tensor, Tensor], None]:
            return self.bbox_head(self.decoder.post_norm(query), reference), None

        return stacked(run_decoder(self.decoder.layers, query_pos * 0, memory, None, look, predict), self.decoder.return_intermediate)
