"""The heads of Deformable DETR (https://arxiv.org/abs/2010.04159) and DINO (https://arxiv.org/abs/2203.03605)."""
from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from detkit.models.query_heads.detr_head import FOCAL, GIOU, L1
from detkit.models.query_heads.query_head import Objects, QueryHead, class_agnostic
from detkit.nn.conv import bias_for_probability
from detkit.registry import MODELS
from detkit.structures import DetDataSample
from detkit.tasks.query_boxes import SigmoidBoxes


@MODELS.register_module(name=['DeformableDETRHead', 'DINOHead'])
class DeformableDETRHead(QueryHead):
    """For each decoder layer, a linear layer for the class and an MLP for the box, relative to a reference; one more pair of branches for
    the encoder's proposals.

    Args:
        num_pred_layer: number of pairs of branches; set by the detector.
        share_pred_layer: all layers share one pair of branches; used without box refinement.
        as_two_stage: the last pair of branches is for the encoder. Initial boxes have the size of their proposals; without
            ``as_two_stage``, about a tenth of the image.
        proposals_have_classes: the encoder's proposals are trained on the objects' classes (DINO); False: only on objectness.
    """

    def __init__(self, num_classes: int, embed_dims: int = 256, num_reg_fcs: int = 2, sync_cls_avg_factor: bool = True,
                 loss_cls: dict = FOCAL, loss_bbox: dict = L1, loss_iou: dict = GIOU, train_cfg: dict | None = None,
                 test_cfg: dict | None = dict(max_per_img=100), init_cfg: dict | None = None, num_pred_layer: int = 6,
                 share_pred_layer: bool = False, as_two_stage: bool = False, proposals_have_classes: bool = False) -> None:
        super().__init__(num_classes, embed_dims, num_reg_fcs, sync_cls_avg_factor, loss_cls, loss_bbox, loss_iou, train_cfg, test_cfg,
                         init_cfg)
        self.proposals_have_classes, self.boxes = proposals_have_classes, SigmoidBoxes()
        branches = [self.branch(i == 0 and not as_two_stage) for i in range(1 if share_pred_layer else num_pred_layer)]
        branches = branches * num_pred_layer if share_pred_layer else branches
        self.cls_branches, self.reg_branches = (nn.ModuleList(kind) for kind in zip(*branches))

    def branch(self, starts_small: bool) -> tuple[nn.Linear, nn.Sequential]:
        """Return the class and box branches, initialised to a score of 0.01 and to boxes equal to their references; ``starts_small``: the
        initial size is sigmoid(-2)."""
        c = self.embed_dims
        cls = nn.Linear(c, self.cls_out_channels)
        if not self.softmax:
            nn.init.constant_(cls.bias, bias_for_probability(0.01))
        hidden = [layer for _ in range(self.num_reg_fcs) for layer in (nn.Linear(c, c), nn.ReLU())]
        last = nn.Linear(c, 4)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if starts_small:
            nn.init.constant_(last.bias[2:], -2.)
        return cls, nn.Sequential(*hidden, last)

    def forward(self, layer: int, state: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (N, Q, K) and boxes (N, Q, 4) from queries (N, Q, C) and references (N, Q, 2 or 4) in [0, 1]."""
        return self.cls_branches[layer](state), self.boxes(self.reg_branches[layer](state), reference)

    def proposal_truth(self, samples: list[DetDataSample], objects: Objects) -> tuple[list[DetDataSample], Objects]:
        return (samples, objects) if self.proposals_have_classes else class_agnostic(samples, objects)
