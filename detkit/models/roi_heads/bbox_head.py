"""Box heads: predict class and box of a region (Fast R-CNN, https://arxiv.org/abs/1504.08083)."""
from __future__ import annotations

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.dense_heads.outputs import chosen_rows
from detkit.models.settings import RoIPostprocess
from detkit.nn.conv import ConvModule
from detkit.ops.boxes import ImageSize
from detkit.ops.nms import batched_nms, padded_nms
from detkit.registry import MODELS, TASK_UTILS
from detkit.structures.detections import Detections

INIT = [dict(type='Normal', std=0.01, override=dict(name='fc_cls')),
        dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
        dict(type='Xavier', distribution='uniform', override=[dict(name=n) for n in ('shared_fcs', 'cls_fcs', 'reg_fcs')])]


@MODELS.register_module(name=['ConvFCBBoxHead', 'BBoxHead'])
class ConvFCBBoxHead(BaseModule):
    """Shared and then task-specific layers (convolutions, then fully connected), which predict class scores (softmax, background last) and
    box deltas.

    Args:
        in_channels, roi_feat_size: the pooled features are (in_channels, roi_feat_size, roi_feat_size).
        with_avg_pool: average the features over positions before the first fully connected layer.
        num_shared_convs, num_shared_fcs: number of shared 3x3 convolutions and shared fully connected layers; None: the default of the
            class.
        num_cls_convs, num_cls_fcs, num_reg_convs, num_reg_fcs: the same for the layers of each task.
        conv_out_channels, fc_out_channels, conv_cfg, norm_cfg: settings of these layers.
        reg_class_agnostic: predict one box for all classes instead of one box per class.
        reg_decoded_bbox: compute the box loss on decoded boxes (for IoU losses) instead of encoded deltas.
    """

    shared_by_default = 0, 0

    def __init__(self, in_channels: int = 256, num_classes: int = 80, roi_feat_size: int | tuple[int, int] = 7, with_avg_pool: bool = False,
                 num_shared_convs: int | None = None, num_shared_fcs: int | None = None, num_cls_convs: int = 0, num_cls_fcs: int = 0,
                 num_reg_convs: int = 0, num_reg_fcs: int = 0, conv_out_channels: int = 256, fc_out_channels: int = 1024,
                 conv_cfg: dict | None = None, norm_cfg: dict | None = None, reg_class_agnostic: bool = False,
                 reg_decoded_bbox: bool = False,
                 bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                 loss_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=False),
                 loss_bbox: dict = dict(type='SmoothL1Loss', beta=1.0), init_cfg: dict | list | None = None) -> None:
        super().__init__(INIT if init_cfg is None else init_cfg)
        self.num_classes, self.reg_class_agnostic = num_classes, reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        height, width = (roi_feat_size, roi_feat_size) if isinstance(roi_feat_size, int) else roi_feat_size
        self.avg_pool = nn.AvgPool2d((height, width)) if with_avg_pool else None
        area = 1 if with_avg_pool else height * width

        def layers(name: str, num_convs: int, num_fcs: int, channels: int, flat: bool) -> tuple[int, bool]:
            """Add the layers of a branch. Return the width of its output, and whether the output is flattened."""
            inputs = [channels] + [conv_out_channels] * num_convs
            self.add_module(f'{name}_convs', nn.ModuleList(
                ConvModule(i, conv_out_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg) for i in inputs[:-1]))
            inputs = [inputs[-1] * (1 if flat or not num_fcs else area)] + [fc_out_channels] * num_fcs
            self.add_module(f'{name}_fcs', nn.ModuleList(nn.Linear(i, fc_out_channels) for i in inputs[:-1]))
            self.add_module(f'{name}_relus', nn.ModuleList(nn.ReLU() for _ in inputs[:-1]))
            return inputs[-1], flat or num_fcs > 0

        convs, fcs = (d if n is None else n for d, n in zip(self.shared_by_default, (num_shared_convs, num_shared_fcs)))
        shared = layers('shared', convs, fcs, in_channels, flat=False)
        cls_width, cls_flat = layers('cls', num_cls_convs, num_cls_fcs, *shared)
        reg_width, reg_flat = layers('reg', num_reg_convs, num_reg_fcs, *shared)
        self.fc_cls = nn.Linear(cls_width * (1 if cls_flat else area), num_classes + 1)
        self.fc_reg = nn.Linear(reg_width * (1 if reg_flat else area), 4 if reg_class_agnostic else 4 * num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predict class logits (n, K + 1) and deltas (n, K or 1, 4) from features (n, C, S, S)."""
        x = self.through(x, self.shared_convs, self.shared_fcs, self.shared_relus)
        cls = self.flat(self.through(x, self.cls_convs, self.cls_fcs, self.cls_relus))
        reg = self.flat(self.through(x, self.reg_convs, self.reg_fcs, self.reg_relus))
        return self.fc_cls(cls), self.fc_reg(reg).unflatten(1, (-1, 4))

    def through(self, x: Tensor, convs: nn.ModuleList, fcs: nn.ModuleList, relus: nn.ModuleList) -> Tensor:
        for conv in convs:
            x = conv(x)
        for fc, relu in zip(fcs, relus):
            x = relu(fc(self.flat(x)))
        return x

    def flat(self, x: Tensor) -> Tensor:
        """Flatten features (n, C, S, S) to (n, C * S * S), or average them to (n, C); features that are already flat are returned
        unchanged."""
        return x if x.dim() == 2 else (x if self.avg_pool is None else self.avg_pool(x)).flatten(1)

    def of_class(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """Select the deltas of the label's class: (..., K or 1, 4) and labels (...) -> (..., 4)."""
        if self.reg_class_agnostic:
            return deltas[..., 0, :]
        return deltas.gather(-2, labels[..., None, None].expand(*labels.shape, 1, 4)).squeeze(-2)

    def loss(self, logits: Tensor, deltas: Tensor, rois: Tensor, labels: Tensor, gt_bboxes: Tensor,
             pos_weight: float) -> dict[str, Tensor]:
        """Return the losses. ``rois`` (n, 4); ``labels`` (n,), background = K; ``gt_bboxes`` (n_pos, 4) of the positives, in the same
        order."""
        positive = labels < self.num_classes
        weight = positive.float() * (pos_weight - 1) + 1 if pos_weight > 0 else None
        count = mean_over_processes(logits.new_tensor(float(len(labels)))).clamp(min=1)
        pred = self.of_class(deltas[positive], labels[positive])
        target = gt_bboxes
        if self.reg_decoded_bbox:
            pred = self.coder.decode(rois[positive], pred)
        else:
            target = self.coder.encode(rois[positive], gt_bboxes)
        return dict(loss_cls=self.loss_cls(logits, labels, weight, count),
                    acc=100 * (logits.argmax(1) == labels).sum() / max(len(labels), 1),
                    loss_bbox=self.loss_bbox(pred, target, avg_factor=count))

    def refine(self, logits: Tensor, deltas: Tensor, rois: Tensor, size: ImageSize, labels: Tensor | None = None) -> Tensor:
        """Return the RoIs of the next stage, (..., 4) (Cascade R-CNN, https://arxiv.org/abs/1712.00726, Sec. 4.1).

        The deltas of the most likely class are applied, or of the class in ``labels`` if it is not background. Boxes are clipped to
        ``size`` (height, width) of the image, or for RoIs (N, n, 4) of N images to sizes (N, 2).
        """
        best = logits[..., :self.num_classes].argmax(-1)
        if labels is not None:
            best = torch.where(labels < self.num_classes, labels, best)
        return self.coder.decode(rois, self.of_class(deltas, best), max_shape=size)

    def predict(self, logits: Tensor, deltas: Tensor, rois: Tensor, img_shape: tuple[int, int],
                cfg: RoIPostprocess) -> InstanceData:
        """Return the detections of one image: boxes xyxy in pixels of the network input, after NMS per class, best first."""
        K = self.num_classes
        scores = logits.softmax(-1)[:, :K]                 # softmax heads predict background last; it is never a detection
        boxes = self.coder.decode(rois[:, None].expand(-1, deltas.shape[1], -1), deltas, max_shape=img_shape)
        roi, label = (scores > cfg.score_thr).nonzero(as_tuple=True)
        boxes, scores = boxes.expand(-1, K, -1)[roi, label], scores[roi, label]
        keep, scores = batched_nms(boxes, scores, label, cfg.nms)
        keep, scores = keep[:cfg.max_per_img], scores[:cfg.max_per_img]
        return InstanceData(bboxes=boxes[keep], scores=scores, labels=label[keep])

    def decode(self, logits: Tensor, deltas: Tensor, rois: Tensor, valid: Tensor, sizes: Tensor, cfg: RoIPostprocess) -> Detections:
        """Return the detections of N images of ``sizes`` (N, 2) as in ``predict``, without a loop over images; can be exported.

        Logits (N, M, K + 1), deltas (N, M, K or 1, 4), RoIs (N, M, 4); rows that are not ``valid`` (N, M) are empty.
        """
        N, M, K = *valid.shape, self.num_classes
        scores = logits.softmax(-1)[..., :K]
        scores = torch.where((scores > cfg.score_thr) & valid[..., None], scores, 0.).flatten(1)
        boxes = self.coder.decode(rois[..., None, :].expand_as(deltas).flatten(1, 2), deltas.flatten(1, 2), max_shape=sizes)
        boxes = boxes.unflatten(1, deltas.shape[1:3]).expand(-1, -1, K, -1).flatten(1, 2)
        labels = torch.arange(K, device=scores.device).expand(N, M, K).flatten(1)
        return chosen_rows(boxes, labels, *padded_nms(boxes, scores, labels, cfg.nms, cfg.max_per_img))


@MODELS.register_module()
class Shared2FCBBoxHead(ConvFCBBoxHead):
    """Box head of Faster R-CNN with FPN (https://arxiv.org/abs/1612.03144, Sec. 4.2)."""

    shared_by_default = 0, 2


@MODELS.register_module()
class Shared4Conv1FCBBoxHead(ConvFCBBoxHead):
    """Box head of Group Normalization (https://arxiv.org/abs/1803.08494, Sec. 4.2)."""

    shared_by_default = 4, 1
