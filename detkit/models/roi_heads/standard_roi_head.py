"""Second stage of Faster R-CNN: pool features at proposals, classify and refine them."""
from __future__ import annotations

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.models.settings import RoIPostprocess, RoITraining, settings
from detkit.registry import MODELS, TASK_UTILS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.sample import generator_of
from detkit.tasks.matching import Candidates, preceded_by_truth

SAMPLING = 1   # purpose of the generator: apart from the proposal network's


@MODELS.register_module()
class StandardRoIHead(BaseModule):

    def __init__(self, bbox_roi_extractor: dict, bbox_head: dict, train_cfg: dict | None = None,
                 test_cfg: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.bbox_roi_extractor = MODELS.build(bbox_roi_extractor)
        self.bbox_head = MODELS.build(bbox_head)
        self.training_cfg = settings(RoITraining, train_cfg, 'model.train_cfg.rcnn')
        self.postprocess = settings(RoIPostprocess, test_cfg, 'model.test_cfg.rcnn')
        if self.training_cfg:
            self.assigner = TASK_UTILS.build(self.training_cfg.assigner)
            self.sampler = TASK_UTILS.build(self.training_cfg.sampler)
            if self.assigner.looks_at_predictions:
                raise ConfigError('an assigner that looks at predictions cannot assign proposals.', self.training_cfg.assigner)

    def forward(self, feats: tuple[Tensor, ...], rois: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.bbox_head(self.bbox_roi_extractor(feats, rois))

    def loss(self, feats: tuple[Tensor, ...], proposals: list[InstanceData],
             samples: list[DetDataSample]) -> dict[str, Tensor]:
        rois, labels, gt_bboxes = zip(*[self.sample_rois(p.bboxes, s) for p, s in zip(proposals, samples)])
        logits, deltas = self(feats, rois)
        with torch.autocast(logits.device.type, enabled=False):
            return self.bbox_head.loss(logits.float(), deltas.float(), torch.cat(rois), torch.cat(labels),
                                       torch.cat(gt_bboxes), self.training_cfg.pos_weight)

    def sample_rois(self, proposals: Tensor, sample: DetDataSample) -> tuple[Tensor, Tensor, Tensor]:
        """Of one image: RoIs (n, 4), positives first; labels (n,), background = K; matched ground truth (n_pos, 4)."""
        gt = sample.gt_instances
        match = self.assigner(Candidates(proposals), gt, sample.get('ignored_instances'))
        if self.sampler.add_gt_as_proposals:
            proposals = torch.cat([gt.bboxes, proposals])
            match = preceded_by_truth(match, len(gt))
        pos, neg = self.sampler(match, generator_of(sample, SAMPLING))
        background = gt.labels.new_full((len(neg),), self.bbox_head.num_classes)
        return (torch.cat([proposals[pos], proposals[neg]]), torch.cat([gt.labels[match.index[pos]], background]),
                gt.bboxes[match.index[pos]])

    def predict(self, feats: tuple[Tensor, ...], proposals: list[InstanceData],
                samples: list[DetDataSample]) -> list[InstanceData]:
        rois = [p.bboxes for p in proposals]
        logits, deltas = self(feats, rois)
        counts = [len(r) for r in rois]
        with torch.autocast(logits.device.type, enabled=False):
            return [self.bbox_head.predict(c, d, r, s.img_shape[:2], self.postprocess)
                    for c, d, r, s in zip(logits.float().split(counts), deltas.float().split(counts), rois, samples)]
