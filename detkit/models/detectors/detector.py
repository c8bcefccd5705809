"""What every detector offers to a training loop and to a caller."""
from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModel, Sequential
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detkit.mmdet_names import GUIDE, NEW_FORMS, old_method
from detkit.models.targets import Targets, targets_or_reason
from detkit.ops.boxes import scale_boxes
from detkit.registry import MODELS
from detkit.structures import DetDataSample, RLEMasks
from detkit.structures.detections import Detections
from detkit.structures.sample import padded_sizes


class Detector(BaseModel):
    """Backbone, neck (or several, one after the other), heads. A detector builds its heads and defines ``network``; the
    other steps are its ``bbox_head``'s unless it has its own:

    - ``padding_context(sizes)`` and ``context(samples, training)``: what the network must know besides the images (the padding, and
      denoising queries); mostly nothing.
    - ``network(images, **context)``: everything that runs in the precision of the autocast around it, images to tensors.
    - ``losses(outputs, samples)`` and ``detect(outputs, samples)``: in float32, what is learnt from its outputs, and what they mean.
    - ``targets(outputs, samples)``: what each head learns from the samples, for those who examine a detector.
    - ``full_masks(instances, sample, size, factor)``: for detectors of masks, small masks drawn at full size.
    - ``decode(outputs, sizes)``: ``detect`` in tensors of one shape, for export.

    Each depends on its arguments alone and writes nothing to ``self``.
    """

    def __init__(self, backbone: dict, neck: dict | list[dict] | None, data_preprocessor: dict | nn.Module | None,
                 init_cfg: dict | list | None) -> None:
        super().__init__(MODELS.build(data_preprocessor or dict(type='DetDataPreprocessor')), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = Sequential(*map(MODELS.build, neck)) if isinstance(neck, (list, tuple)) else MODELS.build(neck)

    @property
    def CLASSES(self) -> tuple[str, ...]:
        """Names of the labels, as MMDetection 2 calls ``dataset_meta['classes']``."""
        return tuple(self.dataset_meta['classes'])

    show_result, simple_test, aug_test, forward_train, forward_test, forward_dummy = map(
        old_method, ('show_result', 'simple_test', 'aug_test', 'forward_train', 'forward_test', 'forward_dummy'))

    def _dump_init_info(self) -> None:
        """Silence mmengine's report of how each single parameter was initialised: hundreds of lines that hide the run's own."""

    def extract_feat(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) normalised -> the neck's maps (the backbone's without one), fine to coarse."""
        feats = self.backbone(images)
        return feats if self.neck is None else self.neck(feats)

    def padding_context(self, sizes: Tensor | None) -> dict[str, Any]:
        """Keyword arguments that tell ``network`` which part of a batch is padding: none, unless attention must leave it out.

        ``sizes`` (N, 2): each image's height and width; None: nothing is padded.
        """
        return {}

    def context(self, samples: list[DetDataSample], training: bool) -> dict[str, Any]:
        """Keyword arguments for ``network``, from the samples of its batch. ``network`` does without any of them: a batch of unpadded
        images, nothing to learn."""
        return self.padding_context(padded_sizes(samples))

    def network(self, images: Tensor, **context: Any) -> Any:
        raise NotImplementedError(f'{type(self).__name__} defines no network().')

    def losses(self, outputs: Any, samples: list[DetDataSample]) -> dict[str, Tensor]:
        return self.bbox_head.loss(outputs.float(), samples)

    def targets(self, outputs: Any, samples: list[DetDataSample]) -> dict[str, Targets | str]:
        """For each head, by its name in the detector, its targets, or as text the reason why it has none."""
        return dict(bbox_head=targets_or_reason(self.bbox_head, outputs.float(), samples))

    def detect(self, outputs: Any, samples: list[DetDataSample]) -> list[InstanceData]:
        """Per image ``bboxes`` (n, 4) in pixels of the network input, ``scores`` and ``labels`` (n,), best first; ``masks`` (n, h, w) in
        the form that ``full_masks`` takes."""
        return self.bbox_head.predict(outputs.float(), samples)

    def full_masks(self, instances: InstanceData, sample: DetDataSample, size: tuple[int, int], factor: tuple[float, float]) -> RLEMasks:
        """Masks of one image's instances, drawn in a frame of ``size`` (height, width) that is the network input, without its padding,
        scaled by ``factor`` (x, y)."""
        return self.bbox_head.full_masks(instances, sample, size, factor)

    def decode(self, outputs: Any, sizes: Tensor) -> Detections:
        """What ``detect`` finds, as tensors of one shape; exportable. ``sizes`` (N, 2) int64: each image's height and width, without the
        batch's padding at the right and below."""
        return self.bbox_head.decode(outputs.float(), sizes)

    def exportable(self) -> nn.Module:
        """A module from normalised images (N, 3, H, W) and their sizes (N, 2) to the tensors of ``Detections``, for ``torch.export`` with
        any N, and H and W that are multiples of the coarsest stride."""
        return NetworkAndDecode(self.eval())

    def forward(self, inputs: Tensor | None = None, data_samples: list[DetDataSample] | None = None, mode: str = 'tensor',
                **old: Any) -> Any:
        """The entry of training loops; DDP wraps it, so everything trainable runs inside.

        ``inputs`` (N, 3, H, W) from the preprocessor. ``mode``: ``loss`` gives a dict of tensors, ``predict`` the samples with
        ``pred_instances`` filled, ``tensor`` the network's raw outputs.

        Raises:
            ValueError: another mode.
            TypeError: arguments of MMDetection 2, such as ``return_loss``, or no images.
        """
        if old or inputs is None:
            raise TypeError(f"a detector takes inputs, data_samples and mode, and not {', '.join(old) or 'no images'}. For a batch of a "
                            f"data loader write `{NEW_FORMS['model(return_loss=False)']}`, for images `inference_detector(model, paths)`. "
                            f'{GUIDE}')
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.network(inputs, **self.context(data_samples, training=False) if data_samples else {})
        raise ValueError(f"forward has no mode '{mode}'. Known: loss, predict, tensor.")

    def loss(self, inputs: Tensor, data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Loss terms by name, scalars; those whose name contains ``loss`` are summed and minimised."""
        outputs = self.network(inputs, **self.context(data_samples, training=True))
        with torch.autocast(inputs.device.type, enabled=False):
            return self.losses(outputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True) -> list[DetDataSample]:
        """Fill each sample's ``pred_instances``, best first, in pixels of the original image (``rescale``) or of the input."""
        for sample, instances in zip(data_samples, self.find(inputs, data_samples)):
            width, height = sample.get('scale_factor', (1., 1.)) if rescale else (1., 1.)      # none: it was not resized
            factor = 1 / width, 1 / height
            if 'masks' in instances:
                size = sample.ori_shape if rescale else sample.img_shape
                instances.masks = self.full_masks(instances, sample, tuple(size[:2]), factor)
            instances.bboxes = scale_boxes(instances.bboxes, factor)
            sample.pred_instances = instances
        return data_samples

    def find(self, inputs: Tensor, data_samples: list[DetDataSample]) -> list[InstanceData]:
        """What ``detect`` gives for a batch."""
        outputs = self.network(inputs, **self.context(data_samples, training=False))
        with torch.autocast(inputs.device.type, enabled=False):
            return self.detect(outputs, data_samples)


class NetworkAndDecode(nn.Module):
    """A detector as one function of its images and their sizes."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and, where there are such, masks: see ``Detections``. ``sizes`` (N, 2) int64: each image's height and
        width, without the batch's padding."""
        outputs = self.detector.network(images, **self.detector.padding_context(sizes))
        return tuple(part for part in self.detector.decode(outputs, sizes) if part is not None)
