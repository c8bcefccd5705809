"""Detectors with a backbone, a neck and one dense head. They differ only in the head."""
from __future__ import annotations

from torch import Tensor

from detkit.catalogue import names_in
from detkit.models.dense_heads.outputs import DenseOutputs
from detkit.models.detectors.detector import Detector
from detkit.registry import MODELS


@MODELS.register_module(name=names_in('model', __name__))
class SingleStageDetector(Detector):

    def __init__(self, backbone: dict, bbox_head: dict, neck: dict | list[dict] | None = None, train_cfg: dict | None = None,
                 test_cfg: dict | None = None, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        self.bbox_head = MODELS.build(bbox_head, train_cfg=train_cfg, test_cfg=test_cfg)

    def network(self, images: Tensor) -> DenseOutputs:
        return self.bbox_head(self.extract_feat(images))
