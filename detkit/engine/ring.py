"""Send batches through shared buffers that are allocated once.

Without them, a worker process allocates new shared memory for every image and its boxes; mapping it costs more time than loading a
decoded sample. Here each worker has a few buffers and fills them in turn.
"""
from __future__ import annotations

import io
import pickle
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from detkit.signals import blocked_stop_signals

SHARED_MEMORY = '/dev/shm'
SPARE = 1.25          # size of a buffer relative to the largest expected batch
PROBES = 4            # number of samples loaded to estimate the size of a batch


@dataclass(frozen=True)
class Packed:
    """A batch in a shared buffer: the positions of its images, and the other data pickled."""

    worker: int
    slot: int
    images: list[tuple[int, tuple[int, ...]]]    # offset in bytes, (height, width, channels)
    rest: bytes


class RingCollate:
    """Collate function in a worker: copy the images of a batch into one of its buffers.

    A batch that does not fit, or whose images are not uint8, is collated by ``plain``.
    """

    def __init__(self, buffers: list[list[Tensor]], plain: Callable[[list], Any]) -> None:
        self.buffers, self.plain, self.count = buffers, plain, 0

    def __call__(self, samples: list[dict]) -> Any:
        worker = get_worker_info().id
        slot = self.count % len(self.buffers[worker])
        buffer, start, places = self.buffers[worker][slot], 0, []
        images = [s.get('inputs') if isinstance(s, dict) else None for s in samples]
        if any(not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.dim() != 3 for x in images) \
                or sum(x.numel() for x in images) > len(buffer):
            return self.plain(samples)
        self.count += 1
        for image in images:
            shape = image.shape[1], image.shape[2], image.shape[0]
            buffer[start:start + image.numel()].view(shape).copy_(image.permute(1, 2, 0))
            places.append((start, shape))
            start += image.numel()
        rest = [{k: v for k, v in s.items() if k != 'inputs'} for s in samples]
        return Packed(worker, slot, places, dumped(rest))


class Loader(DataLoader):
    """A DataLoader that blocks stop signals while workers start, until the workers ignore them (``detkit.signals``)."""

    def __iter__(self) -> Iterator[Any]:
        with blocked_stop_signals():
            return super().__iter__()


class RingLoader(Loader):
    """A DataLoader whose workers send images through shared buffers.

    The images of a batch are views of a buffer until the batch after the next is requested; images that are still referenced then are
    copied to their own memory. (References to slices of an image are not detected: clone a slice that you keep.)
    """

    def __init__(self, dataset: Any, buffers: list[list[Tensor]], collate_fn: Callable[[list], Any], **options: Any) -> None:
        super().__init__(dataset, collate_fn=RingCollate(buffers, collate_fn), **options)
        self.buffers, self.plain = buffers, collate_fn

    def __iter__(self) -> Iterator[Any]:
        previous: list[weakref.ref] = []
        current: list[weakref.ref] = []
        try:
            for batch in super().__iter__():
                current = []
                if isinstance(batch, Packed):
                    batch = self.unpacked(batch)
                    current = [weakref.ref(image) for image in batch['inputs']]
                yield batch
                del batch
                keep(previous)
                previous = current
        finally:                      # the next pass may write to the first buffers again
            keep(previous)
            keep(current)

    def unpacked(self, batch: Packed) -> Any:
        buffer = self.buffers[batch.worker][batch.slot]
        samples = pickle.loads(batch.rest)
        for sample, (start, shape) in zip(samples, batch.images):
            sample['inputs'] = buffer[start:start + shape[0] * shape[1] * shape[2]].view(shape).permute(2, 0, 1)
        return self.plain(samples)


def keep(images: list[weakref.ref]) -> None:
    """Copy images that are still referenced to their own memory, because their buffer will be overwritten."""
    for reference in images:
        image = reference()
        if image is not None:
            image.set_(image.clone())


class Pickler(pickle.Pickler):
    """Pickle tensors as arrays: torch's default maps a file for each tensor."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == 'cpu' and value.layout is torch.strided and not value.requires_grad \
                and value.dtype is not torch.bfloat16:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def dumped(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def make_buffers(dataset: Any, batch_size: int, workers: int, prefetch: int) -> list[list[Tensor]] | None:
    """Return ``prefetch`` + 2 buffers per worker; None if samples have no uint8 images, or shared memory is too small."""
    sizes = []
    for i in range(0, len(dataset), max(len(dataset) // PROBES, 1)):
        sample = dataset[i]
        image = sample.get('inputs') if isinstance(sample, dict) else None
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 3:
            return None
        sizes.append(image.numel())
    size = int(max(sizes) * batch_size * SPARE)
    try:
        room = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None
    if 2 * size * workers * (prefetch + 2) > room:        # leave half of it for other uses
        return None
    return [[torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(prefetch + 2)] for _ in range(workers)]
