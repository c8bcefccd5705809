"""Pictures of ground truth beside predictions, while evaluating."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook

from detkit.opencv import cv2
from detkit.registry import HOOKS, ConfigError


@HOOKS.register_module()
class DetVisualizationHook(Hook):
    """Draw evaluated images (MMDetection's arguments).

    Args:
        draw: draw at all.
        interval: of validation batches, that many lie between two that are drawn; testing draws every image.
        score_thr: detections below it are not drawn.
        show: in a window, for ``wait_time`` seconds each.
        test_out_dir: testing writes pictures here; a relative path lies in the run's log folder.
        backend_args: refused: images are local files.
    """

    def __init__(self, draw: bool = False, interval: int = 50, score_thr: float = 0.3, show: bool = False, wait_time: float = 0.,
                 test_out_dir: str | None = None, backend_args: dict | None = None) -> None:
        if backend_args:
            raise ConfigError('DetVisualizationHook reads local files; leave backend_args out.')
        self.draw, self.interval, self.score_thr = draw, interval, score_thr
        self.show, self.wait_time, self.test_out_dir, self.count = show, wait_time, test_out_dir, 0

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None) -> None:
        if self.draw and outputs and batch_idx % self.interval == 0:
            step = runner.iter if runner._train_loop is not None else 0
            self.picture(runner, outputs[0], f'val_{Path(outputs[0].img_path).stem}', step, None)

    def before_test(self, runner: Any) -> None:
        self.count = 0

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None) -> None:
        for sample in outputs if self.draw else []:
            self.count += 1
            name = Path(sample.img_path).stem
            out = Path(runner.log_dir, self.test_out_dir) / f'{name}.jpg' if self.test_out_dir else None
            self.picture(runner, sample, f'test_{name}', self.count, out)

    def picture(self, runner: Any, sample: Any, name: str, step: int, out: Path | None) -> None:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
        runner.visualizer.add_datasample(name, read_rgb(sample.img_path), data_sample=sample, show=self.show, wait_time=self.wait_time,
                                         out_file=None if out is None else str(out), pred_score_thr=self.score_thr, step=step)


def read_rgb(path: str) -> np.ndarray:
    """The image at ``path`` as uint8 (H, W, 3), RGB, turned as its EXIF says, as the loading transform does."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"cannot draw on '{path}': it is not an image that OpenCV reads.")
    return np.ascontiguousarray(image[..., ::-1])
