"""The heads of DETR (https://arxiv.org/abs/2005.12872) and Conditional DETR (https://arxiv.org/abs/2108.06152)."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.argument_values import value_fault
from detkit.models.query_heads.query_head import QueryHead
from detkit.nn.conv import bias_for_probability
from detkit.nn.ffn import FFN
from detkit.registry import MODELS, ConfigError
from detkit.tasks.query_boxes import SigmoidBoxes

SOFTMAX = dict(type='CrossEntropyLoss', bg_cls_weight=0.1, use_sigmoid=False, loss_weight=1.0, class_weight=1.0)
L1, GIOU = dict(type='L1Loss', loss_weight=5.0), dict(type='GIoULoss', loss_weight=2.0)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)


@MODELS.register_module()
class DETRHead(QueryHead):
    """A linear layer for the class and an MLP for the box, shared by all decoder layers.

    ``loss_cls``: ``class_weight`` (of every class) and ``bg_cls_weight`` (of "no object") are one number each.
    """

    def __init__(self, num_classes: int, embed_dims: int = 256, num_reg_fcs: int = 2, sync_cls_avg_factor: bool = True,
                 loss_cls: dict = SOFTMAX, loss_bbox: dict = L1, loss_iou: dict = GIOU, train_cfg: dict | None = None,
                 test_cfg: dict | None = dict(max_per_img=100), init_cfg: dict | None = None) -> None:
        loss_cls, background_weight = with_class_weights(loss_cls, num_classes)
        super().__init__(num_classes, embed_dims, num_reg_fcs, sync_cls_avg_factor, loss_cls, loss_bbox, loss_iou, train_cfg, test_cfg,
                         init_cfg, background_weight)
        add_layers(self)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (N, Q, K + 1) and boxes (N, Q, 4) from queries (N, Q, C)."""
        return self.fc_cls(state), raw_boxes(self, state).float().sigmoid()


@MODELS.register_module()
class ConditionalDETRHead(QueryHead):
    """The layers of DETR's head; the centre of a box is relative to the query's reference point (Sec. 3.3)."""

    def __init__(self, num_classes: int, embed_dims: int = 256, num_reg_fcs: int = 2, sync_cls_avg_factor: bool = True,
                 loss_cls: dict = FOCAL, loss_bbox: dict = L1, loss_iou: dict = GIOU, train_cfg: dict | None = None,
                 test_cfg: dict | None = dict(max_per_img=100), init_cfg: dict | None = None) -> None:
        super().__init__(num_classes, embed_dims, num_reg_fcs, sync_cls_avg_factor, loss_cls, loss_bbox, loss_iou, train_cfg, test_cfg,
                         init_cfg)
        add_layers(self)
        self.boxes = SigmoidBoxes()
        if not self.softmax:
            nn.init.constant_(self.fc_cls.bias, bias_for_probability(0.01))

    def forward(self, state: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (N, Q, K) and boxes (N, Q, 4) from queries (N, Q, C) and reference points (N, Q, 2)."""
        return self.fc_cls(state), self.boxes(raw_boxes(self, state), reference)


def add_layers(head: QueryHead) -> None:
    c = head.embed_dims
    head.fc_cls = nn.Linear(c, head.cls_out_channels)
    head.reg_ffn = FFN(c, c, head.num_reg_fcs, add_identity=False)
    head.reg_relu = nn.ReLU()
    head.fc_reg = nn.Linear(c, 4)


def raw_boxes(head: QueryHead, state: Tensor) -> Tensor:
    """Return boxes before the sigmoid, (N, Q, 4), from queries (N, Q, C)."""
    return head.fc_reg(head.reg_relu(head.reg_ffn(state)))


def with_class_weights(loss_cls: dict, num_classes: int) -> tuple[dict, float]:
    """Return ``loss_cls`` with one weight per class and for "no object", and the weight of "no object"."""
    cfg = dict(loss_cls)
    weight = cfg.pop('class_weight', None)
    background = cfg.pop('bg_cls_weight', weight)
    if weight is None:
        if background is not None:
            raise ConfigError('DETRHead loss_cls has bg_cls_weight but no class_weight; set class_weight=1.0.')
        return cfg, 0.
    for key, value in (('class_weight', weight), ('bg_cls_weight', background)):
        fault = value_fault(value, float, key)
        if fault:
            raise ConfigError(str(fault), loss_cls, (key, *fault.keys))
    return cfg | dict(class_weight=[float(weight)] * num_classes + [float(background)]), float(background)
