"""MaskFormer (https://arxiv.org/abs/2107.06278) and Mask2Former (https://arxiv.org/abs/2112.01527)."""
from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from detkit.catalogue import names_in
from detkit.models.detectors.detector import Detector
from detkit.models.query_heads.mask_queries import MaskQueries
from detkit.models.targets import Targets, targets_or_reason
from detkit.registry import MODELS, ConfigError
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections


@MODELS.register_module(name=names_in('model', __name__))
class MaskFormer(Detector):
    """A backbone, a head of mask queries, and a fusion of their masks into instances, a panoptic map, or both (``test_cfg``).

    ``predict`` writes ``pred_panoptic_seg`` (``sem_seg`` (1, H, W) int32: label + 1000 * n; see detkit.structures.panoptic) and
    ``pred_instances`` at the size of the original image. ``detect`` and ``decode`` compute no full-size masks.
    """

    def __init__(self, backbone: dict, panoptic_head: dict, panoptic_fusion_head: dict, neck: dict | list[dict] | None = None,
                 train_cfg: dict | None = None, test_cfg: dict | None = None, data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        self.panoptic_head = MODELS.build(panoptic_head, train_cfg=train_cfg)
        self.panoptic_fusion_head = MODELS.build(panoptic_fusion_head, test_cfg=test_cfg)
        head, fusion, cfg = self.panoptic_head, self.panoptic_fusion_head, self.panoptic_fusion_head.test_cfg
        if (head.num_things_classes, head.num_classes) != (fusion.num_things_classes, fusion.num_classes):
            raise ConfigError('num_things_classes and num_stuff_classes of panoptic_head and panoptic_fusion_head differ.')
        if cfg.instance_on and cfg.max_per_image > head.num_queries * head.num_classes:
            raise ConfigError(f'test_cfg.max_per_image={cfg.max_per_image} exceeds num_queries={head.num_queries} times {head.num_classes} '
                              f'classes: there are no more pairs of a query and a class. Lower it, or raise num_queries.')

    def padding_context(self, sizes: Tensor | None) -> dict[str, Any]:
        return dict(sizes=sizes)

    def network(self, images: Tensor, sizes: Tensor | None = None) -> MaskQueries:
        """Predict classes and masks. ``sizes`` (N, 2): height and width of each image in pixels, if the batch is padded."""
        return self.panoptic_head(self.extract_feat(images), sizes, tuple(images.shape[-2:]))

    def losses(self, outputs: MaskQueries, samples: list[DetDataSample]) -> dict[str, Tensor]:
        return self.panoptic_head.loss(outputs.float(), samples)

    def targets(self, outputs: MaskQueries, samples: list[DetDataSample]) -> dict[str, Targets | str]:
        return dict(panoptic_head=targets_or_reason(self.panoptic_head, outputs.float(), samples))

    def predict(self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True) -> list[DetDataSample]:
        """Set predictions as in ``Detector.predict``. Masks are resized to the batch, cropped, and resized to the image, a few at a
        time."""
        outputs, fusion = self.network(inputs, **self.context(data_samples, training=False)), self.panoptic_fusion_head
        with torch.autocast(inputs.device.type, enabled=False):
            for sample, logits, masks in zip(data_samples, *outputs.float().last()):
                steps = [(tuple(inputs.shape[2:]), tuple(sample.img_shape[:2]))]
                steps += [(tuple(sample.ori_shape[:2]),) * 2] if rescale else []
                if fusion.test_cfg.panoptic_on:
                    sample.pred_panoptic_seg = PixelData(sem_seg=fusion.panoptic(logits, masks, steps)[None])
                if fusion.test_cfg.instance_on:
                    sample.pred_instances = fusion.instances(logits, masks, steps)
        return data_samples

    def detect(self, outputs: MaskQueries, samples: list[DetDataSample]) -> list[InstanceData]:
        """Return detections as in ``Detector.detect``; ``masks`` are scores at the head's stride."""
        found, stride = [], self.panoptic_head.stride
        sizes = torch.tensor([sample.img_shape[:2] for sample in samples], device=outputs.features.device)
        for (height, width), *rows in zip(sizes.tolist(), *self.decode(outputs, sizes)):
            boxes, scores, labels, masks = (part[rows[1] > 0] for part in rows)
            masks = masks[:, :-(-height // stride), :-(-width // stride)]
            found.append(InstanceData(bboxes=boxes, scores=scores, labels=labels, masks=masks))
        return found

    def decode(self, outputs: MaskQueries, sizes: Tensor) -> Detections:
        return self.panoptic_fusion_head.coarse(*outputs.float().last(), self.panoptic_head.stride, sizes)
