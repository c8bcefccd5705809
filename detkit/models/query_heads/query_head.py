"""The base class of query heads: matching, set losses, and selection of detections."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.classification import QualityFocalLoss
from detkit.losses.weighting import mean_over_processes
from detkit.models.query_heads.outputs import QueryOutputs, QueryTargets
from detkit.models.settings import settings
from detkit.ops.boxes import ImageSize, aligned_iou, clip_boxes, heights_and_widths, to_corners, to_cxcywh
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections
from detkit.tasks.matching import Candidates


@dataclass(frozen=True)
class QueryTraining:
    assigner: dict


@dataclass(frozen=True)
class QueryPostprocess:
    max_per_img: int = -1       # max detections per image; -1: one per query


@dataclass(frozen=True)
class Objects:
    """The ground truth of a batch; the objects of all images concatenated."""

    labels: Tensor      # (G,) int64
    boxes: Tensor       # (G, 4) cxcywh, normalised by the image size
    first: Tensor       # (N,) index of each image's first object
    scale: Tensor       # (N, 4) width, height, width, height of each image in pixels


class QueryHead(BaseModule):
    """Compute losses and detections from predictions (D, N, Q, ...); a subclass defines the layers that make the predictions.

    Args:
        num_reg_fcs: number of hidden layers in the box branch.
        sync_cls_avg_factor: divide the classification loss by the mean over all processes (in MMDetection only if the config sets it).
        background_weight: weight of "no object" relative to a class in a softmax loss; 0 with sigmoids, which have no such class.
    """

    strides = ()     # queries do not belong to cells of a stride

    def __init__(self, num_classes: int, embed_dims: int, num_reg_fcs: int, sync_cls_avg_factor: bool, loss_cls: dict, loss_bbox: dict,
                 loss_iou: dict, train_cfg: dict | None, test_cfg: dict | None, init_cfg: dict | None,
                 background_weight: float = 0.) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.embed_dims, self.num_reg_fcs = num_classes, embed_dims, num_reg_fcs
        self.sync_cls_avg_factor, self.background_weight = sync_cls_avg_factor, background_weight
        self.loss_cls, self.loss_bbox, self.loss_iou = (MODELS.build(c) for c in (loss_cls, loss_bbox, loss_iou))
        self.softmax = getattr(self.loss_cls, 'background_channel', False)
        self.cls_out_channels = num_classes + self.softmax
        training = settings(QueryTraining, train_cfg, 'model.train_cfg')
        self.postprocess = settings(QueryPostprocess, test_cfg or {}, 'model.test_cfg')
        self.assigner = TASK_UTILS.build(training.assigner) if training else None

    def check_queries(self, num_queries: int) -> None:
        """Raise ConfigError if the head is set to return more detections than ``num_queries`` can give."""
        most = num_queries if self.softmax else num_queries * self.num_classes
        if self.postprocess.max_per_img > most:
            each = 'each query gives one' if self.softmax else f'each query gives one a class, num_classes={self.num_classes}'
            raise ConfigError(f'test_cfg.max_per_img={self.postprocess.max_per_img} asks for more detections than the {most} that '
                              f'num_queries={num_queries} can give ({each}). Lower it, or raise num_queries.')

    def targets(self, out: QueryOutputs, samples: list[DetDataSample]) -> QueryTargets:
        """Return the targets of the matching queries; denoising queries are left out."""
        dn = 0 if out.denoised is None else out.denoised.shape[1]
        return QueryTargets(self.match(out.logits[:, :, dn:], out.boxes[:, :, dn:], samples))

    def loss(self, out: QueryOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_bbox``, ``loss_iou`` of the last layer; ``d0.loss_cls``, ... of earlier layers; ``enc_loss_cls``, ...
        of the encoder's proposals; ``dn_loss_cls``, ``d0.dn_loss_cls``, ... of denoising queries."""
        objects = objects_of(samples)
        dn = 0 if out.denoised is None else out.denoised.shape[1]
        logits, boxes = out.logits[:, :, dn:], out.boxes[:, :, dn:]
        losses = by_layer(self.set_losses(logits, boxes, self.targets(out, samples).index, objects), 'loss')
        if out.proposal_logits is not None:
            truth, targets = self.proposal_truth(samples, objects)
            logits, boxes = out.proposal_logits[None], out.proposal_boxes[None]
            losses |= by_layer(self.set_losses(logits, boxes, self.match(logits, boxes, truth), targets), 'enc_loss')
        if out.denoised is not None:
            index = out.denoised.expand(len(out.logits), -1, -1)
            losses |= by_layer(self.set_losses(out.logits[:, :, :dn], out.boxes[:, :, :dn], index, objects), 'dn_loss')
        return losses

    def proposal_truth(self, samples: list[DetDataSample], objects: Objects) -> tuple[list[DetDataSample], Objects]:
        """Return the targets of the encoder's proposals; here they include the classes."""
        return samples, objects

    def match(self, logits: Tensor, boxes: Tensor, samples: list[DetDataSample]) -> Tensor:
        """Return the index (D, N, Q) of the object in its image that is matched to each prediction, or NEGATIVE."""
        if self.assigner is None:
            raise ConfigError('model.train_cfg is missing: the loss needs its assigner.')
        found = []
        for i, sample in enumerate(samples):
            size = tuple(sample.img_shape[:2])
            candidates = Candidates(None, logits=logits[:, i].detach(), boxes=in_pixels(boxes[:, i].detach(), size), size=size,
                                    name=f'{sample.get("img_path") or sample.get("img_id", "an image")}')
            found.append(self.assigner(candidates, sample.gt_instances).index)
        return torch.stack(found, 1)

    def set_losses(self, logits: Tensor, boxes: Tensor, index: Tensor, objects: Objects) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the classification, L1 and IoU loss of each layer (DETR, Sec. 3.1, eq. 2).

        ``logits`` (D, N, Q, K), ``boxes`` (D, N, Q, 4), ``index`` (D, N, Q) from ``match``.
        """
        image = torch.arange(index.shape[1], device=index.device)[:, None].expand(index.shape[1:])
        positives = (index[0] >= 0).sum().float()
        negatives = index[0].numel() - positives
        classified = positives + negatives * self.background_weight
        classified = (mean_over_processes(classified) if self.sync_cls_avg_factor else classified).clamp(min=1)
        located = mean_over_processes(positives).clamp(min=1)
        losses = []
        for layer_logits, layer_boxes, layer_index in zip(logits, boxes, index):
            positive = layer_index >= 0
            which = layer_index[positive] + objects.first[image[positive]]
            pred, target, scale = layer_boxes[positive], objects.boxes[which], objects.scale[image[positive]]
            corners, target_corners = to_corners(pred) * scale, to_corners(target) * scale
            labels = torch.full_like(layer_index, self.num_classes)
            labels[positive] = objects.labels[which]
            learnt: Any = labels.flatten()
            if isinstance(self.loss_cls, QualityFocalLoss):
                quality = torch.zeros_like(labels, dtype=pred.dtype)
                quality[positive] = aligned_iou(corners.detach(), target_corners)
                learnt = (learnt, quality.flatten())
            losses.append((self.loss_cls(layer_logits.flatten(0, 1), learnt, avg_factor=classified),
                           self.loss_bbox(pred, target, avg_factor=located),
                           self.loss_iou(corners, target_corners, avg_factor=located)))
        return losses

    def best(self, out: QueryOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best scores (N, M) of the last layer with their labels (N, M) and boxes (N, M, 4), best first."""
        logits, boxes, limit = out.logits[-1], out.boxes[-1], self.postprocess.max_per_img
        limit = limit if limit > 0 else logits.shape[1]
        if self.softmax:
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            scores, at = scores.topk(limit)
            labels = labels.gather(1, at)
        else:
            scores, pairs = logits.sigmoid().flatten(1).topk(limit)
            at, labels = pairs // self.num_classes, pairs % self.num_classes
        return scores, labels, boxes.gather(1, at[..., None].expand(-1, -1, 4))

    def predict(self, out: QueryOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        scores, labels, boxes = self.best(out)
        return [InstanceData(bboxes=clip_boxes(in_pixels(b, s.img_shape), s.img_shape), scores=score, labels=label)
                for b, score, label, s in zip(boxes.detach(), scores.detach(), labels, samples)]

    def decode(self, out: QueryOutputs, sizes: Tensor) -> Detections:
        scores, labels, boxes = self.best(out)
        return Detections(clip_boxes(in_pixels(boxes, sizes), sizes), scores, labels)


def objects_of(samples: list[DetDataSample]) -> Objects:
    boxes = [sample.gt_instances.bboxes for sample in samples]
    scale = boxes[0].new_tensor([[*sample.img_shape[1::-1]] * 2 for sample in samples])
    count = torch.tensor([len(b) for b in boxes], device=scale.device)
    return Objects(torch.cat([sample.gt_instances.labels for sample in samples]),
                   torch.cat([to_cxcywh(b / s) for b, s in zip(boxes, scale)]), count.cumsum(0) - count, scale)


def class_agnostic(samples: list[DetDataSample], objects: Objects) -> tuple[list[DetDataSample], Objects]:
    """Return the same objects with class 0."""
    plain = [DetDataSample(metainfo=sample.metainfo, gt_instances=InstanceData(
        bboxes=sample.gt_instances.bboxes, labels=torch.zeros_like(sample.gt_instances.labels))) for sample in samples]
    return plain, replace(objects, labels=torch.zeros_like(objects.labels))


def in_pixels(boxes: Tensor, size: ImageSize) -> Tensor:
    """Convert boxes (..., 4) from normalised cxcywh to xyxy in pixels. ``size``: (height, width) of the image, or for boxes (N, n, 4) of N
    images sizes (N, 2)."""
    height, width = heights_and_widths(boxes, size)
    corners = to_corners(boxes)
    x, y = corners[..., 0::2] * width, corners[..., 1::2] * height
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def by_layer(losses: list[tuple[Tensor, Tensor, Tensor]], name: str) -> dict[str, Tensor]:
    """Name the losses: ``loss_cls``, ... for the last layer, ``d0.loss_cls``, ... for the others, when ``name`` is 'loss'."""
    prefixes = [f'd{i}.' for i in range(len(losses) - 1)] + ['']
    return {f'{prefix}{name}_{term}': value
            for prefix, layer in zip(prefixes, losses) for term, value in zip(('cls', 'bbox', 'iou'), layer)}
