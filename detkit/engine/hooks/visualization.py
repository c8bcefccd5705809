"""Draw images with ground truth and predictions during evaluation."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.structures import InstanceData

from detkit.data.original import as_bgr, load_original
from detkit.data.transforms.loading import LoadImageFromFile
from detkit.ops.boxes import scale_boxes
from detkit.registry import HOOKS, ConfigError
from detkit.result_names import relative_names, result_names
from detkit.structures import BitmapMasks, DetDataSample, PolygonMasks


@HOOKS.register_module()
class DetVisualizationHook(Hook):
    """Draw evaluated images as the dataset's pipeline loads them. The arguments are MMDetection's.

    Output files have the names of their images (``a.jpg``, ``a.png``; other formats become ``a.tif.png``). Images with the same name
    in several folders keep the part of the path that distinguishes them. See ``detkit.result_names``.

    Args:
        draw: False disables the hook.
        interval: draw the first image of every ``interval``-th validation batch. In a test, all images are drawn.
        score_thr: detections with a lower score are not drawn.
        show: show each image in a window for ``wait_time`` seconds.
        test_out_dir: output folder of a test; a relative path is relative to the run's log folder.
        backend_args: must be empty, because images are local files.
    """

    def __init__(self, draw: bool = False, interval: int = 50, score_thr: float = 0.3, show: bool = False, wait_time: float = 0.,
                 test_out_dir: str | None = None, backend_args: dict | None = None) -> None:
        if backend_args:
            raise ConfigError('DetVisualizationHook reads local files; leave backend_args out.')
        self.draw, self.interval, self.score_thr = draw, interval, score_thr
        self.show, self.wait_time, self.test_out_dir, self.count = show, wait_time, test_out_dir, 0
        self.images: EvaluatedImages | None = None

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None) -> None:
        if self.draw and outputs and batch_idx % self.interval == 0:
            step = runner.iter if runner._train_loop is not None else 0
            self.picture(runner, runner.val_dataloader.dataset, outputs[0], 'val', step)

    def before_test(self, runner: Any) -> None:
        self.count = 0

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None) -> None:
        for sample in outputs if self.draw else []:
            self.count += 1
            self.picture(runner, runner.test_dataloader.dataset, sample, 'test', self.count,
                         Path(runner.log_dir, self.test_out_dir) if self.test_out_dir else None)

    def after_test_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        if self.draw and self.test_out_dir and self.count:
            runner.logger.info(f'pictures: {Path(runner.log_dir, self.test_out_dir)}')

    def picture(self, runner: Any, dataset: Any, sample: DetDataSample, prefix: str, step: int, folder: Path | None = None) -> None:
        """Draw one sample of ``dataset`` and write it to ``folder`` or to the visualizer's backends."""
        if self.images is None or self.images.dataset is not dataset:
            self.images = EvaluatedImages(dataset)
        name, title = self.images.names(sample)
        image = self.images.load(sample)[..., ::-1]
        drawn = DetDataSample()
        if 'pred_instances' in sample:
            drawn.pred_instances = sample.pred_instances
        if 'gt_instances' in sample and sample.gt_instances.keys():
            drawn.gt_instances = self.images.truth(sample)
        runner.visualizer.add_datasample(f'{prefix}_{title}', np.ascontiguousarray(image), data_sample=drawn, show=self.show,
                                         wait_time=self.wait_time, out_file=None if folder is None else str(folder / name),
                                         pred_score_thr=self.score_thr, step=step)


class EvaluatedImages:
    """Names, pixels and objects of the images of a dataset, looked up by a sample's ``img_path`` and ``img_id``.

    The names depend on the whole dataset, not on the order of drawing or on the process that draws.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.indices: dict[tuple, int] = {}
        for index in range(len(dataset)) if hasattr(dataset, 'get_data_info') else ():
            self.indices.setdefault(key_of(dataset.get_data_info(index)), index)
        relative = relative_names([path for path, _ in self.indices])
        files = result_names(relative)
        titles = result_names([name.replace('/', '_') for name in relative])      # backends do not create folders
        self.known = {key: (file.picture, title.base) for key, file, title in zip(self.indices, files, titles, strict=True)}

    def names(self, sample: DetDataSample) -> tuple[str, str]:
        """Return the output file's relative path and the title without ``/``. An image that is not in the dataset gets a number."""
        key = key_of(sample)
        if key not in self.known:
            file, = result_names([f'{len(self.known):08d}_{Path(key[0]).name}'])
            self.known[key] = file.picture, file.base
        return self.known[key]

    def load(self, sample: DetDataSample) -> np.ndarray:
        """Return the original image, uint8 BGR (height, width, 3)."""
        index = self.indices.get(key_of(sample))
        if index is None:
            return as_bgr(LoadImageFromFile()(dict(img_path=sample.img_path))['img'])
        return load_original(self.dataset, index)

    def truth(self, sample: DetDataSample) -> InstanceData:
        """Return the ground truth in pixels of the original image.

        If the pipeline only scaled the image, the sample's objects are scaled back; otherwise the objects of the dataset are used.
        """
        scale, instances = sample.get('gt_scale'), sample.gt_instances
        if 'bboxes' not in instances:
            return instances
        if scale is not None:
            found = InstanceData(labels=instances.labels, bboxes=scale_boxes(instances.bboxes, (1 / scale[0], 1 / scale[1])))
            if 'masks' in instances:
                found.masks = masks_in_original(instances.masks, scale, tuple(sample.ori_shape[:2]))
            return found
        index = self.indices.get(key_of(sample))
        listed = [] if index is None else [i for i in self.dataset.get_data_info(index)['instances'] if not i.get('ignore_flag')]
        return InstanceData(bboxes=torch.tensor([i['bbox'] for i in listed], dtype=torch.float32).reshape(-1, 4),
                            labels=torch.tensor([i['bbox_label'] for i in listed], dtype=torch.int64))


def masks_in_original(masks: BitmapMasks | PolygonMasks, scale: tuple[float, float], size: tuple[int, int]) -> BitmapMasks | PolygonMasks:
    """Return the masks of an image that was scaled by ``scale`` (x, y) and possibly padded, resized to ``size`` (height, width)."""
    height, width = round(size[0] * scale[1]), round(size[1] * scale[0])
    if (masks.height, masks.width) == size == (height, width):
        return masks
    return masks.crop(np.array([0, 0, min(width, masks.width), min(height, masks.height)])).resize(size)


def key_of(image: Any) -> tuple[str, Any]:
    """Return (img_path, img_id). ``image``: a dataset's dict or a sample."""
    return str(image.get('img_path')), image.get('img_id')
