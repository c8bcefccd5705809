"""The config's test pipeline, made ready for images that have no annotations."""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from detkit.data.compose import Compose
from detkit.data.original import as_bgr
from detkit.data.transforms.loading import UnreadableImage
from detkit.inference.sources import checked_array
from detkit.registry import TRANSFORMS, ConfigError, plain_name

LOADERS = ('LoadImageFromFile', 'LoadImageFromNDArray')
OF_ANNOTATIONS = ('LoadAnnotations', 'LoadPanopticAnnotations')   # a picture from a user has none


class InferencePipeline:
    """Path or array -> a packed sample, with the same steps that the config's test set goes through.

    The first step, which reads the file, is kept apart, so that the original image is at hand for drawing.

    Args:
        dataset: the config of the test data set; its ``pipeline`` is used.

    Raises:
        ConfigError: there is no pipeline, or it does not begin with LoadImageFromFile.
    """

    def __init__(self, dataset: dict) -> None:
        steps = list(dataset.get('pipeline') or ())
        if not steps:
            raise ConfigError('the config has no test_dataloader.dataset.pipeline, which says how to prepare images.')
        if kind_of(steps[0]) not in LOADERS:
            raise ConfigError(f"the test pipeline begins with {kind_of(steps[0])}; to take a user's image it has to begin "
                              f'with LoadImageFromFile.')
        reading = {key: value for key, value in steps[0].items() if key != 'type'}
        self.from_file = TRANSFORMS.build(dict(reading, type='LoadImageFromFile'))
        self.from_array = TRANSFORMS.build(dict(reading, type='LoadImageFromNDArray'))
        self.rest = Compose([step for step in steps[1:] if kind_of(step) not in OF_ANNOTATIONS])

    def __call__(self, image: str | os.PathLike | np.ndarray) -> tuple[dict, np.ndarray]:
        """The packed sample (``inputs``, ``data_samples``) and the original image, uint8 BGR (height, width, 3).

        Raises:
            ValueError: the file cannot be read; the message names it.
        """
        if isinstance(image, np.ndarray):
            results = self.from_array(dict(img=checked_array(image), img_id=0, img_path=None))
        else:
            results = self.read(image)
        height, width = results['ori_shape'][:2]
        original = results['img']
        packed = self.rest(dict(results, height=height, width=width, instances=[]))
        return packed, as_bgr(original)

    def read(self, path: str | os.PathLike) -> dict:
        if not Path(path).is_file():
            raise ValueError(f"there is no image '{os.fspath(path)}'.")
        try:
            results = self.from_file(dict(img_path=os.fspath(path), img_id=0))
        except UnreadableImage as error:
            raise ValueError(f"cannot read the image '{os.fspath(path)}' ({error.reason}).") from None
        if results is None:   # ignore_empty: fine for training, where another image takes its place
            raise ValueError(f"cannot read the image '{os.fspath(path)}'.")
        return results


def kind_of(step: dict) -> str:
    kind = step.get('type') if isinstance(step, dict) else type(step).__name__
    return plain_name(kind) if isinstance(kind, str) else kind.__name__
