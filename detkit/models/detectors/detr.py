"""DETR (https://arxiv.org/abs/2005.12872)."""
from __future__ import annotations

from typing import Any

import torch.nn as nn
from torch import Tensor

from detkit.models.detectors.detector import Detector
from detkit.models.query_heads.outputs import QueryOutputs, stacked
from detkit.nn.attention import MultiheadAttention
from detkit.nn.positional import build_encoding
from detkit.nn.tokens import flatten_levels
from detkit.nn.transformer import Decoder, Encoder, run_decoder
from detkit.registry import MODELS


@MODELS.register_module()
class DETR(Detector):
    """An encoder over one feature map, a decoder with learnt queries, and one head shared by all decoder layers."""

    def __init__(self, backbone: dict, encoder: dict, decoder: dict, bbox_head: dict, positional_encoding: dict,
                 neck: dict | list[dict] | None = None, num_queries: int = 100, train_cfg: dict | None = None, test_cfg: dict | None = None,
                 data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        self.encoder = MODELS.build(encoder, type=Encoder, attention=MultiheadAttention)
        self.decoder = MODELS.build(decoder, type=Decoder, cross_attention=MultiheadAttention)
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

        def look(layer: int, query: Tensor, carried: None) -> dict[str, Any]:
            return dict(query_pos=query_pos, memory_pos=tokens.pos, visible=visible)

        def predict(layer: int, query: Tensor, carried: None) -> tuple[tuple[Tensor, Tensor], None]:
            return self.bbox_head(self.decoder.post_norm(query)), None

        return stacked(run_decoder(self.decoder.layers, query_pos * 0, memory, None, look, predict), self.decoder.return_intermediate)
