"""Turn uint8 images of different sizes into one normalised, padded batch."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from torch import Tensor, nn

from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks, DetDataSample, PolygonMasks
from detkit.structures.sample import moved
from detkit.structures.train_state import TrainState


@MODELS.register_module()
class DetDataPreprocessor(BaseDataPreprocessor):
    """Move images to the device, reorder channels, normalise, pad to one batch, and apply batch augmentations.

    Args:
        mean, std: per channel, in the range 0 to 255 and in the channel order after ``bgr_to_rgb``; None: do not normalise.
        pad_size_divisor: height and width of the batch are multiples of this number.
        pad_value: value of padded pixels, after normalisation.
        pad_mask, mask_pad_value: also pad the ground-truth masks to the size of the batch.
        pad_seg, seg_pad_value: also pad the ground-truth semantic maps.
        bgr_to_rgb, rgb_to_bgr: reverse the channel order; set at most one of them.
        batch_augments: applied in order, to training batches only.
        non_blocking: copy to the device asynchronously.
    """

    def __init__(self, mean: list[float] | None = None, std: list[float] | None = None, pad_size_divisor: int = 1,
                 pad_value: float = 0, pad_mask: bool = False, mask_pad_value: int = 0, pad_seg: bool = False,
                 seg_pad_value: int = 255, bgr_to_rgb: bool = False, rgb_to_bgr: bool = False, batch_augments: list[dict] | None = None,
                 non_blocking: bool = False) -> None:
        if (mean is None) != (std is None) or bgr_to_rgb and rgb_to_bgr:
            raise ConfigError('DetDataPreprocessor takes mean and std together, and one of bgr_to_rgb and rgb_to_bgr.')
        if mean is not None and not (is_per_channel(mean) and is_per_channel(std) and len(mean) == len(std) and 0 not in std):
            raise ConfigError(f'DetDataPreprocessor takes mean and std as lists of 3 numbers, or of 1 for all channels, and no std of 0; '
                              f'here they are {mean!r} and {std!r}.')
        super().__init__(non_blocking)
        self.normalise = mean is not None
        if self.normalise:
            self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), False)
            self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), False)
        self.reverse, self.divisor, self.pad_value = bgr_to_rgb or rgb_to_bgr, pad_size_divisor, pad_value
        self.pad_mask, self.mask_pad_value, self.pad_seg, self.seg_pad_value = pad_mask, mask_pad_value, pad_seg, seg_pad_value
        self.batch_augments = nn.ModuleList(MODELS.build(a) for a in batch_augments or [])

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return a batch as a dict of ``inputs`` float32 (N, 3, H', W') and ``data_samples`` on the device.

        ``data['inputs']``: list of uint8 (3, H, W); ``data['data_samples']``: their samples, or None. In each sample, ``pad_shape`` (the
        image's own size padded to the divisor) and ``batch_input_shape`` (H', W') are set.
        """
        if 'inputs' not in data:
            raise ConfigError(f"a batch has no 'inputs' (its keys: {', '.join(data) or 'none'}): the pipeline of the data set should end "
                              f"in dict(type='PackDetInputs').")
        images, samples = data['inputs'], data.get('data_samples')
        if isinstance(images, Tensor):
            images = images.to(self.device, non_blocking=self._non_blocking)
        else:
            images = [image.to(self.device, non_blocking=self._non_blocking) for image in images]
        samples = None if samples is None else [moved(sample, self.device, self._non_blocking) for sample in samples]
        inputs = self.batch(images)
        for image, sample in zip(images, samples or []):
            sample.set_metainfo(dict(pad_shape=self.padded(*image.shape[1:]), batch_input_shape=tuple(inputs.shape[2:])))
        if samples is not None and training:
            if self.pad_mask:
                pad_masks(samples, tuple(inputs.shape[2:]), self.mask_pad_value)
            if self.pad_seg:
                pad_label_maps(samples, tuple(inputs.shape[2:]), self.seg_pad_value)
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        return dict(inputs=inputs, data_samples=samples)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def batch(self, images: list[Tensor] | Tensor) -> Tensor:
        """Return one normalised float32 batch from uint8 images."""
        sizes = [self.padded(*image.shape[1:]) for image in images]
        height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
        if all(tuple(image.shape[1:]) == (height, width) for image in images):
            return self.normalised(images if isinstance(images, Tensor) else torch.stack(list(images)))
        out = torch.full((len(images), images[0].shape[0], height, width), float(self.pad_value), device=self.device)
        for slot, image in zip(out, images):
            slot[:, :image.shape[1], :image.shape[2]] = self.normalised(image)
        return out

    def normalised(self, images: Tensor) -> Tensor:
        """Return images (..., C, H, W) uint8 as float32, with channels reversed and normalised as configured."""
        if self.reverse:
            images = images.flip(-3)
        if not self.normalise:
            return images.to(torch.float32, memory_format=torch.contiguous_format)
        images = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)    # copy: the input may be float32
        return images.sub_(self.mean).div_(self.std)


def is_per_channel(values: Any) -> bool:
    """Return whether ``values`` is a list of one number, or of three numbers (one per channel)."""
    return isinstance(values, (list, tuple)) and len(values) in (1, 3) and all(isinstance(value, (int, float)) for value in values)


def pad_masks(samples: list[DetDataSample], size: tuple[int, int], value: int) -> None:
    for sample in samples:
        for instances in (sample.get('gt_instances'), sample.get('ignored_instances')):
            if instances is not None and 'masks' in instances and isinstance(instances.masks, (BitmapMasks, PolygonMasks)):
                instances.masks = instances.masks.pad(size, pad_val=value)


def pad_label_maps(samples: list[DetDataSample], size: tuple[int, int], value: int) -> None:
    for sample in samples:
        if 'gt_sem_seg' in sample:
            labels = sample.gt_sem_seg.sem_seg
            below, right = size[0] - labels.shape[-2], size[1] - labels.shape[-1]
            sample.gt_sem_seg = PixelData(sem_seg=F.pad(labels, (0, right, 0, below), value=value))


@MODELS.register_module()
class BatchFixedSizePad(nn.Module):
    """Pad every batch at the right and bottom to at least ``size`` (height, width)."""

    def __init__(self, size: tuple[int, int], img_pad_value: float = 0, pad_mask: bool = False, mask_pad_value: int = 0,
                 pad_seg: bool = False, seg_pad_value: int = 255) -> None:
        super().__init__()
        self.size, self.value, self.pad_mask, self.mask_pad_value = tuple(size), img_pad_value, pad_mask, mask_pad_value
        self.pad_seg, self.seg_pad_value = pad_seg, seg_pad_value

    def forward(self, inputs: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, list[DetDataSample]]:
        height, width = max(inputs.shape[2], self.size[0]), max(inputs.shape[3], self.size[1])
        inputs = F.pad(inputs, (0, width - inputs.shape[3], 0, height - inputs.shape[2]), value=self.value)
        for sample in samples:
            sample.set_metainfo(dict(batch_input_shape=(height, width)))
        if self.pad_mask:
            pad_masks(samples, (height, width), self.mask_pad_value)
        if self.pad_seg:
            pad_label_maps(samples, (height, width), self.seg_pad_value)
        return inputs, samples


@MODELS.register_module()
class BatchSyncRandomResize(nn.Module):
    """Resize whole batches to a random multiple of ``size_divisor`` (YOLOX, https://arxiv.org/abs/2107.08430).

    ``random_size_range``: (low, high) of the height, in pixels; the width follows from the batch's aspect ratio. A new size is drawn every
    ``interval`` iterations; the first ``interval`` batches keep their size. The size depends only on the run's seed and the iteration, so
    all processes draw the same size, and so does a resumed run. Outside a run, batches are counted from 0 and the seed is 0.
    """

    train_state = TrainState()

    def __init__(self, random_size_range: tuple[int, int], interval: int = 10, size_divisor: int = 32) -> None:
        super().__init__()
        self.range, self.interval, self.divisor = tuple(random_size_range), interval, size_divisor

    def forward(self, inputs: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, list[DetDataSample]]:
        height, width = inputs.shape[2:]
        target = self.draw_height(self.train_state.iteration // self.interval) or height
        self.train_state = replace(self.train_state, iteration=self.train_state.iteration + 1)
        factor = target / height
        size = target, int(round(width * factor / self.divisor)) * self.divisor
        if size != (height, width):
            inputs = F.interpolate(inputs, size=size, mode='bilinear', align_corners=False)
            scale_samples(samples, size, (size[1] / width, size[0] / height))
        return inputs, samples

    def draw_height(self, count: int) -> int:
        """Return the height in pixels after ``count`` intervals; 0 in the first interval: keep the size of the batch."""
        if count == 0:
            return 0
        low, high = (round(x / self.divisor) for x in self.range)
        generator = torch.Generator().manual_seed((self.train_state.seed * 1_000_003 + count) % 2**63)
        return int(torch.randint(low, high + 1, (), generator=generator)) * self.divisor


@MODELS.register_module()
class BatchResize(nn.Module):
    """Resize whole batches to fit into ``scale`` (width, height), keeping the aspect ratio, then pad to a multiple of
    ``pad_size_divisor``."""

    def __init__(self, scale: tuple[int, int], pad_size_divisor: int = 1, pad_value: float = 0) -> None:
        super().__init__()
        self.long_side, self.short_side = max(scale), min(scale)
        self.divisor, self.value = pad_size_divisor, pad_value

    def forward(self, inputs: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, list[DetDataSample]]:
        height, width = inputs.shape[2:]
        factor = min(self.long_side / max(height, width), self.short_side / min(height, width))
        size = int(height * factor + 0.5), int(width * factor + 0.5)
        inputs = F.interpolate(inputs, size=size, mode='bilinear', align_corners=False)
        scale_samples(samples, size, (size[1] / width, size[0] / height))
        below, right = (-s % self.divisor for s in size)
        inputs = F.pad(inputs, (0, right, 0, below), value=self.value)
        for sample in samples:
            sample.set_metainfo(dict(batch_input_shape=tuple(inputs.shape[2:]), pad_shape=tuple(inputs.shape[2:])))
        return inputs, samples


def scale_samples(samples: list[DetDataSample], size: tuple[int, int], factor: tuple[float, float]) -> None:
    """Scale ground truth and size metadata by ``factor`` (x, y) after the batch was resized to ``size`` (height, width)."""
    for sample in samples:
        scaled = {key: (int(sample.get(key)[0] * factor[1]), int(sample.get(key)[1] * factor[0]))
                  for key in ('img_shape', 'pad_shape') if key in sample}
        w, h = sample.get('scale_factor', (1., 1.))
        sample.set_metainfo(dict(scaled, batch_input_shape=size, scale_factor=(w * factor[0], h * factor[1])))
        for instances in (sample.get('gt_instances'), sample.get('ignored_instances')):
            if instances is not None:
                instances.bboxes = instances.bboxes * instances.bboxes.new_tensor([*factor, *factor])
                if 'masks' in instances:
                    instances.masks = instances.masks.resize(size)
        if 'gt_sem_seg' in sample:
            sample.gt_sem_seg = PixelData(sem_seg=F.interpolate(sample.gt_sem_seg.sem_seg[None], size)[0])
