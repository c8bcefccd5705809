"""Two-stage detectors: a proposal head and a RoI head (Faster R-CNN, Mask R-CNN, Cascade R-CNN)."""
from __future__ import annotations

from inspect import signature

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from detkit.catalogue import names_in
from detkit.models.dense_heads.outputs import DenseOutputs
from detkit.models.detectors.detector import Detector
from detkit.models.targets import Targets, targets_or_reason
from detkit.ops.boxes import scale_boxes
from detkit.ops.masks import paste_masks
from detkit.registry import MODELS, ConfigError
from detkit.structures import DetDataSample, RLEMasks
from detkit.structures.detections import Detections


@MODELS.register_module(name=names_in('model', __name__))
class TwoStageDetector(Detector):
    """Faster R-CNN (https://arxiv.org/abs/1506.01497); Mask R-CNN and Cascade R-CNN use other RoI heads.

    ``network`` stops after the proposal head, because the regions that the second stage pools depend on its outputs. If
    ``train_cfg.rpn_proposal`` is missing, ``test_cfg.rpn`` is used.
    """

    def __init__(self, backbone: dict, rpn_head: dict, roi_head: dict, test_cfg: dict, train_cfg: dict | None = None,
                 neck: dict | list[dict] | None = None, data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        for name, cfg, optional in (('train_cfg', train_cfg, {'rpn_proposal'}), ('test_cfg', test_cfg, set())):
            if cfg is not None and set(cfg) - optional != {'rpn', 'rcnn'}:
                raise ConfigError(f'{name} of a two-stage detector has the keys {", ".join(sorted({"rpn", "rcnn"} | optional))}, '
                                  f'not {", ".join(sorted(cfg))}.', cfg)
        train, kind = train_cfg or {}, rpn_head.get('type')
        if isinstance(kind, str) and kind in MODELS and 'proposal_cfg' not in signature(MODELS.get(kind)).parameters:
            raise ConfigError(f"rpn_head type '{kind}' proposes no regions here. RPNHead does.", rpn_head, ('type',))
        self.rpn_head = MODELS.build(rpn_head, train_cfg=train.get('rpn'), test_cfg=test_cfg['rpn'],
                                     proposal_cfg=train.get('rpn_proposal'))
        self.roi_head = MODELS.build(roi_head, train_cfg=train.get('rcnn'), test_cfg=test_cfg['rcnn'])

    def network(self, images: Tensor) -> tuple[tuple[Tensor, ...], DenseOutputs]:
        feats = self.extract_feat(images)
        return feats, self.rpn_head(feats)

    def loss(self, inputs: Tensor, data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Return losses as in ``Detector.loss``; the layers of the second stage run here too, in the caller's precision."""
        feats, rpn_out = self.network(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            rpn_out = rpn_out.float()
            losses = self.rpn_head.loss(rpn_out, data_samples)
            proposals = self.rpn_head.predict(rpn_out, data_samples, for_training=True)
        return losses | self.roi_head.loss(feats, proposals, data_samples)

    def targets(self, outputs: tuple[tuple[Tensor, ...], DenseOutputs], samples: list[DetDataSample]) -> dict[str, Targets | str]:
        feats, rpn_out = outputs
        return dict(rpn_head=targets_or_reason(self.rpn_head, rpn_out.float(), samples),
                    roi_head=targets_or_reason(self.roi_head, feats, samples))

    def find(self, inputs: Tensor, data_samples: list[DetDataSample]) -> list[InstanceData]:
        """Return detections for a batch; the layers of the second stage run here too, in the caller's precision."""
        feats, rpn_out = self.network(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            proposals = self.rpn_head.predict(rpn_out.float(), data_samples)
        return self.roi_head.predict(feats, proposals, data_samples)

    def full_masks(self, instances: InstanceData, sample: DetDataSample, size: tuple[int, int], factor: tuple[float, float]) -> RLEMasks:
        """Return full-size masks as in ``Detector.full_masks``: each mask is pasted into its box."""
        boxes = scale_boxes(instances.bboxes, factor)
        return RLEMasks(paste_masks(instances.masks, boxes, size, self.roi_head.postprocess.mask_thr_binary), *size)

    def decode(self, outputs: tuple[tuple[Tensor, ...], DenseOutputs], sizes: Tensor) -> Detections:
        """Return detections as in ``Detector.decode``, after the second stage; ``masks`` are relative to the boxes."""
        feats, rpn_out = outputs
        return self.roi_head.decode(feats, self.rpn_head.decode(rpn_out, sizes), sizes)
