"""The RoI head of Cascade R-CNN (https://arxiv.org/abs/1712.00726): stages that pool, classify and refine boxes, and predict masks.

With one stage and no number in the names, it is the second stage of Faster R-CNN and Mask R-CNN: see standard_roi_head.py.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.model import BaseModule, ModuleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detkit.models.roi_heads.fcn_mask_head import mask_targets
from detkit.models.roi_heads.roi_extractor import numbered
from detkit.models.settings import RoIPostprocess, RoITraining, settings
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import BitmapMasks, DetDataSample, PolygonMasks
from detkit.structures.detections import Detections
from detkit.structures.random_streams import RandomStream
from detkit.structures.sample import generator_of
from detkit.tasks.matching import Candidates, preceded_by_truth


@dataclass(frozen=True)
class SampledRoIs:
    """The sampled RoIs of one image for the loss of one stage; positives first."""

    boxes: Tensor      # (n, 4)
    labels: Tensor     # (n,); background = K
    matched: Tensor    # (n_pos,) index of the object matched to each positive
    added: Tensor      # (n,) bool: the RoI is a ground-truth box added to the proposals


@MODELS.register_module()
class CascadeRoIHead(BaseModule):
    """Several stages of box heads, each trained on the boxes of the previous stage, and an optional mask head.

    Args:
        num_stages, stage_loss_weights: number of stages, and the loss weight of each stage.
        bbox_roi_extractor, bbox_head, mask_roi_extractor, mask_head: one config for all stages, or a list with one config per stage.
            Without ``mask_head``, no masks are predicted; without ``mask_roi_extractor``, the mask head uses the features of the box head.
        train_cfg: a list with one config per stage.
    """

    strides = ()     # RoIs do not belong to cells of a stride
    no_targets = 'it learns from proposals, which an untrained first stage does not make'

    def __init__(self, num_stages: int, stage_loss_weights: list[float], bbox_roi_extractor: dict | list[dict],
                 bbox_head: dict | list[dict], mask_roi_extractor: dict | list[dict] | None = None,
                 mask_head: dict | list[dict] | None = None, train_cfg: list[dict] | None = None, test_cfg: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.shared_head = None
        for name, given in (('stage_loss_weights', stage_loss_weights), ('train_cfg.rcnn', train_cfg)):
            if given is not None and (not isinstance(given, (list, tuple)) or len(given) != num_stages):
                raise ConfigError(f'{name} of num_stages={num_stages} must be a list of {num_stages}.')
        parts = dict(bbox_roi_extractor=bbox_roi_extractor, bbox_head=bbox_head, mask_roi_extractor=mask_roi_extractor, mask_head=mask_head)
        for name, cfg in parts.items():
            setattr(self, name, None if cfg is None else ModuleList(map(MODELS.build, one_a_stage(name, cfg, num_stages))))
        self.prepare(list(stage_loss_weights), [f's{i}.' for i in range(num_stages)], train_cfg, test_cfg)

    def prepare(self, weights: list[float], prefixes: list[str], train_cfgs: list[dict] | None, test_cfg: dict | None) -> None:
        self.num_stages, self.weights, self.prefixes = len(weights), weights, prefixes
        self.postprocess = settings(RoIPostprocess, test_cfg, 'model.test_cfg.rcnn')
        self.training_cfgs = [settings(RoITraining, c, 'model.train_cfg.rcnn') for c in train_cfgs or []]
        self.assigners = [TASK_UTILS.build(c.assigner) for c in self.training_cfgs]
        self.samplers = [TASK_UTILS.build(c.sampler) for c in self.training_cfgs]
        for assigner, cfg in zip(self.assigners, self.training_cfgs):
            if assigner.looks_at_predictions:
                raise ConfigError('an assigner that looks at predictions cannot assign proposals.', cfg.assigner)

    def pooled(self, extractors: nn.Module, stage: int, feats: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Return the features of RoIs (n, 5), after the shared head if there is one."""
        x = at(extractors, stage)(feats, rois)
        return x if self.shared_head is None else self.shared_head(x)

    def loss(self, feats: tuple[Tensor, ...], proposals: list[InstanceData],
             samples: list[DetDataSample]) -> dict[str, Tensor]:
        boxes, losses = [p.bboxes for p in proposals], {}
        for stage in range(self.num_stages):
            taken = [self.sample_rois(b, s, stage) for b, s in zip(boxes, samples)]
            x = self.pooled(self.bbox_roi_extractor, stage, feats, numbered([t.boxes for t in taken]))
            head, cfg = at(self.bbox_head, stage), self.training_cfgs[stage]
            logits, deltas = head(x)
            with torch.autocast(x.device.type, enabled=False):
                logits, deltas = logits.float(), deltas.float()
                objects = torch.cat([s.gt_instances.bboxes[t.matched] for s, t in zip(samples, taken)])
                terms = head.loss(logits, deltas, torch.cat([t.boxes for t in taken]), torch.cat([t.labels for t in taken]), objects,
                                  cfg.pos_weight)
                if stage + 1 < self.num_stages:
                    boxes = self.refined(head, logits.detach(), deltas.detach(), taken, samples)
            if self.mask_head is not None:
                terms['loss_mask'] = self.mask_loss(stage, feats, x, taken, samples)
            losses |= {self.prefixes[stage] + k: v * self.weights[stage] if 'loss' in k else v for k, v in terms.items()}
        return losses

    def sample_rois(self, proposals: Tensor, sample: DetDataSample, stage: int = 0) -> SampledRoIs:
        """Assign and sample one image's proposals (n, 4)."""
        gt, sampler, own = sample.gt_instances, self.samplers[stage], 0
        match = self.assigners[stage](Candidates(proposals), gt, sample.get('ignored_instances'))
        if sampler.add_gt_as_proposals:
            own = len(gt)
            proposals = torch.cat([gt.bboxes, proposals])
            match = preceded_by_truth(match, own)
        pos, neg = sampler(match, generator_of(sample, RandomStream.ROI_SAMPLING))
        background = gt.labels.new_full((len(neg),), at(self.bbox_head, stage).num_classes)
        index, matched = torch.cat([pos, neg]), match.index[pos]
        return SampledRoIs(proposals[index], torch.cat([gt.labels[matched], background]), matched, index < own)

    @staticmethod
    def refined(head: nn.Module, logits: Tensor, deltas: Tensor, taken: list[SampledRoIs], samples: list[DetDataSample]) -> list[Tensor]:
        """Return the proposals of the next stage for each image: all RoIs except added ground-truth boxes, refined with the deltas of their
        target class."""
        counts = [len(t.boxes) for t in taken]
        return [head.refine(c, d, t.boxes, s.img_shape[:2], t.labels)[~t.added]
                for c, d, t, s in zip(logits.split(counts), deltas.split(counts), taken, samples)]

    def mask_loss(self, stage: int, feats: tuple[Tensor, ...], x: Tensor, taken: list[SampledRoIs], samples: list[DetDataSample]) -> Tensor:
        """Return the mask loss of the positives; ``x``: the features of all RoIs."""
        head, cfg = at(self.mask_head, stage), self.training_cfgs[stage]
        boxes = [t.boxes[:len(t.matched)] for t in taken]
        labels = torch.cat([t.labels[:len(t.matched)] for t in taken])
        if self.mask_roi_extractor is not None:
            x = self.pooled(self.mask_roi_extractor, stage, feats, numbered(boxes))
        else:
            x = x[torch.cat([t.labels for t in taken]) < head.num_classes]
        logits = head(x)
        with torch.autocast(x.device.type, enabled=False):
            targets = [mask_targets(b, t.matched, masks_of(s), cfg.size_of_masks, cfg.soft_mask_target)
                       for b, t, s in zip(boxes, taken, samples)]
            return head.loss(logits.float(), labels, torch.cat(targets))

    def predict(self, feats: tuple[Tensor, ...], proposals: list[InstanceData],
                samples: list[DetDataSample]) -> list[InstanceData]:
        """Return detections: boxes of the last stage, scores averaged over all stages; ``masks``: (n, h, w) scores inside the boxes."""
        rois, sizes = [p.bboxes for p in proposals], [s.img_shape[:2] for s in samples]
        counts, total = [len(r) for r in rois], 0.
        for stage in range(self.num_stages):
            head = at(self.bbox_head, stage)
            logits, deltas = head(self.pooled(self.bbox_roi_extractor, stage, feats, numbered(rois)))
            with torch.autocast(logits.device.type, enabled=False):
                logits, deltas = logits.float(), deltas.float().split(counts)
                total = total + logits
                if stage + 1 < self.num_stages:
                    rois = [head.refine(c, d, r, s) for c, d, r, s in zip(logits.split(counts), deltas, rois, sizes)]
        with torch.autocast(total.device.type, enabled=False):
            results = [head.predict(c, d, r, s, self.postprocess)
                       for c, d, r, s in zip((total / self.num_stages).split(counts), deltas, rois, sizes)]
        if self.mask_head is not None:
            masks = self.masks(feats, numbered([r.bboxes for r in results]), torch.cat([r.labels for r in results]))
            for result, its in zip(results, masks.split([len(r) for r in results])):
                result.masks = its
        return results

    def masks(self, feats: tuple[Tensor, ...], rois: Tensor, labels: Tensor) -> Tensor:
        """Return mask scores (n, h, w) in [0, 1], averaged over the stages, of RoIs (n, 5) with labels (n,)."""
        total, extractors = 0., self.bbox_roi_extractor if self.mask_roi_extractor is None else self.mask_roi_extractor
        for stage in range(self.num_stages):
            head = at(self.mask_head, stage)
            total = total + head.of_class(head(self.pooled(extractors, stage, feats, rois)), labels).float().sigmoid()
        return total / self.num_stages

    def decode(self, feats: tuple[Tensor, ...], proposals: Detections, sizes: Tensor) -> Detections:
        """Return ``predict`` of a batch of images of ``sizes`` (N, 2), which are padded to one size; can be exported."""
        rois, total = proposals.boxes, 0.
        for stage in range(self.num_stages):
            head = at(self.bbox_head, stage)
            logits, deltas = (x.unflatten(0, rois.shape[:2])
                              for x in head(self.pooled(self.bbox_roi_extractor, stage, feats, numbered(rois))))
            total = total + logits
            if stage + 1 < self.num_stages:
                rois = head.refine(logits, deltas, rois, sizes)
        found = head.decode(total / self.num_stages, deltas, rois, proposals.scores > 0, sizes, self.postprocess)
        if self.mask_head is None:
            return found
        masks = self.masks(feats, numbered(found.boxes), found.labels.clamp(min=0).flatten())
        return found._replace(masks=masks.unflatten(0, found.scores.shape) * (found.scores > 0)[..., None, None])


def at(modules: nn.Module, stage: int) -> nn.Module:
    """Return the module of a stage from a ModuleList with one module per stage; return any other module unchanged."""
    return modules[stage] if isinstance(modules, ModuleList) else modules


def one_a_stage(name: str, cfg: dict | list[dict], num_stages: int) -> list[dict]:
    cfgs = list(cfg) if isinstance(cfg, (list, tuple)) else [cfg] * num_stages
    if len(cfgs) != num_stages:
        raise ConfigError(f'{name} has {len(cfgs)} entries, num_stages is {num_stages}.')
    return cfgs


def masks_of(sample: DetDataSample) -> BitmapMasks | PolygonMasks:
    """Return the ground-truth masks of an image.

    Raises:
        ConfigError: the data pipeline loaded no masks, or their size is neither the image's nor a padded size of it.
    """
    name = repr(sample.get('img_path') or sample.get('img_id'))
    if 'masks' not in sample.gt_instances:
        raise ConfigError(f'image {name} came without masks, which this model learns from. Set with_mask=True in the LoadAnnotations of '
                          f'train_dataloader.dataset.pipeline.')
    masks = sample.gt_instances.masks
    sizes = [tuple(sample.get(key)[:2]) for key in ('img_shape', 'pad_shape', 'batch_input_shape') if key in sample]
    if (masks.height, masks.width) not in sizes:
        raise ConfigError(f'image {name} has masks of {masks.height}x{masks.width} pixels (height x width), and the image has '
                          f'{sizes[0][0]}x{sizes[0][1]}. A transform of train_dataloader.dataset.pipeline changed one without the other.')
    return masks
