"""What a training loop takes from its loader, as hashes: equal for a whole run and for one that goes on in its middle."""
from __future__ import annotations

import hashlib
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from detkit.data.datasets.wrappers import set_dataset_epoch
from detkit.engine.loaders import stop_workers
from detkit.engine.loops import EpochBasedTrainLoop, IterBasedTrainLoop


class Runner:
    """What a loop needs of a runner; remembers a hash of each batch."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.hashes = loader, []
        self.model, self.visualizer, self.val_loop = SimpleNamespace(train=lambda: None), SimpleNamespace(), None
        self.interruptible, self.stop_if_asked = nullcontext, lambda: None

    def call_hook(self, name: str, **kwargs: Any) -> None:
        if name == 'before_train_epoch' and isinstance(self.loop, EpochBasedTrainLoop):
            set_dataset_epoch(self.loader.dataset, self.loop.epoch)
            getattr(self.loader.sampler, 'set_epoch', self.loader.batch_sampler.sampler.set_epoch)(self.loop.epoch)

    def see(self, *args: Any) -> None:
        self.loop._iter += 1
        total = hashlib.sha256()
        for image, sample in zip(args[-1]['inputs'], args[-1]['data_samples'], strict=True):
            total.update(image.numpy().tobytes() + repr((sample.img_id, sample.seed)).encode())
            for _, value in sorted(sample.gt_instances.items()):
                total.update(content(value))
        self.hashes.append(total.hexdigest())


def content(value: Any) -> bytes:
    """The numbers of boxes, labels or masks."""
    return value.numpy().tobytes() if isinstance(value, Tensor) else value.to_ndarray().tobytes()


def batch_hashes(loader: Any, start: int = 0, epochs: int = 0, iterations: int = 0) -> list[str]:
    """A hash of each batch of a run of ``epochs`` or of ``iterations``, from iteration ``start`` on; the loader's workers end."""
    runner = Runner(loader)
    if epochs:
        loop = EpochBasedTrainLoop(runner, loader, max_epochs=epochs)
        loop._epoch, loop.skip = divmod(start, len(loader))
    else:
        loop = IterBasedTrainLoop(runner, loader, max_iters=iterations)
    loop._iter, runner.loop, loop.run_iter = start, loop, runner.see
    loop.run()
    stop_workers(loader)
    return runner.hashes
