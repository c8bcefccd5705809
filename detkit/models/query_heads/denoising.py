"""Denoising queries: noisy copies of objects that the decoder restores or rejects (DINO, https://arxiv.org/abs/2203.03605, Sec. 3.3)."""
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

EDGE = 1e-3     # min distance of noisy boxes from 0 and 1


@dataclass(frozen=True)
class Groups:
    """Number of denoising groups. ``dynamic``: as many groups as fit into ``num_dn_queries`` pairs, at least one; else ``num_groups``."""

    dynamic: bool = True
    num_groups: int | None = None
    num_dn_queries: int = 100

    def __post_init__(self) -> None:
        if self.dynamic == (self.num_groups is not None):
            raise ConfigError(f'dn_cfg.group_cfg has dynamic={self.dynamic} and num_groups={self.num_groups}: dynamic groups follow from '
                              f'num_dn_queries, a fixed number needs dynamic=False.')

    def count(self, objects: int) -> int:
        """Return the number of groups; ``objects``: the largest number of objects in an image of the batch."""
        return max(self.num_dn_queries // max(objects, self.num_dn_queries if objects == 0 else 1), 1) if self.dynamic else self.num_groups


@dataclass(frozen=True)
class Noise:
    label_noise_scale: float = 0.5   # half of it is the fraction of labels replaced by random ones
    box_noise_scale: float = 1.      # positives: corners move by up to half of it times the box size; negatives: twice that
    group_cfg: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Denoising:
    """T denoising queries of each image: each group has M positives, then M negatives. In images with fewer than M objects, some slots are
    empty."""

    labels: Tensor       # (N, T) int64
    boxes: Tensor        # (N, T, 4) cxcywh, normalised by the image size
    filled: Tensor       # (N, T) bool: the slot is not empty
    index: Tensor        # (N, T) index of the object that a positive restores; NEGATIVE elsewhere
    group: Tensor        # (T,) index of the group

    def among(self, queries: int) -> Tensor:
        """Return the self-attention mask (T + Q, T + Q) bool, True: may attend. All queries attend to the Q matching queries; denoising
        queries also attend to their own group."""
        group = torch.cat([self.group, self.group.new_full((queries,), -1)])
        return (group == -1) | (group[:, None] == group)


class DenoisingQueries(nn.Module):
    """Create denoising queries from the settings ``dn_cfg``, with an embedding of noisy labels."""

    def __init__(self, dn_cfg: dict, num_classes: int, embed_dims: int) -> None:
        super().__init__()
        self.noise, self.num_classes = settings(Noise, dn_cfg, 'model.dn_cfg'), num_classes
        self.groups = settings(Groups, self.noise.group_cfg or {}, 'model.dn_cfg.group_cfg')
        self.label_embedding = nn.Embedding(num_classes, embed_dims)

    def draw(self, samples: list[DetDataSample]) -> Denoising:
        """Return noisy copies of each image's objects, drawn with the sample's own generator."""
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
        """Return the embeddings (N, T, C) of the noisy labels; zero for empty slots."""
        return self.label_embedding(denoising.labels) * denoising.filled[..., None]


def noisy_copies(labels: Tensor, boxes: Tensor, groups: int, num_classes: int, noise: Noise,
                 generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return labels (groups, 2, G) and cxcywh boxes (groups, 2, G, 4) of noisy copies of an image's G objects, positives before negatives.

    ``labels`` (G,), ``boxes`` (G, 4) corners, normalised by the image size. With s = ``box_noise_scale`` times the box size, the corners of
    a positive move by up to s / 2, those of a negative by s / 2 to s.
    """
    shape = groups, 2, len(labels)
    redrawn = torch.rand(shape, generator=generator) < noise.label_noise_scale / 2
    labels = torch.where(redrawn, torch.randint(num_classes, shape, generator=generator), labels)
    sign = torch.randint(2, (*shape, 4), generator=generator) * 2. - 1
    shift = (torch.rand((*shape, 4), generator=generator) + torch.tensor([0., 1.])[:, None, None]) * sign
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = to_cxcywh((boxes + shift * size * noise.box_noise_scale / 2).clamp(0, 1))
    return labels, inverse_sigmoid(moved, EDGE).sigmoid()
