"""Detectors that are a backbone, a neck and one dense head. They differ in the head alone."""
from __future__ import annotations

from typing import TYPE_CHECKING

from mmengine.structures import InstanceData
from torch import Tensor

from detkit.models.dense_heads.outputs import DenseOutputs
from detkit.models.detectors.detector import Detector
from detkit.registry import MODELS
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections

if TYPE_CHECKING:
    from detkit.structures.rle_masks import RLEMasks


@MODELS.register_module(name=['SingleStageDetector', 'RetinaNet', 'RTMDet', 'FCOS', 'GFL', 'TOOD', 'CenterNet', 'YOLOX'])
class SingleStageDetector(Detector):

    def __init__(self, backbone: dict, bbox_head: dict, neck: dict | list[dict] | None = None, train_cfg: dict | None = None,
                 test_cfg: dict | None = None, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        self.bbox_head = MODELS.build(bbox_head, train_cfg=train_cfg, test_cfg=test_cfg)

    def network(self, images: Tensor) -> DenseOutputs:
        return self.bbox_head(self.extract_feat(images))

    def losses(self, outputs: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        return self.bbox_head.loss(outputs.float(), samples)

    def detect(self, outputs: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return self.bbox_head.predict(outputs.float(), samples)

    def decode(self, outputs: DenseOutputs, size: tuple[int, int]) -> Detections:
        return self.bbox_head.decode(outputs.float(), size)

    def full_masks(self, instances: InstanceData, sample: DetDataSample, size: tuple[int, int], factor: tuple[float, float]) -> RLEMasks:
        return self.bbox_head.full_masks(instances, sample, size, factor)
