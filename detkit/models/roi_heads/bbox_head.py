"""Class and box of a region (Fast R-CNN, https://arxiv.org/abs/1504.08083)."""
from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.models.settings import RoIPostprocess
from detkit.ops.nms import batched_nms
from detkit.registry import MODELS, TASK_UTILS

INIT = [dict(type='Normal', std=0.01, override=dict(name='fc_cls')),
        dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
        dict(type='Xavier', distribution='uniform', override=dict(name='shared_fcs'))]


@MODELS.register_module(name='Shared2FCBBoxHead')
class BBoxHead(BaseModule):
    """Fully connected layers shared by both tasks, then class scores (softmax, background last) and box deltas.

    Args:
        in_channels, roi_feat_size: the pooled features are (in_channels, roi_feat_size, roi_feat_size).
        num_shared_fcs, fc_out_channels: count and width of the shared layers.
        reg_class_agnostic: one box for all classes in place of one a class.
        reg_decoded_bbox: the box loss sees boxes (an IoU loss) in place of the coder's numbers.
    """

    def __init__(self, in_channels: int = 256, num_classes: int = 80, num_shared_fcs: int = 2, fc_out_channels: int = 1024,
                 roi_feat_size: int = 7, reg_class_agnostic: bool = False, reg_decoded_bbox: bool = False,
                 bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                 loss_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=False),
                 loss_bbox: dict = dict(type='SmoothL1Loss', beta=1.0), init_cfg: dict | list | None = INIT) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.reg_class_agnostic = num_classes, reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        inputs = [in_channels * roi_feat_size**2] + [fc_out_channels] * num_shared_fcs
        self.shared_fcs = nn.ModuleList(nn.Linear(i, fc_out_channels) for i in inputs[:num_shared_fcs])
        self.fc_cls = nn.Linear(inputs[-1], num_classes + 1)
        self.fc_reg = nn.Linear(inputs[-1], 4 if reg_class_agnostic else 4 * num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C, S, S) -> class logits (n, K + 1) and deltas (n, K or 1, 4)."""
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = F.relu(fc(x))
        return self.fc_cls(x), self.fc_reg(x).unflatten(1, (-1, 4))

    def loss(self, logits: Tensor, deltas: Tensor, rois: Tensor, labels: Tensor, gt_bboxes: Tensor,
             pos_weight: float) -> dict[str, Tensor]:
        """``rois`` (n, 4); ``labels`` (n,), background = K; ``gt_bboxes`` (n_pos, 4) of the positives, in their order."""
        positive = labels < self.num_classes
        weight = positive.float() * (pos_weight - 1) + 1 if pos_weight > 0 else None
        count = max(len(labels), 1)
        pred = deltas[positive, 0] if self.reg_class_agnostic else deltas[positive, labels[positive]]
        target = gt_bboxes
        if self.reg_decoded_bbox:
            pred = self.coder.decode(rois[positive], pred)
        else:
            target = self.coder.encode(rois[positive], gt_bboxes)
        return dict(loss_cls=self.loss_cls(logits, labels, weight, count),
                    acc=100 * (logits.argmax(1) == labels).sum() / count,
                    loss_bbox=self.loss_bbox(pred, target, avg_factor=count))

    def predict(self, logits: Tensor, deltas: Tensor, rois: Tensor, img_shape: tuple[int, int],
                cfg: RoIPostprocess) -> InstanceData:
        """One image's detections: boxes xyxy in pixels of the network input, NMS within class, best first."""
        K = self.num_classes
        scores = logits.softmax(-1)[:, :K]                 # background stands last; it is never a detection
        boxes = self.coder.decode(rois[:, None].expand(-1, deltas.shape[1], -1), deltas, max_shape=img_shape)
        roi, label = (scores > cfg.score_thr).nonzero(as_tuple=True)
        boxes, scores = boxes.expand(-1, K, -1)[roi, label], scores[roi, label]
        keep, scores = batched_nms(boxes, scores, label, cfg.nms)
        keep, scores = keep[:cfg.max_per_img], scores[:cfg.max_per_img]
        return InstanceData(bboxes=boxes[keep], scores=scores, labels=label[keep])
