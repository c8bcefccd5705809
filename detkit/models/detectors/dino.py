"""DINO (https://arxiv.org/abs/2203.03605)."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from detkit.models.detectors.deformable_detr import around, encoded, proposals_of, refuse_post_norm
from detkit.models.detectors.detector import Detector
from detkit.models.query_heads.denoising import Denoising, DenoisingQueries
from detkit.models.query_heads.outputs import QueryOutputs, stacked
from detkit.models.query_heads.proposals import best_rows
from detkit.nn.ffn import MLP
from detkit.nn.ms_deform_attn import MultiScaleDeformableAttention
from detkit.nn.positional import build_encoding, sines
from detkit.nn.tokens import flatten_levels
from detkit.nn.transformer import Decoder, Encoder, run_decoder
from detkit.registry import MODELS, ConfigError
from detkit.structures import DetDataSample
from detkit.tasks.query_boxes import SigmoidBoxes


class DINODecoder(Decoder):
    """Decoder that makes the positions of queries from their boxes with ``ref_point_head``; ``norm`` is applied before the head."""

    inherits_arguments = True

    def __init__(self, **options: Any) -> None:
        refuse_post_norm(options)
        super().__init__(MultiScaleDeformableAttention, **options | dict(post_norm_cfg=None))
        c = self.embed_dims
        self.ref_point_head, self.norm = MLP(2 * c, c, c, 2), nn.LayerNorm(c)
        for layer in self.ref_point_head.layers:
            nn.init.xavier_uniform_(layer.weight)


@MODELS.register_module()
class DINO(Detector):
    """Two-stage Deformable DETR with box refinement and three changes:

    - mixed query selection (Sec. 3.4): boxes of queries come from the encoder's best proposals, contents of queries are learnt;
    - look forward twice (Sec. 3.5): the boxes of a layer also train the previous layer;
    - contrastive denoising (Sec. 3.3): from noisy copies of the objects, the model restores those with small noise and rejects those with
      large noise.

    Args:
        dn_cfg: ``label_noise_scale``, ``box_noise_scale``, ``group_cfg`` (see ``detkit.models.query_heads.denoising``).
    """

    def __init__(self, backbone: dict, encoder: dict, decoder: dict, bbox_head: dict, positional_encoding: dict, dn_cfg: dict,
                 neck: dict | list[dict] | None = None, num_queries: int = 100, num_feature_levels: int = 4, with_box_refine: bool = True,
                 as_two_stage: bool = True, train_cfg: dict | None = None, test_cfg: dict | None = None,
                 data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        if not (with_box_refine and as_two_stage):
            raise ConfigError(f'DINO has with_box_refine={with_box_refine} and as_two_stage={as_two_stage}; both must be True.')
        self.encoder = MODELS.build(encoder, type=Encoder, attention=MultiScaleDeformableAttention)
        self.decoder = MODELS.build(decoder, type=DINODecoder)
        c = self.encoder.embed_dims
        self.positional_encoding = build_encoding(positional_encoding, c)
        self.level_embed = nn.Parameter(torch.randn(num_feature_levels, c))
        self.query_embedding = nn.Embedding(num_queries, c)
        self.memory_trans_fc, self.memory_trans_norm = nn.Linear(c, c), nn.LayerNorm(c)
        nn.init.xavier_uniform_(self.query_embedding.weight)
        nn.init.xavier_uniform_(self.memory_trans_fc.weight)
        self.bbox_head = MODELS.build(bbox_head, train_cfg=train_cfg, test_cfg=test_cfg, num_pred_layer=len(self.decoder.layers) + 1,
                                      as_two_stage=True, proposals_have_classes=True)
        self.bbox_head.check_queries(num_queries)
        self.dn_query_generator = DenoisingQueries(dn_cfg, self.bbox_head.num_classes, c)
        self.refine = SigmoidBoxes(1e-3)

    def padding_context(self, sizes: Tensor | None) -> dict[str, Any]:
        return dict(sizes=sizes)

    def context(self, samples: list[DetDataSample], training: bool) -> dict[str, Any]:
        return super().context(samples, training) | dict(denoising=self.dn_query_generator.draw(samples) if training else None)

    def network(self, images: Tensor, sizes: Tensor | None = None, denoising: Denoising | None = None) -> QueryOutputs:
        """Predict classes and boxes. ``sizes`` (N, 2): height and width of each image in pixels, if the batch is padded."""
        tokens = flatten_levels(self.extract_feat(images), self.positional_encoding, self.level_embed, sizes, images.shape[-2:])
        memory = encoded(self.encoder, tokens)
        logits, raw = proposals_of(self, memory, tokens, len(self.decoder.layers))
        logits, raw = best_rows(logits.max(-1).values, self.query_embedding.num_embeddings, logits, raw)
        query, start, among = self.query_embedding.weight.expand(images.shape[0], -1, -1), raw.detach().sigmoid(), None
        if denoising is not None:
            among = denoising.among(query.shape[1])
            query, start = torch.cat([self.dn_query_generator(denoising), query], 1), torch.cat([denoising.boxes, start], 1)

        def look(layer: int, query: Tensor, boxes: Tensor) -> dict[str, Any]:
            where = around(boxes.detach(), tokens)
            y_first = where['references'][:, :, 0][..., [1, 0, 2, 3]]
            query_pos = self.decoder.ref_point_head(sines(y_first, query.shape[2] // 2).flatten(2).to(query.dtype))
            return dict(query_pos=query_pos, among=among, **where)

        def predict(layer: int, query: Tensor, boxes: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            refined = self.refine(self.bbox_head.reg_branches[layer](query), boxes.detach())
            return self.bbox_head(layer, self.decoder.norm(query), boxes), refined

        predictions = run_decoder(self.decoder.layers, query, memory, start, look, predict)
        return stacked(predictions, self.decoder.return_intermediate, proposal_logits=logits, proposal_boxes=raw.sigmoid(),
                       denoised=None if denoising is None else denoising.index)
