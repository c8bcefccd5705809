"""MaskFormer's head (https://arxiv.org/abs/2107.06278): DETR's queries, each of which predicts a mask."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule, caffe2_xavier_init
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.models.query_heads.mask_queries import (
    MaskQueries,
    average_factors,
    build_decoder,
    check_class_weight,
    check_sampler,
    class_losses,
    labels_of,
    mask_embedding,
    masks_of,
    name_of,
    named_by_layer,
    query_of_object,
    true_segments,
)
from detkit.models.query_heads.outputs import QueryTargets
from detkit.models.query_heads.pixel_decoder import SINE
from detkit.models.settings import settings
from detkit.nn.positional import build_encoding
from detkit.nn.tokens import flatten_levels
from detkit.nn.transformer import run_decoder
from detkit.registry import MODELS, TASK_UTILS
from detkit.structures import DetDataSample
from detkit.tasks.matching import Candidates


@dataclass(frozen=True)
class MaskTraining:
    assigner: dict
    sampler: dict | None = None

    def __post_init__(self) -> None:
        check_sampler(self.sampler)


@MODELS.register_module()
class MaskFormerHead(BaseModule):
    """Pixel decoder, DETR's decoder, and a class and a mask for each query after each layer.

    Args:
        in_channels: channels of the backbone's maps, fine to coarse; the finest has stride 4.
        feat_channels: channels of queries and maps.
        out_channels: channels of the mask embeddings and mask features, whose dot products are the mask logits.
        num_things_classes, num_stuff_classes: labels below the first are things; the stuff labels follow, each with at most one segment per
            image.
        enforce_decoder_input_project: apply a 1x1 convolution before the decoder even if the channels match.
    """

    stride = 4
    strides = (stride,)     # stride of the masks

    def __init__(self, in_channels: list[int], feat_channels: int, out_channels: int, pixel_decoder: dict, transformer_decoder: dict,
                 num_things_classes: int = 80, num_stuff_classes: int = 53, num_queries: int = 100,
                 enforce_decoder_input_project: bool = False, positional_encoding: dict = SINE,
                 loss_cls: dict = dict(type='CrossEntropyLoss', loss_weight=1.0),
                 loss_mask: dict = dict(type='FocalLoss', use_sigmoid=True, loss_weight=20.0),
                 loss_dice: dict = dict(type='DiceLoss', naive_dice=True, loss_weight=1.0), train_cfg: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_things_classes, self.num_classes = num_things_classes, num_things_classes + num_stuff_classes
        self.num_queries = num_queries
        self.train_cfg = settings(MaskTraining, train_cfg, 'model.train_cfg')
        self.assigner = train_cfg and TASK_UTILS.build(train_cfg['assigner'])
        self.pixel_decoder = MODELS.build(pixel_decoder, in_channels=in_channels, feat_channels=feat_channels, out_channels=out_channels)
        self.transformer_decoder = build_decoder(transformer_decoder)
        c, memory = self.transformer_decoder.embed_dims, self.pixel_decoder.memory_channels
        project = c != memory or enforce_decoder_input_project and memory == in_channels[-1]
        self.decoder_input_proj = nn.Conv2d(memory, c, 1) if project else nn.Identity()
        self.decoder_pe = build_encoding(positional_encoding, c)
        self.query_embed = nn.Embedding(num_queries, out_channels)
        self.cls_embed = nn.Linear(feat_channels, self.num_classes + 1)
        self.mask_embed = mask_embedding(feat_channels, out_channels)
        self.loss_cls, self.loss_mask, self.loss_dice = (MODELS.build(cfg) for cfg in (loss_cls, loss_mask, loss_dice))
        check_class_weight(self.loss_cls, self.num_classes)
        if project:
            caffe2_xavier_init(self.decoder_input_proj)

    def forward(self, feats: tuple[Tensor, ...], sizes: Tensor | None = None, input_size: tuple[int, int] | None = None) -> MaskQueries:
        """Predict classes and masks from the backbone's maps, fine to coarse. ``sizes`` (N, 2): height and width of each image in a batch
        padded to ``input_size``."""
        features, memory = self.pixel_decoder(feats, sizes, input_size)
        tokens = flatten_levels((self.decoder_input_proj(memory),), self.decoder_pe, None, sizes, input_size)
        visible = None if tokens.padding is None else ~tokens.padding[:, None, None]
        query_pos = self.query_embed.weight.expand(features.shape[0], -1, -1)

        def look(layer: int, query: Tensor, carried: None) -> dict[str, Any]:
            return dict(query_pos=query_pos, memory_pos=tokens.pos, visible=visible)

        def predict(layer: int, query: Tensor, carried: None) -> tuple[tuple[Tensor, Tensor], None]:
            query = self.transformer_decoder.post_norm(query)
            return (self.cls_embed(query), self.mask_embed(query)), None

        logits, embeds = zip(*run_decoder(self.transformer_decoder.layers, query_pos * 0, tokens.feats, None, look, predict))
        return MaskQueries(torch.stack(logits), torch.stack(embeds), features)

    def targets(self, out: MaskQueries, samples: list[DetDataSample]) -> QueryTargets:
        """Return the targets. Objects are the things and then the stuff of an image, in the order of ``true_segments``."""
        segments = [true_segments(sample, self.num_things_classes, self.num_classes) for sample in samples]
        return QueryTargets(torch.stack([self.match(out.image(i), gt, sample)
                                         for i, (gt, sample) in enumerate(zip(segments, samples))], 1))

    def loss(self, out: MaskQueries, samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Return the losses of each layer, in float32: class losses of all queries, mask losses of matched queries at the size of the
        batch."""
        labels, predicted, wanted = [], [], []
        for i, sample in enumerate(samples):
            gt, image = true_segments(sample, self.num_things_classes, self.num_classes), out.image(i)
            index = self.match(image, gt, sample)
            labels.append(labels_of(index, gt.labels, self.num_classes))
            queries = query_of_object(index, len(gt))
            layer, which = (queries >= 0).nonzero(as_tuple=True)              # every layer has the same number of matches
            masks = masks_of(image.embeds[layer, queries[layer, which]], image.features)
            masks = F.interpolate(masks[:, None], gt.masks.shape[1:], mode='bilinear', align_corners=False)
            shape = len(queries), len(which) // len(queries), gt.masks.shape[1:].numel()
            predicted.append(masks.reshape(shape))
            wanted.append(gt.masks[which].view(shape))
        predicted, wanted = torch.cat(predicted, 1), torch.cat(wanted, 1)
        factors = average_factors(torch.stack(labels, 1), predicted.shape[1], self.loss_cls.class_weight)
        return named_by_layer(dict(
            loss_cls=class_losses(self.loss_cls, out.logits, torch.stack(labels, 1), factors),
            loss_mask=[self.loss_mask(p.reshape(-1, 1), 1 - w.flatten().long(), avg_factor=factors.masks * p.shape[1])
                       for p, w in zip(predicted, wanted)],                           # FocalLoss takes labels; 0 is the only class
            loss_dice=[self.loss_dice(p, w, avg_factor=factors.masks) for p, w in zip(predicted, wanted)]))

    @torch.no_grad()
    def match(self, image: MaskQueries, gt: InstanceData, sample: DetDataSample) -> Tensor:
        """Return the index (D, Q) of the object matched to each query, or -1. Costs are computed at all cells of the low-resolution
        masks."""
        masks = masks_of(image.embeds, image.features)
        small = F.interpolate(gt.masks[:, None].float(), masks.shape[-2:])[:, 0] if len(gt) else gt.masks
        targets = InstanceData(labels=gt.labels, masks=small.flatten(1))
        return self.assigner(Candidates(None, logits=image.logits, masks=masks.flatten(2), name=name_of(sample)), targets).index
