"""Mask2Former's head (https://arxiv.org/abs/2112.01527): queries attend only to the region of their own predicted mask."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
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
from detkit.models.query_heads.pixel_decoder import SINE, xavier_normal
from detkit.models.settings import settings
from detkit.nn.operators import Add, Resize
from detkit.nn.positional import build_encoding
from detkit.nn.transformer import DecoderLayer
from detkit.ops.points import sample_points, uncertain_points
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.random_streams import RandomStream
from detkit.structures.sample import generator_of
from detkit.tasks.matching import Candidates

CROSS_ENTROPY = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0)
DICE = dict(type='DiceLoss', use_sigmoid=True, activate=True, naive_dice=True, eps=1.0, loss_weight=5.0)


@dataclass(frozen=True)
class PointTraining:
    assigner: dict
    sampler: dict | None = None
    num_points: int = 12544                  # points per mask at which costs and losses are computed
    oversample_ratio: float = 3.0            # candidate points per sampled point
    importance_sample_ratio: float = 0.75    # fraction of the points sampled where the mask is uncertain

    def __post_init__(self) -> None:
        check_sampler(self.sampler)


class MaskedDecoderLayer(DecoderLayer):
    """A decoder layer with cross-attention before self-attention (Sec. 3.2.2): before the first cross-attention, queries have no image
    features to exchange."""

    def forward(self, query: Tensor, memory: Tensor, query_pos: Tensor, memory_pos: Tensor, visible: Tensor) -> Tensor:
        """Return queries (N, Q, C). ``visible`` (N, 1, Q, S) bool: True where a query may attend."""
        query = self.norms[0](self.cross_attn(query, memory, query_pos, memory_pos, visible))
        query = self.norms[1](self.self_attn(query, query, query_pos))
        return self.norms[2](self.ffn(query))


@MODELS.register_module()
class Mask2FormerHead(BaseModule):
    """Pixel decoder, transformer decoder, and a class and a mask for each query after each layer.

    Args:
        in_channels, strides: channels and strides of the backbone's maps, fine to coarse; masks have the first stride.
        feat_channels: channels of queries and maps.
        out_channels: channels of the mask embeddings and mask features, whose dot products are the mask logits.
        num_things_classes, num_stuff_classes: labels below the first are things; the stuff labels follow, each with at most one segment per
            image.
        num_transformer_feat_level: number of maps that the decoder layers use in turn.
        enforce_decoder_input_project: apply a 1x1 convolution to these maps even if the channels match.
    """

    def __init__(self, in_channels: list[int], feat_channels: int, out_channels: int, pixel_decoder: dict, transformer_decoder: dict,
                 num_things_classes: int = 80, num_stuff_classes: int = 53, num_queries: int = 100, num_transformer_feat_level: int = 3,
                 enforce_decoder_input_project: bool = False, positional_encoding: dict = SINE, strides: list[int] = [4, 8, 16, 32],
                 loss_cls: dict = dict(type='CrossEntropyLoss', loss_weight=2.0),
                 loss_mask: dict = CROSS_ENTROPY, loss_dice: dict = DICE, train_cfg: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_things_classes, self.num_classes = num_things_classes, num_things_classes + num_stuff_classes
        self.num_queries, self.stride = num_queries, strides[0]
        self.strides = (self.stride,)          # stride of the masks
        self.train_cfg = settings(PointTraining, train_cfg, 'model.train_cfg')
        self.assigner = train_cfg and TASK_UTILS.build(train_cfg['assigner'])
        self.pixel_decoder = MODELS.build(pixel_decoder, in_channels=in_channels, strides=strides, feat_channels=feat_channels,
                                          out_channels=out_channels)
        self.transformer_decoder = build_decoder(transformer_decoder, layer=MaskedDecoderLayer)
        c = self.transformer_decoder.embed_dims
        if self.pixel_decoder.num_outs < num_transformer_feat_level:
            raise ConfigError(f'num_transformer_feat_level={num_transformer_feat_level} exceeds pixel_decoder.num_outs='
                              f'{self.pixel_decoder.num_outs}.')
        project = c != feat_channels or enforce_decoder_input_project
        self.decoder_input_projs = nn.ModuleList(nn.Conv2d(feat_channels, c, 1) if project else nn.Identity()
                                                 for _ in range(num_transformer_feat_level))
        self.positional_encoding = build_encoding(positional_encoding, c)
        self.query_embed, self.query_feat = nn.Embedding(num_queries, feat_channels), nn.Embedding(num_queries, feat_channels)
        self.level_embed = nn.Embedding(num_transformer_feat_level, feat_channels)
        self.level_adds = nn.ModuleList(Add() for _ in range(num_transformer_feat_level))
        self.level_resizes = nn.ModuleList(Resize(mode='bilinear', align_corners=False) for _ in range(num_transformer_feat_level))
        self.cls_embed = nn.Linear(feat_channels, self.num_classes + 1)
        self.mask_embed = mask_embedding(feat_channels, out_channels)
        self.loss_cls, self.loss_mask, self.loss_dice = (MODELS.build(cfg) for cfg in (loss_cls, loss_mask, loss_dice))
        check_class_weight(self.loss_cls, self.num_classes)
        xavier_normal(self.transformer_decoder)
        for projection in self.decoder_input_projs if project else ():
            caffe2_xavier_init(projection)

    def forward(self, feats: tuple[Tensor, ...], sizes: Tensor | None = None, input_size: tuple[int, int] | None = None) -> MaskQueries:
        """Predict classes and masks from the backbone's maps, fine to coarse. ``sizes`` and ``input_size`` are ignored: padding is attended
        to as well, as in the official code."""
        features, maps = self.pixel_decoder(feats)
        memories, places, resized = [], [], []
        for x, project, add, resize, level in zip(maps, self.decoder_input_projs, self.level_adds, self.level_resizes,
                                                  self.level_embed.weight):
            memories.append(add(project(x).flatten(2).transpose(1, 2), level))
            places.append(self.positional_encoding(x.shape[-2:], x.device).flatten(1, 2).to(x.dtype))
            resized.append(resize(features, x.shape[-2:]))
        query, query_pos = (e.weight.expand(features.shape[0], -1, -1) for e in (self.query_feat, self.query_embed))
        logits, embeds = zip(self.predict(query))
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(memories)
            visible = where_masked(embeds[-1], resized[level])
            query = layer(query, memories[level], query_pos, places[level], visible)
            logits, embeds = ((*all_, new) for all_, new in zip((logits, embeds), self.predict(query)))
        return MaskQueries(torch.stack(logits), torch.stack(embeds), features)

    def predict(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (N, Q, K + 1) and mask embeddings (N, Q, out_channels) from queries (N, Q, C)."""
        query = self.transformer_decoder.post_norm(query)
        return self.cls_embed(query), self.mask_embed(query)

    def targets(self, out: MaskQueries, samples: list[DetDataSample]) -> QueryTargets:
        """Return the targets. Objects are the things and then the stuff of an image, in the order of ``true_segments``."""
        index = []
        for i, sample in enumerate(samples):
            gt, generator = true_segments(sample, self.num_things_classes, self.num_classes), on_device(sample, out.features.device)
            index.append(self.match(out.image(i), gt, generator, sample))
        return QueryTargets(torch.stack(index, 1))

    def loss(self, out: MaskQueries, samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Return the losses of each layer, in float32: class losses of all queries, mask losses of matched queries."""
        labels, predicted, wanted = [], [], []
        for i, sample in enumerate(samples):
            gt, generator = true_segments(sample, self.num_things_classes, self.num_classes), on_device(sample, out.features.device)
            image = out.image(i)
            index = self.match(image, gt, generator, sample)
            labels.append(labels_of(index, gt.labels, self.num_classes))
            masks, targets = self.at_points(image, gt.masks, query_of_object(index, len(gt)), generator)
            predicted.append(masks)
            wanted.append(targets)
        predicted, wanted = torch.cat(predicted, 1), torch.cat(wanted, 1)
        factors = average_factors(torch.stack(labels, 1), predicted.shape[1], self.loss_cls.class_weight)
        return named_by_layer(dict(
            loss_cls=class_losses(self.loss_cls, out.logits, torch.stack(labels, 1), factors),
            loss_mask=[self.loss_mask(p.flatten(), w.flatten(), avg_factor=factors.masks * p.shape[1]) for p, w in zip(predicted, wanted)],
            loss_dice=[self.loss_dice(p, w, avg_factor=factors.masks) for p, w in zip(predicted, wanted)]))

    @torch.no_grad()
    def match(self, image: MaskQueries, gt: InstanceData, generator: torch.Generator | None, sample: DetDataSample) -> Tensor:
        """Return the index (D, Q) of the object matched to each query, or -1. Costs are computed at points that all layers share."""
        points = torch.rand(1, self.train_cfg.num_points, 2, generator=generator, device=image.features.device)
        masks = image.embeds @ sample_points(image.features[None], points)[0]
        targets = InstanceData(labels=gt.labels, masks=sample_points(gt.masks[None].float(), points)[0])
        return self.assigner(Candidates(None, logits=image.logits, masks=masks, name=name_of(sample)), targets).index

    def at_points(self, image: MaskQueries, targets: Tensor, queries: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return predictions and targets of M matched objects at P points: logits (D, M, P) and values (D, M, P) in [0, 1].

        ``targets`` (G, H, W); ``queries`` (D, G): index of each object's query, -1 if there are more objects than queries.
        """
        depth, layer, cfg = len(queries), torch.arange(len(queries), device=queries.device)[:, None], self.train_cfg
        masks = masks_of(image.embeds[layer, queries.clamp(min=0)], image.features).flatten(0, 1)           # (D * G, h, w)
        points = uncertain_points(masks, cfg.num_points, cfg.oversample_ratio, cfg.importance_sample_ratio, generator)
        predicted = sample_points(masks[:, None], points)[:, 0].unflatten(0, queries.shape)
        points = points.unflatten(0, queries.shape).transpose(0, 1)
        wanted = sample_points(targets[:, None].float(), points)[:, 0].transpose(0, 1)
        matched = queries >= 0
        return predicted[matched].view(depth, -1, cfg.num_points), wanted[matched].view(depth, -1, cfg.num_points)

def where_masked(embeds: Tensor, features: Tensor) -> Tensor:
    """Return the attention mask (N, 1, Q, S) bool: the cells of a level inside a query's predicted mask (Sec. 3.2.1); all cells if the mask
    is empty.

    ``features`` (N, C, h, w): the mask features, resized to the level. This equals resizing the masks and needs less memory.
    """
    on = embeds.detach() @ features.detach().flatten(2) >= 0
    return (on | ~on.any(-1, keepdim=True))[:, None]


def on_device(sample: DetDataSample, device: torch.device) -> torch.Generator | None:
    """Return the same as ``generator_of``, but on the device of the masks: drawing millions of points on the CPU would be slower than using
    them."""
    generator = generator_of(sample, RandomStream.MASK_POINTS)
    return generator if generator is None or device.type == 'cpu' else torch.Generator(device).manual_seed(generator.initial_seed())
