"""The base class of all detectors: the methods that a training loop and a caller use."""
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
    """Base class: a backbone, a neck (or a list of necks, applied in order) and heads.

    A detector builds its heads and defines ``network``. The other steps call its ``bbox_head``, unless the detector overrides them:

    - ``padding_context(sizes)`` and ``context(samples, training)``: what the network needs besides the images (the padding, and denoising
      queries); empty for most detectors.
    - ``network(images, **context)``: from images to raw outputs; the part that runs under the caller's autocast.
    - ``losses(outputs, samples)`` and ``detect(outputs, samples)``: losses and detections from the outputs, in float32.
    - ``targets(outputs, samples)``: the training targets of each head, for inspection.
    - ``full_masks(instances, sample, size, factor)``: for instance segmentation: full-size masks from small ones.
    - ``decode(outputs, sizes)``: the same as ``detect``, in tensors of fixed shape, for export.

    Each method depends only on its arguments and writes nothing to ``self``.
    """

    def __init__(self, backbone: dict, neck: dict | list[dict] | None, data_preprocessor: dict | nn.Module | None,
                 init_cfg: dict | list | None) -> None:
        super().__init__(MODELS.build(data_preprocessor or dict(type='DetDataPreprocessor')), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = Sequential(*map(MODELS.build, neck)) if isinstance(neck, (list, tuple)) else MODELS.build(neck)

    @property
    def CLASSES(self) -> tuple[str, ...]:
        """The class names, ``dataset_meta['classes']``, under the name that MMDetection 2 uses."""
        return tuple(self.dataset_meta['classes'])

    show_result, simple_test, aug_test, forward_train, forward_test, forward_dummy = map(
        old_method, ('show_result', 'simple_test', 'aug_test', 'forward_train', 'forward_test', 'forward_dummy'))

    def _dump_init_info(self) -> None:
        """Disable mmengine's report on the initialisation of each parameter: it adds hundreds of lines to the log."""

    def extract_feat(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the neck's feature maps of images (N, 3, H, W), normalised; the backbone's if there is no neck; fine to coarse."""
        feats = self.backbone(images)
        return feats if self.neck is None else self.neck(feats)

    def padding_context(self, sizes: Tensor | None) -> dict[str, Any]:
        """Return keyword arguments that tell ``network`` which part of a batch is padding. Empty, unless attention must mask the padding.

        ``sizes`` (N, 2): height and width of each image; None: no image is padded.
        """
        return {}

    def context(self, samples: list[DetDataSample], training: bool) -> dict[str, Any]:
        """Return keyword arguments for ``network``, computed from the samples of the batch. All of them are optional: without them,
        ``network`` treats the images as unpadded and runs inference."""
        return self.padding_context(padded_sizes(samples))

    def network(self, images: Tensor, **context: Any) -> Any:
        raise NotImplementedError(f'{type(self).__name__} defines no network().')

    def losses(self, outputs: Any, samples: list[DetDataSample]) -> dict[str, Tensor]:
        return self.bbox_head.loss(outputs.float(), samples)

    def targets(self, outputs: Any, samples: list[DetDataSample]) -> dict[str, Targets | str]:
        """Return a dict from the name of each head in the detector to its targets, or to a string that says why it has none."""
        return dict(bbox_head=targets_or_reason(self.bbox_head, outputs.float(), samples))

    def detect(self, outputs: Any, samples: list[DetDataSample]) -> list[InstanceData]:
        """Return for each image ``bboxes`` (n, 4) in pixels of the network input, ``scores`` (n,) and ``labels`` (n,), best first, and for
        instance segmentation ``masks`` (n, h, w) in the form that ``full_masks`` takes."""
        return self.bbox_head.predict(outputs.float(), samples)

    def full_masks(self, instances: InstanceData, sample: DetDataSample, size: tuple[int, int], factor: tuple[float, float]) -> RLEMasks:
        """Return the full-size masks of one image's instances. ``size`` (height, width) is the size of the network input without padding,
        multiplied by ``factor`` (x, y)."""
        return self.bbox_head.full_masks(instances, sample, size, factor)

    def decode(self, outputs: Any, sizes: Tensor) -> Detections:
        """Return the same detections as ``detect`` in tensors of fixed shape; can be exported. ``sizes`` (N, 2) int64: height and width of
        each image, without the padding of the batch at the right and bottom."""
        return self.bbox_head.decode(outputs.float(), sizes)

    def exportable(self) -> nn.Module:
        """Return a module that maps normalised images (N, 3, H, W) and their sizes (N, 2) to the tensors of ``Detections``.
        ``torch.export`` accepts it with any N, and with H and W that are multiples of the coarsest stride."""
        return NetworkAndDecode(self.eval())

    def forward(self, inputs: Tensor | None = None, data_samples: list[DetDataSample] | None = None, mode: str = 'tensor',
                **old: Any) -> Any:
        """Compute losses, predictions or raw outputs. DDP wraps this method, so every trainable layer must run inside it.

        ``inputs`` (N, 3, H, W): from the preprocessor. ``mode``: ``loss`` returns a dict of tensors, ``predict`` returns the samples with
        ``pred_instances``, ``tensor`` returns the raw outputs of the network.

        Raises:
            ValueError: unknown mode.
            TypeError: an argument of MMDetection 2, such as ``return_loss``, or no images.
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
        """Return a dict of scalar loss terms; the terms whose name contains ``loss`` are summed and minimised."""
        outputs = self.network(inputs, **self.context(data_samples, training=True))
        with torch.autocast(inputs.device.type, enabled=False):
            return self.losses(outputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True) -> list[DetDataSample]:
        """Set ``pred_instances`` of each sample, best first, in pixels of the original image (``rescale``) or of the network input."""
        for sample, instances in zip(data_samples, self.find(inputs, data_samples)):
            width, height = sample.get('scale_factor', (1., 1.)) if rescale else (1., 1.)      # no scale_factor: the image was not resized
            factor = 1 / width, 1 / height
            if 'masks' in instances:
                size = sample.ori_shape if rescale else sample.img_shape
                instances.masks = self.full_masks(instances, sample, tuple(size[:2]), factor)
            instances.bboxes = scale_boxes(instances.bboxes, factor)
            sample.pred_instances = instances
        return data_samples

    def find(self, inputs: Tensor, data_samples: list[DetDataSample]) -> list[InstanceData]:
        """Run ``network`` and ``detect`` on a batch."""
        outputs = self.network(inputs, **self.context(data_samples, training=False))
        with torch.autocast(inputs.device.type, enabled=False):
            return self.detect(outputs, data_samples)


class NetworkAndDecode(nn.Module):
    """A detector as one module from images and their sizes to detections, for export."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels and, for instance segmentation, masks: see ``Detections``. ``sizes`` (N, 2) int64: height and width
        of each image, without the padding of the batch."""
        outputs = self.detector.network(images, **self.detector.padding_context(sizes))
        return tuple(part for part in self.detector.decode(outputs, sizes) if part is not None)
