"""Denoising queries: noisy copies of objects, for the decoder to repair or refuse (DINO, https://arxiv.org/abs/2203.03605, Sec. 3.3)."""
from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn as nn
from torch import Tensor

from detkit.models.settings import settings
from detkit.ops.boxes import to_cxcywh
from detkit.registry import ConfigError
from detkit.structures import DetDataSample
from detkit.structures.random_streams import RandomStream
from detkit.structures.sample import generator_of
from detkit.tasks.matching import NEGATIVE
from detkit.tasks.query_boxes import inverse_sigmoid

EDGE = 1e-3     # noisy boxes are this far from 0 and 1


@dataclass(frozen=True)
class Groups:
    """``dynamic``: as many groups as ``num_dn_queries`` pairs hold, at least one; else ``num_groups``."""

    dynamic: bool = True
    num_groups: int | None = None
    num_dn_queries: int = 100

    def __post_init__(self) -> None:
        if self.dynamic == (self.num_groups is not None):
            raise ConfigError(f'dn_cfg.group_cfg has dynamic={self.dynamic} and num_groups={self.num_groups}: dynamic groups follow from '
                              f'num_dn_queries, a fixed number needs dynamic=False.')

    def count(self, objects: int) -> int:
        """How many groups, when the image with most objects has that many."""
        return max(self.num_dn_queries // max(objects, self.num_dn_queries if objects == 0 else 1), 1) if self.dynamic else self.num_groups


@dataclass(frozen=True)
class Noise:
    label_noise_scale: float = 0.5   # half of it is the share of labels that are drawn anew
    box_noise_scale: float = 1.      # corners move by up to half of it, times the box's size; twice that in a negative
    group_cfg: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Denoising:
    """T queries of each image: in every group, a positive and then a negative for each of M places; fewer objects leave places empty."""

    labels: Tensor       # (N, T) int64
    boxes: Tensor        # (N, T, 4) cxcywh, shares of the image
    filled: Tensor       # (N, T) bool
    index: Tensor        # (N, T) the object that a positive should find; NEGATIVE
    group: Tensor        # (T,)

    def among(self, queries: int) -> Tensor:
        """(T + Q, T + Q) bool: which queries see which. All see the Q that are matched; besides, each only its own group."""
        group = torch.cat([self.group, self.group.new_full((queries,), -1)])
        return (group == -1) | (group[:, None] == group)


class DenoisingQueries(nn.Module):
    """``dn_cfg`` of a config, and the embedding of noisy labels."""

    def __init__(self, dn_cfg: dict, num_classes: int, embed_dims: int) -> None:
        super().__init__()
        self.noise, self.num_classes = settings(Noise, dn_cfg, 'model.dn_cfg'), num_classes
        self.groups = settings(Groups, self.noise.group_cfg or {}, 'model.dn_cfg.group_cfg')
        self.label_embedding = nn.Embedding(num_classes, embed_dims)

    def draw(self, samples: list[DetDataSample]) -> Denoising:
        """Noisy copies of each image's objects, from the sample's own generator."""
        most = max(len(sample.gt_instances) for sample in samples)
        groups = self.groups.count(most)
        device = samples[0].gt_instances.bboxes.device
        shape = len(samples), groups, 2, most
        labels, index = torch.zeros(shape, dtype=torch.long), torch.full(shape, NEGATIVE)
        boxes, filled = torch.full((*shape, 4), 0.5), torch.zeros(shape, dtype=torch.bool)
        for i, sample in enumerate(samples):
            gt, height, width = sample.gt_instances, *sample.img_shape[:2]
            count = len(gt)
            noisy = noisy_copies(gt.labels.cpu(), gt.bboxes.cpu() / torch.tensor([width, height, width, height]), groups, self.num_classes,
                                 self.noise, generator_of(sample, RandomStream.DENOISING))
            labels[i, :, :, :count], boxes[i, :, :, :count] = noisy
            filled[i, :, :, :count] = True
            index[i, :, 0, :count] = torch.arange(count)
        group = torch.arange(groups).repeat_interleave(2 * most)
        return Denoising(*(x.flatten(1, 3).to(device) for x in (labels, boxes, filled, index)), group.to(device))

    def forward(self, denoising: Denoising) -> Tensor:
        """(N, T, C): the noisy labels' embeddings, zero at empty places."""
        return self.label_embedding(denoising.labels) * denoising.filled[..., None]


def noisy_copies(labels: Tensor, boxes: Tensor, groups: int, num_classes: int, noise: Noise,
                 generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Labels (groups, 2, G) and cxcywh boxes (groups, 2, G, 4) of an image's G objects, positives before negatives.

    ``labels`` (G,), ``boxes`` (G, 4) corners as shares of the image. A positive's corners lie within half of ``box_noise_scale`` times
    the box's size of the object's, a negative's beyond that and within twice.
    """
    shape = groups, 2, len(labels)
    redrawn = torch.rand(shape, generator=generator) < noise.label_noise_scale / 2
    labels = torch.where(redrawn, torch.randint(num_classes, shape, generator=generator), labels)
    sign = torch.randint(2, (*shape, 4), generator=generator) * 2. - 1
    shift = (torch.rand((*shape, 4), generator=generator) + torch.tensor([0., 1.])[:, None, None]) * sign
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = to_cxcywh((boxes + shift * size * noise.box_noise_scale / 2).clamp(0, 1))
    return labels, inverse_sigmoid(moved, EDGE).sigmoid()
