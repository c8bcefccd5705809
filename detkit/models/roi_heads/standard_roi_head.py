"""The second stage of Faster R-CNN (https://arxiv.org/abs/1506.01497) and Mask R-CNN (https://arxiv.org/abs/1703.06870)."""
from __future__ import annotations

from mmengine.model import BaseModule

from detkit.models.roi_heads.cascade_roi_head import CascadeRoIHead
from detkit.registry import MODELS


@MODELS.register_module()
class StandardRoIHead(CascadeRoIHead):
    """A cascade with one stage; the names of its layers and losses contain no stage number.

    ``shared_head``: layers between the pooled features and both heads (the fifth stage of a C4 network: Mask R-CNN, Fig. 4 left).
    """

    def __init__(self, bbox_roi_extractor: dict, bbox_head: dict, mask_roi_extractor: dict | None = None, mask_head: dict | None = None,
                 shared_head: dict | None = None, train_cfg: dict | None = None, test_cfg: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        BaseModule.__init__(self, init_cfg)
        self.shared_head = MODELS.build(shared_head)
        self.bbox_roi_extractor, self.bbox_head = MODELS.build(bbox_roi_extractor), MODELS.build(bbox_head)
        self.mask_roi_extractor, self.mask_head = MODELS.build(mask_roi_extractor), MODELS.build(mask_head)
        self.prepare([1.], [''], None if train_cfg is None else [train_cfg], test_cfg)
