"""The outputs of mask-query networks, and the functions that losses and masks are computed with.

Shapes: D predictions per query (one per decoder layer, and one before the first layer if the paper has it), N images, Q queries, K classes
of things and stuff (one more column: no object), C channels, h and w of the finest map, G objects of an image.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.nn.attention import MultiheadAttention
from detkit.nn.transformer import Decoder, DecoderLayer
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.tasks.samplers import PseudoSampler


@dataclass(frozen=True)
class MaskQueries:
    """Raw predictions. The logits of a mask are the dot products of the query's embedding with the features of each cell (MaskFormer,
    https://arxiv.org/abs/2107.06278, Sec. 3.2).

    Embeddings and features are kept separate, because training needs only a few masks, and only some points of them.
    """

    logits: Tensor     # (D, N, Q, K + 1)
    embeds: Tensor     # (D, N, Q, C)
    features: Tensor   # (N, C, h, w)

    def float(self) -> MaskQueries:
        return MaskQueries(self.logits.float(), self.embeds.float(), self.features.float())

    def image(self, i: int) -> MaskQueries:
        """Return the predictions of image ``i``: (D, Q, K + 1), (D, Q, C), (C, h, w)."""
        return MaskQueries(self.logits[:, i], self.embeds[:, i], self.features[i])

    def last(self) -> tuple[Tensor, Tensor]:
        """Return the class logits (N, Q, K + 1) and mask logits (N, Q, h, w) of the last layer."""
        return self.logits[-1], masks_of(self.embeds[-1], self.features)


def masks_of(embeds: Tensor, features: Tensor) -> Tensor:
    """Return mask logits (..., Q, h, w) from embeddings (..., Q, C) and features (..., C, h, w)."""
    return (embeds @ features.flatten(-2)).unflatten(-1, features.shape[-2:])


def true_segments(sample: DetDataSample, num_things: int, num_classes: int) -> InstanceData:
    """Return ``labels`` (G,) and ``masks`` uint8 (G, H, W), at the size of the batch: the things of an image, then one segment per stuff
    class.

    Raises:
        ConfigError: masks were not loaded, or the semantic map was not loaded and there are stuff classes.
    """
    gt = sample.gt_instances
    if 'masks' not in gt:
        raise ConfigError('mask queries learn from masks: load them with LoadAnnotations(with_mask=True) or LoadPanopticAnnotations.')
    size = sample.get('batch_input_shape', sample.img_shape)
    masks, labels = padded(gt.masks.to_tensor(torch.uint8, gt.labels.device), size, 0), gt.labels
    if num_classes > num_things:
        if 'gt_sem_seg' not in sample:
            raise ConfigError(f'num_stuff_classes={num_classes - num_things}, but the samples carry no map of labels: load it with '
                              f'LoadPanopticAnnotations(with_seg=True), or set num_stuff_classes=0.')
        seg = padded(sample.gt_sem_seg.sem_seg.to(gt.labels.device), size, 255)
        present = seg.unique().long()
        stuff = present[(present >= num_things) & (present < num_classes)]
        masks, labels = torch.cat([masks, (seg == stuff[:, None, None]).to(torch.uint8)]), torch.cat([labels, stuff])
    return InstanceData(labels=labels, masks=masks)


def padded(maps: Tensor, size: tuple[int, int], value: int) -> Tensor:
    """Pad maps (n, H, W) at the right and bottom to at least ``size`` (height, width)."""
    return F.pad(maps, (0, max(size[1] - maps.shape[2], 0), 0, max(size[0] - maps.shape[1], 0)), value=value)


def query_of_object(index: Tensor, num_objects: int) -> Tensor:
    """Return the query (D, G) of each object, -1 for unmatched objects, from matches (D, Q) of queries (object index, or negative)."""
    queries = index.new_full((index.shape[0], num_objects), -1)
    layer, query = (index >= 0).nonzero(as_tuple=True)
    queries[layer, index[layer, query]] = query
    return queries


def named_by_layer(losses: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Name the D losses of each key: the last layer's keeps the name, the others get the prefix ``d0.``, ``d1.``, ..."""
    last = {name: values[-1] for name, values in losses.items()}
    depth = len(next(iter(losses.values())))
    return last | {f'd{i}.{name}': values[i] for i in range(depth - 1) for name, values in losses.items()}


@dataclass(frozen=True)
class Factors:
    """Divisors of the losses, equal in all processes."""

    classes: Tensor    # (D,) sum of the class weights of all queries' targets
    masks: Tensor      # () number of masks in the loss, at least 1


def average_factors(labels: Tensor, num_masks: int, class_weight: list[float]) -> Factors:
    """Return the divisors. ``labels`` (D, N, Q), K for no object; ``num_masks``: number of masks in each layer."""
    weights = torch.tensor(class_weight, device=labels.device)[labels].sum((1, 2))
    factors = mean_over_processes(torch.cat([weights, weights.new_tensor([num_masks])]))
    return Factors(factors[:-1], factors[-1].clamp(min=1))


def class_losses(loss: nn.Module, logits: Tensor, labels: Tensor, factors: Factors) -> list[Tensor]:
    """Return the class loss of each layer; ``logits`` (D, N, Q, K + 1), ``labels`` (D, N, Q)."""
    return [loss(x.flatten(0, 1), y.flatten(), avg_factor=f) for x, y, f in zip(logits, labels, factors.classes)]


def labels_of(index: Tensor, gt_labels: Tensor, num_classes: int) -> Tensor:
    """Return the target label of each query from matches (D, Q); ``num_classes`` for unmatched queries."""
    return torch.where(index >= 0, torch.cat([gt_labels, index.new_zeros(1)])[index], num_classes)


def name_of(sample: DetDataSample) -> str:
    return f"image {sample.get('img_path') or sample.get('img_id')}"


def mask_embedding(channels: int, out_channels: int) -> nn.Sequential:
    """Return an MLP of three linear layers from a query to its mask embedding."""
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
                         nn.Linear(channels, out_channels))


def build_decoder(cfg: dict, layer: type[nn.Module] = DecoderLayer) -> Decoder:
    """Build a decoder from its config.

    Raises:
        ConfigError: ``return_intermediate`` is False; the head needs predictions of all layers.
    """
    decoder = MODELS.build(cfg, type=Decoder, cross_attention=MultiheadAttention, layer=layer)
    if not decoder.return_intermediate:
        raise ConfigError('mask queries predict after every layer; return_intermediate=False is not supported.', cfg)
    return decoder


def check_sampler(cfg: dict | None) -> None:
    """Raise ConfigError for a sampler that does not use all queries."""
    if cfg is not None and not isinstance(TASK_UTILS.build(cfg), PseudoSampler):
        raise ConfigError(f"train_cfg sampler='{cfg['type']}' does not fit: all queries are trained. Known: MaskPseudoSampler.")


def check_class_weight(loss: nn.Module, num_classes: int) -> None:
    """Set the paper's class weights in the loss if it has none: 1 for each class, 0.1 for "no object".

    Raises:
        ConfigError: the number of weights is not the number of classes plus one for "no object".
    """
    loss.class_weight = [1.0] * num_classes + [0.1] if loss.class_weight is None else list(loss.class_weight)
    if len(loss.class_weight) != num_classes + 1:
        raise ConfigError(f'loss_cls class_weight has {len(loss.class_weight)} weights for {num_classes} classes and "no object". Set '
                          f'class_weight=[1.0] * {num_classes} + [0.1].')
