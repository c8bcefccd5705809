"""Deformable DETR (https://arxiv.org/abs/2010.04159): basic, with iterative box refinement, and two-stage."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from detkit.models.detectors.detector import Detector
from detkit.models.query_heads.outputs import QueryOutputs, stacked
from detkit.models.query_heads.proposals import best_rows, cell_boxes
from detkit.nn.ms_deform_attn import MultiScaleDeformableAttention
from detkit.nn.positional import build_encoding, sines
from detkit.nn.tokens import Tokens, flatten_levels
from detkit.nn.transformer import Decoder, Encoder, run_decoder
from detkit.registry import MODELS, ConfigError


@MODELS.register_module()
class DeformableDETR(Detector):
    """Deformable attention over several levels: self-attention in the encoder, cross-attention in the decoder.

    Args:
        with_box_refine: each decoder layer refines the boxes of the previous layer (Sec. A.4) and has its own branches in the head.
        as_two_stage: queries are the encoder's ``num_queries`` best proposals instead of learnt embeddings.
    """

    def __init__(self, backbone: dict, encoder: dict, decoder: dict, bbox_head: dict, positional_encoding: dict,
                 neck: dict | list[dict] | None = None, num_queries: int = 100, num_feature_levels: int = 4,
                 with_box_refine: bool = False, as_two_stage: bool = False, train_cfg: dict | None = None, test_cfg: dict | None = None,
                 data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        self.encoder = MODELS.build(encoder, type=Encoder, attention=MultiScaleDeformableAttention)
        refuse_post_norm(decoder)
        self.decoder = MODELS.build(decoder, type=Decoder, cross_attention=MultiScaleDeformableAttention, post_norm_cfg=None)
        c, layers = self.encoder.embed_dims, len(self.decoder.layers)
        self.positional_encoding = build_encoding(positional_encoding, c)
        self.level_embed = nn.Parameter(torch.randn(num_feature_levels, c))
        self.num_queries, self.with_box_refine, self.as_two_stage = num_queries, with_box_refine, as_two_stage
        if as_two_stage:
            self.memory_trans_fc, self.memory_trans_norm = nn.Linear(c, c), nn.LayerNorm(c)
            self.pos_trans_fc, self.pos_trans_norm = nn.Linear(2 * c, 2 * c), nn.LayerNorm(2 * c)
            nn.init.xavier_uniform_(self.memory_trans_fc.weight)
            nn.init.xavier_uniform_(self.pos_trans_fc.weight)
        else:
            self.query_embedding = nn.Embedding(num_queries, 2 * c)
            self.reference_points_fc = nn.Linear(c, 2)
            nn.init.xavier_uniform_(self.reference_points_fc.weight)
            nn.init.zeros_(self.reference_points_fc.bias)
        self.bbox_head = MODELS.build(bbox_head, train_cfg=train_cfg, test_cfg=test_cfg, num_pred_layer=layers + as_two_stage,
                                      share_pred_layer=not with_box_refine, as_two_stage=as_two_stage)
        self.bbox_head.check_queries(num_queries)

    def padding_context(self, sizes: Tensor | None) -> dict[str, Any]:
        return dict(sizes=sizes)

    def network(self, images: Tensor, sizes: Tensor | None = None) -> QueryOutputs:
        """Predict classes and boxes. ``sizes`` (N, 2): height and width of each image in pixels, if the batch is padded."""
        tokens = flatten_levels(self.extract_feat(images), self.positional_encoding, self.level_embed, sizes, images.shape[-2:])
        memory = encoded(self.encoder, tokens)
        query, query_pos, start, proposals = self.propose(memory, tokens) if self.as_two_stage else self.learnt(images.shape[0])

        def look(layer: int, query: Tensor, reference: Tensor) -> dict[str, Any]:
            return dict(query_pos=query_pos, **around(reference, tokens))

        def predict(layer: int, query: Tensor, reference: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            logits, boxes = self.bbox_head(layer, query, reference)
            return (logits, boxes), boxes.detach() if self.with_box_refine else reference

        predictions = run_decoder(self.decoder.layers, query, memory, start, look, predict)
        return stacked(predictions, self.decoder.return_intermediate, **proposals)

    def learnt(self, count: int) -> tuple[Tensor, Tensor, Tensor, dict]:
        """Return learnt queries, their positions and reference points, expanded to ``count`` images (Sec. 4.1)."""
        query_pos, query = self.query_embedding.weight.expand(count, -1, -1).chunk(2, -1)
        return query, query_pos, self.reference_points_fc(query_pos).float().sigmoid(), {}

    def propose(self, memory: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, dict]:
        """Return the proposals with the highest objectness as queries (Sec. A.4), and the outputs for all proposals."""
        last = len(self.decoder.layers)
        logits, raw = proposals_of(self, memory, tokens, last)
        start = best_rows(logits[..., 0], self.num_queries, raw.detach())[0].sigmoid()
        embedded = self.pos_trans_norm(self.pos_trans_fc(sines(start, memory.shape[2] // 2).flatten(2)))
        query_pos, query = embedded.chunk(2, -1)
        return query, query_pos, start, dict(proposal_logits=logits, proposal_boxes=raw.sigmoid())


def refuse_post_norm(decoder: dict) -> None:
    """Raise ConfigError if the decoder's config asks for a ``post_norm``."""
    if decoder.get('post_norm_cfg') is not None:
        raise ConfigError('a deformable decoder has no post_norm; set post_norm_cfg=None.', decoder, ('post_norm_cfg',))


def encoded(encoder: Encoder, tokens: Tokens) -> Tensor:
    """Return the encoder's output, (N, S, C): tokens after deformable self-attention."""
    return encoder(tokens.feats, tokens.pos, references=tokens.references(), shapes=tokens.shapes, padding=tokens.padding)


def around(reference: Tensor, tokens: Tokens) -> dict[str, Any]:
    """Return the keyword arguments of deformable cross-attention for references (N, Q, 2 or 4), normalised by the image size."""
    ratios = tokens.ratios if reference.shape[-1] == 2 else tokens.ratios.repeat(1, 1, 2)
    return dict(references=reference[:, :, None] * ratios[:, None], shapes=tokens.shapes, padding=tokens.padding)


def proposals_of(detector: nn.Module, memory: Tensor, tokens: Tokens, branch: int) -> tuple[Tensor, Tensor]:
    """Return class logits (N, S, K) and boxes before the sigmoid (N, S, 4) of each token, from branch ``branch`` of the head."""
    cells, memory = cell_boxes(tokens, memory)
    memory = detector.memory_trans_norm(detector.memory_trans_fc(memory))
    head = detector.bbox_head
    return head.cls_branches[branch](memory), head.reg_branches[branch](memory).float() + cells
