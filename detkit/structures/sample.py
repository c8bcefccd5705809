"""The data sample: one image with its metainfo, ground truth and predictions."""
from __future__ import annotations

from typing import Any, NoReturn

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from detkit.mmdet_names import GUIDE, NEW_FORMS
from detkit.structures.random_streams import RandomStream


def field(name: str, kind: type) -> property:
    """Return a property for a typed data field of a BaseDataElement. The field is absent until it is set; None is not a valid value."""
    private = f'_{name}'
    return property(lambda self: getattr(self, private),
                    lambda self, value: self.set_field(value, private, dtype=kind),
                    lambda self: delattr(self, private))


class DetDataSample(BaseDataElement):
    """One image: its metainfo, its ground truth, and the predictions of a detector.

    Metainfo (read as attributes): ``img_id``, ``img_path``, ``ori_shape`` (height, width of the file), ``img_shape`` (network input before
    padding), ``pad_shape`` (after padding to the divisor), ``batch_input_shape``, ``scale_factor`` (width, height: img_shape / ori_shape),
    ``flip``, ``flip_direction``, ``seed`` (seeds the generators of heads that draw random numbers).

    ``gt_instances``: ``bboxes`` (n, 4) xyxy in pixels of the network input, ``labels`` (n,), ``masks`` if loaded. ``ignored_instances``:
    the same, for crowds and regions that are neither object nor background. ``pred_instances``: ``bboxes`` in pixels of the original image,
    ``labels``, ``scores`` (n,), best first; ``masks`` (n, height, width) bool if predicted.
    """

    gt_instances = field('gt_instances', InstanceData)
    ignored_instances = field('ignored_instances', InstanceData)
    pred_instances = field('pred_instances', InstanceData)
    proposals = field('proposals', InstanceData)
    gt_sem_seg = field('gt_sem_seg', PixelData)
    pred_sem_seg = field('pred_sem_seg', PixelData)
    gt_panoptic_seg = field('gt_panoptic_seg', PixelData)
    pred_panoptic_seg = field('pred_panoptic_seg', PixelData)

    def __getitem__(self, index: Any) -> NoReturn:
        """Raise TypeError with advice: MMDetection 2 returned a list with one array per class; detkit returns a DetDataSample."""
        raise TypeError(f'a result is a DetDataSample, no list: for result[label] write `{NEW_FORMS["result[label]"]}`. {GUIDE}')


def moved(element: BaseDataElement, device: torch.device, non_blocking: bool = False) -> BaseDataElement:
    """Return a copy with all tensors on ``device``, including those in nested fields. Tensors that are on the device already are shared
    with the original; fields are not."""
    copy = type(element).__new__(type(element))
    for key, value in vars(element).items():
        if isinstance(value, BaseDataElement):
            value = moved(value, device, non_blocking)
        elif isinstance(value, set):        # mmengine's sets of field names: new fields of the copy must not appear in the original
            value = set(value)
        elif isinstance(value, torch.Tensor):
            value = value.to(device, non_blocking=non_blocking)
        vars(copy)[key] = value
    return copy


def generator_of(sample: DetDataSample, stream: RandomStream) -> torch.Generator | None:
    """Return a CPU generator that depends only on the sample's ``seed`` and ``stream``; None (torch's default generator) for a sample
    without a seed.

    With it, random steps (sampling priors, denoising queries) are reproducible per sample, and a resumed run needs no saved state.
    """
    return torch.Generator().manual_seed((int(sample.seed) * 1_000_003 + stream) % 2**63) if 'seed' in sample else None


def padded_sizes(samples: list[DetDataSample]) -> Tensor | None:
    """Return the height and width (N, 2) of each image in its batch; None if no image is padded."""
    sizes = [tuple(sample.img_shape[:2]) for sample in samples]
    if all(size == tuple(samples[0].batch_input_shape) for size in sizes):
        return None
    return torch.tensor(sizes)
