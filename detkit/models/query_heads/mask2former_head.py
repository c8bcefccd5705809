"""Mask2Former's head (https://arxiv.org/abs/2112.01527): queries that look where their own mask is."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule, caffe2_xavier_init
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.query_heads.mask_queries import MaskQueries, masks_of, named_by_layer, query_of_object, true_segments
from detkit.models.query_heads.pixel_decoder import SINE, xavier_normal
from detkit.models.settings import settings
from detkit.nn.attention import MultiheadAttention
from detkit.nn.conv import build_norm
from detkit.nn.transformer import DecoderLayer
from detkit.ops.points import sample_points, uncertain_points
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.sample import generator_of
from detkit.tasks.matching import Candidates
from detkit.tasks.samplers import PseudoSampler

MASK_POINTS = 4      # purpose of the generator: apart from other heads'
CROSS_ENTROPY = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0)
DICE = dict(type='DiceLoss', use_sigmoid=True, activate=True, naive_dice=True, eps=1.0, loss_weight=5.0)


@dataclass(frozen=True)
class PointTraining:
    assigner: Any
    sampler: Any = None
    num_points: int = 12544                  # of a mask, at which it is compared
    oversample_ratio: float = 3.0            # so many times as many are tried
    importance_sample_ratio: float = 0.75    # share of them that lies where the mask is unsure

    def __post_init__(self) -> None:
        if self.num_points < 1 or self.oversample_ratio < 1 or not 0 <= self.importance_sample_ratio <= 1:
            raise ConfigError(f'train_cfg num_points={self.num_points}, oversample_ratio={self.oversample_ratio} and '
                              f'importance_sample_ratio={self.importance_sample_ratio} must be at least 1, at least 1, and in [0, 1].')
        if self.sampler is not None and not isinstance(TASK_UTILS.build(self.sampler), PseudoSampler):
            raise ConfigError(f"train_cfg sampler='{self.sampler['type']}' does not fit: all queries are trained. "
                              f'Known: MaskPseudoSampler.')


class MaskedDecoderLayer(DecoderLayer):
    """Cross-attention comes first (Sec. 3.2.2): queries learn nothing of each other before they have looked."""

    def forward(self, query: Tensor, memory: Tensor, query_pos: Tensor, memory_pos: Tensor, visible: Tensor) -> Tensor:
        """(N, Q, C) -> (N, Q, C). ``visible`` (N, 1, Q, S) bool."""
        query = self.norms[0](self.cross_attn(query, memory, query_pos, memory_pos, visible))
        query = self.norms[1](self.self_attn(query, query, query_pos))
        return self.norms[2](self.ffn(query))


class MaskedDecoder(BaseModule):
    """The layers, and the norm through which predictions see the queries."""

    def __init__(self, num_layers: int, layer_cfg: dict, post_norm_cfg: dict = dict(type='LN'), return_intermediate: bool = True,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if not return_intermediate:
            raise ConfigError('Mask2Former predicts after every layer; return_intermediate=False is not supported.')
        self.layers = nn.ModuleList(MODELS.build(layer_cfg, type=MaskedDecoderLayer, cross_attention=MultiheadAttention)
                                    for _ in range(num_layers))
        self.embed_dims = self.layers[0].embed_dims
        self.post_norm = build_norm(post_norm_cfg, self.embed_dims)[1]


@MODELS.register_module()
class Mask2FormerHead(BaseModule):
    """Pixel decoder, transformer decoder, a class and a mask from each query after each layer.

    Args:
        in_channels, strides: of the backbone's maps, fine to coarse; masks have the first stride.
        feat_channels: of queries and maps; out_channels: of the vectors whose products are masks.
        num_things_classes: labels below it are things; num_stuff_classes: as many follow, each one segment an image.
        num_transformer_feat_level: maps that the layers look at in turn.
        enforce_decoder_input_project: a 1x1 convolution before them, also where the channels agree.
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
        self.train_cfg = settings(PointTraining, train_cfg, 'model.train_cfg')
        self.assigner = train_cfg and TASK_UTILS.build(train_cfg['assigner'])
        self.pixel_decoder = MODELS.build(pixel_decoder, in_channels=in_channels, strides=strides, feat_channels=feat_channels,
                                          out_channels=out_channels)
        self.transformer_decoder = MODELS.build(transformer_decoder, type=MaskedDecoder)
        c = self.transformer_decoder.embed_dims
        if self.pixel_decoder.num_outs < num_transformer_feat_level:
            raise ConfigError(f'num_transformer_feat_level={num_transformer_feat_level} exceeds pixel_decoder.num_outs='
                              f'{self.pixel_decoder.num_outs}.')
        project = c != feat_channels or enforce_decoder_input_project
        self.decoder_input_projs = nn.ModuleList(nn.Conv2d(feat_channels, c, 1) if project else nn.Identity()
                                                 for _ in range(num_transformer_feat_level))
        self.positional_encoding = MODELS.build(positional_encoding, default_args=dict(type='SinePositionalEncoding'))
        self.query_embed, self.query_feat = nn.Embedding(num_queries, feat_channels), nn.Embedding(num_queries, feat_channels)
        self.level_embed = nn.Embedding(num_transformer_feat_level, feat_channels)
        self.cls_embed = nn.Linear(feat_channels, self.num_classes + 1)
        self.mask_embed = mask_embedding(feat_channels, out_channels)
        self.loss_cls, self.loss_mask, self.loss_dice = (MODELS.build(cfg) for cfg in (loss_cls, loss_mask, loss_dice))
        check_class_weight(self.loss_cls, self.num_classes)
        xavier_normal(self.transformer_decoder)
        for projection in self.decoder_input_projs if project else ():
            caffe2_xavier_init(projection)

    def forward(self, feats: tuple[Tensor, ...]) -> MaskQueries:
        """The backbone's maps, fine to coarse."""
        features, maps = self.pixel_decoder(feats)
        memories, places, resized = [], [], []
        for x, project, level in zip(maps, self.decoder_input_projs, self.level_embed.weight):
            memories.append(project(x).flatten(2).transpose(1, 2) + level)
            places.append(self.positional_encoding(x.shape[-2:], x.device).flatten(1, 2).to(x.dtype))
            resized.append(F.interpolate(features, x.shape[-2:], mode='bilinear', align_corners=False))
        query, query_pos = (e.weight.expand(features.shape[0], -1, -1) for e in (self.query_feat, self.query_embed))
        logits, embeds = zip(self.predict(query))
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(memories)
            visible = where_masked(embeds[-1], resized[level])
            query = layer(query, memories[level], query_pos, places[level], visible)
            logits, embeds = ((*all_, new) for all_, new in zip((logits, embeds), self.predict(query)))
        return MaskQueries(torch.stack(logits), torch.stack(embeds), features)

    def predict(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Q, C) -> (N, Q, K + 1) logits, (N, Q, out_channels) vectors."""
        query = self.transformer_decoder.post_norm(query)
        return self.cls_embed(query), self.mask_embed(query)

    def loss(self, out: MaskQueries, samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Classes of all queries, masks of those that are matched, after each layer; float32."""
        labels, predicted, wanted = [], [], []
        for i, sample in enumerate(samples):
            gt, generator = true_segments(sample, self.num_things_classes, self.num_classes), on_device(sample, out.features.device)
            image = MaskQueries(out.logits[:, i], out.embeds[:, i], out.features[i])
            index = self.match(image, gt, generator, sample)
            labels.append(torch.where(index >= 0, torch.cat([gt.labels, index.new_zeros(1)])[index], self.num_classes))
            masks, targets = self.at_points(image, gt.masks, query_of_object(index, len(gt)), generator)
            predicted.append(masks)
            wanted.append(targets)
        return self.layer_losses(out.logits, torch.stack(labels, 1), torch.cat(predicted, 1), torch.cat(wanted, 1))

    @torch.no_grad()
    def match(self, image: MaskQueries, gt: InstanceData, generator: torch.Generator | None, sample: DetDataSample) -> Tensor:
        """(D, Q): each query's object or -1, by costs at points that all layers share."""
        points = torch.rand(1, self.train_cfg.num_points, 2, generator=generator, device=image.features.device)
        masks = image.embeds @ sample_points(image.features[None], points)[0]
        targets = InstanceData(labels=gt.labels, masks=sample_points(gt.masks[None].float(), points)[0])
        return self.assigner(Candidates(None, logits=image.logits, masks=masks, name=name_of(sample)), targets).index

    def at_points(self, image: MaskQueries, targets: Tensor, queries: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What is predicted and what is true of M matched objects at P points: (D, M, P) logits and (D, M, P) in [0, 1].

        ``targets`` (G, H, W), ``queries`` (D, G): -1 where there are more objects than queries.
        """
        depth, layer, cfg = len(queries), torch.arange(len(queries), device=queries.device)[:, None], self.train_cfg
        masks = masks_of(image.embeds[layer, queries.clamp(min=0)], image.features).flatten(0, 1)           # (D * G, h, w)
        points = uncertain_points(masks, cfg.num_points, cfg.oversample_ratio, cfg.importance_sample_ratio, generator)
        predicted = sample_points(masks[:, None], points)[:, 0].unflatten(0, queries.shape)
        points = points.unflatten(0, queries.shape).transpose(0, 1)
        wanted = sample_points(targets[:, None].float(), points)[:, 0].transpose(0, 1)
        matched = queries >= 0
        return predicted[matched].view(depth, -1, cfg.num_points), wanted[matched].view(depth, -1, cfg.num_points)

    def layer_losses(self, logits: Tensor, labels: Tensor, predicted: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """``logits`` (D, N, Q, K + 1), ``labels`` (D, N, Q) with K for no object, ``predicted`` and ``wanted`` (D, M, P)."""
        weights = logits.new_tensor(self.loss_cls.class_weight)[labels].sum((1, 2))
        factors = mean_over_processes(torch.cat([weights, weights.new_tensor([predicted.shape[1]])]))
        total, losses = factors[-1].clamp(min=1), dict(loss_cls=[], loss_mask=[], loss_dice=[])
        for d in range(len(logits)):
            losses['loss_cls'].append(self.loss_cls(logits[d].flatten(0, 1), labels[d].flatten(), avg_factor=factors[d]))
            losses['loss_mask'].append(self.loss_mask(predicted[d].flatten(), wanted[d].flatten(), avg_factor=total * predicted.shape[2]))
            losses['loss_dice'].append(self.loss_dice(predicted[d], wanted[d], avg_factor=total))
        return named_by_layer(losses)


def where_masked(embeds: Tensor, features: Tensor) -> Tensor:
    """(N, 1, Q, S) bool: the cells of a level on which a query's mask lies, at which alone it looks (Sec. 3.2.1); all where there are none.

    ``features`` (N, C, h, w): of the masks, resized to the level; as good as masks resized, and smaller.
    """
    on = embeds.detach() @ features.detach().flatten(2) >= 0
    return (on | ~on.any(-1, keepdim=True))[:, None]


def mask_embedding(channels: int, out_channels: int) -> nn.Sequential:
    """Three linear layers from a query to the vector of its mask."""
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
                         nn.Linear(channels, out_channels))


def check_class_weight(loss: nn.Module, num_classes: int) -> None:
    """Give the loss, where it has none, the paper's weights: 1 for each class, 0.1 for "no object".

    Raises:
        ConfigError: another number of weights than the classes and "no object".
    """
    loss.class_weight = [1.0] * num_classes + [0.1] if loss.class_weight is None else list(loss.class_weight)
    if len(loss.class_weight) != num_classes + 1:
        raise ConfigError(f'loss_cls class_weight has {len(loss.class_weight)} weights for {num_classes} classes and "no object". Set '
                          f'class_weight=[1.0] * {num_classes} + [0.1].')


def on_device(sample: DetDataSample, device: torch.device) -> torch.Generator | None:
    """As ``generator_of``, but of the masks' device: drawing millions of points elsewhere would take longer than using them."""
    generator = generator_of(sample, MASK_POINTS)
    return generator if generator is None or device.type == 'cpu' else torch.Generator(device).manual_seed(generator.initial_seed())


def name_of(sample: DetDataSample) -> str:
    return f"image {sample.get('img_path') or sample.get('img_id')}"
