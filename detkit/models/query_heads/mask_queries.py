"""Between the network of a detector of mask queries, and its loss or its masks.

Shapes: D predictions a query (one a decoder layer, one before the first where the paper has it), N images, Q queries, K classes of things
and stuff (one more column: no object), C channels, h and w those of the finest map, G objects of an image.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.registry import ConfigError
from detkit.structures import DetDataSample


@dataclass(frozen=True)
class MaskQueries:
    """A mask's logits are the products of the query's vector with those of the cells (MaskFormer, https://arxiv.org/abs/2107.06278, Sec.
    3.2). They are kept apart: training looks at few masks, and at few points of them."""

    logits: Tensor     # (D, N, Q, K + 1)
    embeds: Tensor     # (D, N, Q, C)
    features: Tensor   # (N, C, h, w)

    def float(self) -> MaskQueries:
        return MaskQueries(self.logits.float(), self.embeds.float(), self.features.float())

    def last(self) -> tuple[Tensor, Tensor]:
        """The last layer's (N, Q, K + 1) logits of classes and (N, Q, h, w) of masks."""
        return self.logits[-1], masks_of(self.embeds[-1], self.features)


def masks_of(embeds: Tensor, features: Tensor) -> Tensor:
    """(..., Q, C) and (..., C, h, w) -> (..., Q, h, w)."""
    return (embeds @ features.flatten(-2)).unflatten(-1, features.shape[-2:])


def true_segments(sample: DetDataSample, num_things: int, num_classes: int) -> InstanceData:
    """``labels`` (G,) and ``masks`` uint8 (G, H, W) of the things and, one a class, the stuff of an image, as large as its batch.

    Raises:
        ConfigError: masks, or with stuff classes the map of labels, were not loaded.
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
    """(n, H, W), at the right and bottom to ``size`` (height, width), at least."""
    return F.pad(maps, (0, max(size[1] - maps.shape[2], 0), 0, max(size[0] - maps.shape[1], 0)), value=value)


def query_of_object(index: Tensor, num_objects: int) -> Tensor:
    """The matches (D, Q) of queries (an object's index, or negative) -> (D, G): each object's query, -1 where it found none."""
    queries = index.new_full((index.shape[0], num_objects), -1)
    layer, query = (index >= 0).nonzero(as_tuple=True)
    queries[layer, index[layer, query]] = query
    return queries


def named_by_layer(losses: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Each name's D losses: the last keeps the name, the others get ``d0.``, ``d1.``, ... before it."""
    last = {name: values[-1] for name, values in losses.items()}
    depth = len(next(iter(losses.values())))
    return last | {f'd{i}.{name}': values[i] for i in range(depth - 1) for name, values in losses.items()}
