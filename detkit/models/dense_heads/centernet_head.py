"""CenterNet's head (https://arxiv.org/abs/1904.07850)."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.losses.weighting import mean_over_processes
from detkit.models.dense_heads.outputs import chosen_rows
from detkit.models.settings import HeatmapPostprocess, settings
from detkit.models.targets import AssignedBy
from detkit.nn.conv import bias_for_probability
from detkit.registry import MODELS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections

STRIDE = 4            # pixels per cell (Sec. 3: R)
MIN_OVERLAP = 0.3     # min IoU of a box with itself when its corners move by the Gaussian's radius


@dataclass(frozen=True)
class HeatmapOutputs:
    """Raw predictions on one feature map, in cells."""

    center: Tensor   # (N, K, H, W) logits of the centre heatmap, one map per class
    size: Tensor     # (N, 2, H, W) width, height of the object with its centre in this cell
    shift: Tensor    # (N, 2, H, W) x, y offset of the centre within its cell

    def float(self) -> 'HeatmapOutputs':
        return HeatmapOutputs(self.center.float(), self.size.float(), self.shift.float())


@dataclass(frozen=True)
class HeatmapTargets:
    """Targets of the cells of a batch; P cells have a size and an offset to regress."""

    heat: Tensor      # (N, K, H, W) in [0, 1]
    cells: Tensor     # (P,) int64 index into N * H * W cells, image by image
    sizes: Tensor     # (P, 2) width, height in cells
    shifts: Tensor    # (P, 2) x, y offset of the centre within its cell
    matched_objects: list[Tensor]   # N x (M,) int64; if two objects share a cell, the last one
    assigned_by: AssignedBy = 'geometry'


@MODELS.register_module()
class CenterNetHead(BaseModule):
    """CenterNet: each object is a peak in the heatmap of its class, and its size and offset are read at the peak. No anchors, no NMS."""

    strides = (STRIDE,)

    def __init__(self, in_channels: int, feat_channels: int, num_classes: int,
                 loss_center_heatmap: dict = dict(type='GaussianFocalLoss', loss_weight=1.0),
                 loss_wh: dict = dict(type='L1Loss', loss_weight=0.1), loss_offset: dict = dict(type='L1Loss', loss_weight=1.0),
                 train_cfg: dict | None = None, test_cfg: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if train_cfg:
            raise ConfigError('CenterNetHead train_cfg is not offered; leave it out.', train_cfg)
        self.num_classes = num_classes
        self.loss_center_heatmap, self.loss_wh, self.loss_offset = (MODELS.build(c) for c in (loss_center_heatmap, loss_wh, loss_offset))
        self.postprocess = settings(HeatmapPostprocess, test_cfg, 'model.test_cfg')

        def branch(outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(in_channels, feat_channels, 3, padding=1), nn.ReLU(inplace=True),
                                 nn.Conv2d(feat_channels, outputs, 1))
        self.heatmap_head, self.wh_head, self.offset_head = branch(num_classes), branch(2), branch(2)

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.constant_(self.heatmap_head[2].bias, bias_for_probability(0.1))
        for branch in (self.wh_head, self.offset_head):
            for conv in (branch[0], branch[2]):
                nn.init.normal_(conv.weight, std=0.001)
                nn.init.zeros_(conv.bias)

    def forward(self, feats: tuple[Tensor, ...]) -> HeatmapOutputs:
        """Predict heatmaps, sizes and offsets. Raises ConfigError if there is more than one feature map."""
        if len(feats) != 1:
            raise ConfigError(f'CenterNetHead looks at one feature map; the neck gives {len(feats)}.')
        return HeatmapOutputs(self.heatmap_head(feats[0]), self.wh_head(feats[0]), self.offset_head(feats[0]))

    def targets(self, out: HeatmapOutputs, samples: list[DetDataSample]) -> HeatmapTargets:
        shape = out.center.shape[-2:]
        heat, cells, sizes, shifts, matched = [], [], [], [], []
        for i, sample in enumerate(samples):
            gt = sample.gt_instances
            scale = gt.bboxes.new_tensor([side / whole for side, whole in zip(shape[::-1], sample.batch_input_shape[::-1])])
            boxes = gt.bboxes * scale.repeat(2)
            center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            cell = center.long().clamp(min=0).minimum(center.new_tensor(shape[::-1]).long() - 1)
            heat.append(center_heatmap(cell, gaussian_radius(size, MIN_OVERLAP).floor(), gt.labels, self.num_classes, shape))
            index = cell[:, 1] * shape[1] + cell[:, 0]
            kept = last_of_each(index, shape[0] * shape[1])
            cells.append(index[kept] + i * shape[0] * shape[1])
            sizes.append(size[kept])
            shifts.append((center - cell)[kept])
            matched.append(kept.nonzero().squeeze(1))
        return HeatmapTargets(torch.stack(heat), torch.cat(cells), torch.cat(sizes), torch.cat(shifts), matched)

    def loss(self, out: HeatmapOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        t = self.targets(out, samples)
        total = mean_over_processes((t.heat == 1).sum().float()).clamp(min=1)

        def at_centers(maps: Tensor) -> Tensor:
            return maps.permute(0, 2, 3, 1).flatten(0, 2)[t.cells]
        return dict(loss_center_heatmap=self.loss_center_heatmap(out.center.sigmoid(), t.heat, avg_factor=total),
                    loss_wh=self.loss_wh(at_centers(out.size), t.sizes, avg_factor=total * 2),
                    loss_offset=self.loss_offset(at_centers(out.shift), t.shifts, avg_factor=total * 2))

    def predict(self, out: HeatmapOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        """Return boxes in pixels of the image, without the border that ``RandomCenterCropPad`` added around it."""
        found, results = self.peaks(out, tuple(side / cells for side, cells in zip(samples[0].batch_input_shape, out.center.shape[2:]))), []
        for boxes, scores, labels, sample in zip(found.boxes, found.scores, found.labels, samples):
            top, _, left, _ = sample.get('border', (0, 0, 0, 0))
            kept = scores > 0
            boxes = boxes[kept] - boxes.new_tensor([left, top, left, top])
            results.append(InstanceData(bboxes=boxes, scores=scores[kept], labels=labels[kept]))
        return results

    def decode(self, out: HeatmapOutputs, sizes: Tensor) -> Detections:
        """Return the same as ``predict``, for inputs whose sides are multiples of the coarsest stride; boxes may extend into the
        padding."""
        return self.peaks(out, (STRIDE, STRIDE))

    def peaks(self, out: HeatmapOutputs, stride: tuple[float, float]) -> Detections:
        """Return the detections at the highest peaks (Sec. 3, "From points to bounding boxes"); cells that are not a local maximum have
        score 0. ``stride``: pixels of the network input per cell, (vertical, horizontal)."""
        cfg, (classes, height, width) = self.postprocess, out.center.shape[1:]
        center = out.center.sigmoid()
        peaks = center == F.max_pool2d(center, cfg.local_maximum_kernel, 1, cfg.local_maximum_kernel // 2)
        scores, index = (center * peaks).flatten(1).topk(torch.sym_min(min(cfg.topk, cfg.max_per_img), classes * height * width), 1)
        labels = index // (height * width)
        cell = index - labels * (height * width)           # ONNX has no remainder by a symbolic number
        y = cell // width
        at = cell[..., None].expand(-1, -1, 2)
        extent, shift = (x.flatten(2).transpose(1, 2).gather(1, at) for x in (out.size, out.shift))
        middle = torch.stack([cell - y * width, y], -1) + shift
        boxes = torch.cat([middle - extent / 2, middle + extent / 2], -1) * middle.new_tensor([*stride[::-1]] * 2)
        return chosen_rows(boxes, labels, torch.arange(boxes.shape[1], device=boxes.device).expand_as(labels), scores)


def center_heatmap(cells: Tensor, radius: Tensor, labels: Tensor, num_classes: int, shape: tuple[int, int]) -> Tensor:
    """Return the target heatmap (K, H, W) (Sec. 3): a Gaussian with peak value 1 around each object's cell (G, 2), given as x, y.

    The Gaussian is cut off at ``radius`` (G,); its standard deviation is one sixth of its diameter. Where two Gaussians of one class
    overlap, the larger value is kept.
    """
    def profile(cell: Tensor, size: int) -> Tensor:
        distance = torch.arange(size, device=cells.device) - cell[:, None]
        height = torch.exp(-distance**2 / (2 * ((2 * radius + 1) / 6)**2)[:, None])
        return height * (distance.abs() <= radius[:, None])
    x, y = profile(cells[:, 0], shape[1]), profile(cells[:, 1], shape[0])               # (G, W), (G, H)
    heat = x.new_zeros(num_classes, *shape)
    for label in labels.unique().tolist():
        mine = labels == label
        heat[label] = (y[mine][:, :, None] * x[mine][:, None]).amax(0)
    return heat.masked_fill(heat < torch.finfo(heat.dtype).eps, 0)


def gaussian_radius(size: Tensor, min_overlap: float) -> Tensor:
    """Return the distance by which the corners of a box may move while its IoU with the original box is at least ``min_overlap``
    (CornerNet, Sec. 3.2).

    It is the minimum of three cases: one corner moves inwards and one outwards, both move inwards, both move outwards. ``size`` (G, 2) ->
    (G,), with the formulas of CornerNet's code.
    """
    total, area = size.sum(1), size.prod(1)
    shifted = (total - (total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap)).sqrt()) / 2
    inside = (2 * total - (4 * total**2 - 16 * (1 - min_overlap) * area).sqrt()) / 8
    b = -2 * min_overlap * total
    outside = (b + (b**2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt()) / (8 * min_overlap)
    return torch.stack([shifted, inside, outside]).amin(0)


def last_of_each(index: Tensor, size: int) -> Tensor:
    """Return a mask (G,) bool of the last occurrence of each number in ``index`` (G,), numbers below ``size``: one object per cell is
    kept."""
    order = torch.arange(len(index), device=index.device)
    last = order.new_full((size,), -1).scatter_reduce(0, index, order, 'amax')
    return last[index] == order
