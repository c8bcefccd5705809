"""One image on its way through detkit."""
from __future__ import annotations

from typing import Any, NoReturn

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from detkit.mmdet_names import GUIDE, NEW_FORMS
from detkit.structures.random_streams import RandomStream


def field(name: str, kind: type) -> property:
    """A typed data field of a BaseDataElement: absent until set; None is not a value."""
    private = f'_{name}'
    return property(lambda self: getattr(self, private),
                    lambda self, value: self.set_field(value, private, dtype=kind),
                    lambda self: delattr(self, private))


class DetDataSample(BaseDataElement):
    """One image: what is known of it, what is in it, and what a detector found.

    Metainfo (read as attributes): ``img_id``, ``img_path``, ``ori_shape`` (height, width on disk), ``img_shape`` (as fed to
    the network, before padding), ``pad_shape`` (after the batch was padded), ``batch_input_shape``, ``scale_factor``
    (width, height: img_shape / ori_shape), ``flip``, ``flip_direction``, ``seed`` (what a head that samples draws from).

    ``gt_instances``: ``bboxes`` (n, 4) xyxy pixels of the network input, ``labels`` (n,), ``masks`` if loaded.
    ``ignored_instances``: the same, for crowds and regions that are neither object nor background.
    ``pred_instances``: ``bboxes`` in pixels of the original image, ``labels``, ``scores`` (n,), best first; ``masks``
    (n, height, width) bool if predicted.
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
        """Raise TypeError: MMDetection 2's result, a list of an array for each class, is a DetDataSample now."""
        raise TypeError(f'a result is a DetDataSample, no list: for result[label] write `{NEW_FORMS["result[label]"]}`. {GUIDE}')


def moved(element: BaseDataElement, device: torch.device, non_blocking: bool = False) -> BaseDataElement:
    """A copy whose tensors lie on ``device``, those within its fields too; what lies there already is shared, fields are not."""
    copy = type(element).__new__(type(element))
    for key, value in vars(element).items():
        if isinstance(value, BaseDataElement):
            value = moved(value, device, non_blocking)
        elif isinstance(value, set):               # mmengine's lists of field names: a field more in the copy is none in the original
            value = set(value)
        elif isinstance(value, torch.Tensor):
            value = value.to(device, non_blocking=non_blocking)
        vars(copy)[key] = value
    return copy


def generator_of(sample: DetDataSample, stream: RandomStream) -> torch.Generator | None:
    """A CPU generator that depends on the sample's ``seed`` and ``stream`` alone; None, torch's own, for a sample made without a seed.

    So that a step that draws (sampling priors, denoising queries) is replayed with the sample, and a resumed run needs no saved state.
    """
    return torch.Generator().manual_seed((int(sample.seed) * 1_000_003 + stream) % 2**63) if 'seed' in sample else None


def padded_sizes(samples: list[DetDataSample]) -> Tensor | None:
    """(N, 2) height and width of each image in its batch; None where no image was padded."""
    sizes = [tuple(sample.img_shape[:2]) for sample in samples]
    if all(size == tuple(samples[0].batch_input_shape) for size in sizes):
        return None
    return torch.tensor(sizes)
