"""What every detector offers to a training loop and to a caller."""
from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detkit.ops.boxes import scale_boxes
from detkit.registry import MODELS
from detkit.structures import DetDataSample


class Detector(BaseModel):
    """Backbone, neck (or several, one after the other), heads. A detector builds its heads and defines ``network``, ``losses`` and
    ``detect``.

    ``network(images)`` holds the convolutions and runs in the precision of the autocast around it; ``losses`` and ``detect``
    work on its outputs in float32.
    """

    def __init__(self, backbone: dict, neck: dict | list[dict] | None, data_preprocessor: dict | nn.Module | None,
                 init_cfg: dict | list | None) -> None:
        super().__init__(MODELS.build(data_preprocessor or dict(type='DetDataPreprocessor')), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = nn.Sequential(*map(MODELS.build, neck)) if isinstance(neck, (list, tuple)) else MODELS.build(neck)

    def _dump_init_info(self) -> None:
        """Silence mmengine's report of how each single parameter was initialised: hundreds of lines that hide the run's own."""

    def extract_feat(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) normalised -> the neck's maps (the backbone's without one), fine to coarse."""
        feats = self.backbone(images)
        return feats if self.neck is None else self.neck(feats)

    def network(self, images: Tensor) -> Any:
        raise NotImplementedError(f'{type(self).__name__} defines no network().')

    def losses(self, outputs: Any, samples: list[DetDataSample]) -> dict[str, Tensor]:
        raise NotImplementedError(f'{type(self).__name__} defines no losses().')

    def detect(self, outputs: Any, samples: list[DetDataSample]) -> list[InstanceData]:
        raise NotImplementedError(f'{type(self).__name__} defines no detect().')

    def forward(self, inputs: Tensor, data_samples: list[DetDataSample] | None = None, mode: str = 'tensor') -> Any:
        """The entry of training loops; DDP wraps it, so everything trainable runs inside.

        ``inputs`` (N, 3, H, W) from the preprocessor. ``mode``: ``loss`` gives a dict of tensors, ``predict`` the samples with
        ``pred_instances`` filled, ``tensor`` the network's raw outputs.

        Raises:
            ValueError: another mode.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.network(inputs)
        raise ValueError(f"forward has no mode '{mode}'. Known: loss, predict, tensor.")

    def loss(self, inputs: Tensor, data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Loss terms by name, scalars; those whose name contains ``loss`` are summed and minimised."""
        outputs = self.network(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            return self.losses(outputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True) -> list[DetDataSample]:
        """Fill each sample's ``pred_instances``, best first, in pixels of the original image (``rescale``) or of the input."""
        for sample, instances in zip(data_samples, self.find(inputs, data_samples)):
            if rescale:
                width, height = sample.scale_factor
                instances.bboxes = scale_boxes(instances.bboxes, (1 / width, 1 / height))
            sample.pred_instances = instances
        return data_samples

    def find(self, inputs: Tensor, data_samples: list[DetDataSample]) -> list[InstanceData]:
        """Per image ``bboxes`` (n, 4) in pixels of the network input, ``scores`` and ``labels`` (n,), best first."""
        outputs = self.network(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            return self.detect(outputs, data_samples)
