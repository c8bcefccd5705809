"""The config's test pipeline for images without annotations."""
from __future__ import annotations

import os
from typing import Any

import numpy as np

from detkit.data.compose import Compose
from detkit.data.original import as_bgr
from detkit.data.transforms.loading import UnreadableImage, as_bytes, has_alpha, over_background
from detkit.inference.pixels import images_in_memory, is_in_memory, is_pil, pil_array, with_channels
from detkit.inference.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_input, is_dicom, is_dicom_data
from detkit.registry import TRANSFORMS, ConfigError, plain_name

LOADERS = ('LoadImageFromFile', 'LoadImageFromNDArray', 'LoadDICOM')
OF_ANNOTATIONS = ('LoadAnnotations', 'LoadPanopticAnnotations')   # removed, because user images have no annotations


class InferencePipeline:
    """Convert a path or an image to a packed sample with the transforms of the config's test dataset.

    The first transform, which reads the file, is separate, so that the original image is available for drawing. LoadDICOM reads DICOM
    slices and LoadImageFromFile all other files. The one in the config has the config's settings, the other one has its defaults.

    Args:
        dataset: the config of the test dataset; its ``pipeline`` is used.

    Raises:
        ConfigError: the pipeline is missing or does not begin with LoadImageFromFile or LoadDICOM, or LoadDICOM needs pydicom.
    """

    def __init__(self, dataset: dict) -> None:
        steps = list(dataset.get('pipeline') or ())
        if not steps:
            raise ConfigError('the config has no test_dataloader.dataset.pipeline, which says how to prepare images.')
        self.kind = kind_of(steps[0])
        if self.kind not in LOADERS:
            raise ConfigError(f"the test pipeline begins with {self.kind}; to take a user's image it has to begin with "
                              f'LoadImageFromFile or LoadDICOM.')
        self.reading = {key: value for key, value in steps[0].items() if key != 'type'}
        own = self.reading if self.kind != 'LoadDICOM' else {'to_float32': self.reading.get('to_float32', False)}
        self.from_file = TRANSFORMS.build(dict(own, type='LoadImageFromFile'))
        self.from_array = TRANSFORMS.build(dict(type='LoadImageFromNDArray', to_float32=own.get('to_float32', False)))
        self.rest = Compose([step for step in steps[1:] if kind_of(step) not in OF_ANNOTATIONS])
        self.from_dicom = self.dicom_loader() if self.kind == 'LoadDICOM' else None

    def dicom_loader(self) -> Any:
        """Build LoadDICOM with the config's settings, or with defaults if the config uses LoadImageFromFile.

        Raises:
            ConfigError: pydicom is not installed.
        """
        return TRANSFORMS.build(dict(self.reading if self.kind == 'LoadDICOM' else {}, type='LoadDICOM'))

    def __call__(self, image: Any) -> tuple[dict, np.ndarray]:
        """Return the packed sample (``inputs``, ``data_samples``) and the original image, uint8 BGR (height, width, 3).

        ``image``: a path, an array, a tensor, a PIL image, or the bytes of a file: see ``detkit.inference.pixels``.

        Raises:
            ValueError: the image cannot be read; the message has its name.
        """
        results = self.read_memory(image) if is_in_memory(image) else self.read(image)
        height, width = results['ori_shape'][:2]
        original = results['img']
        packed = self.rest(dict(results, height=height, width=width, instances=[]))
        return packed, as_bgr(original)

    def read(self, path: str | os.PathLike) -> dict:
        """Return the result of the loading transform for a file."""
        text = os.fspath(path)
        found = find_input(text)
        if found is None:
            raise ValueError(f"there is no image '{text}'.")
        if found.is_dir():
            raise ValueError(f"'{text}' is a folder and no image. DetInferencer takes folders.")
        by_suffix = found.suffix.lower() in IMAGE_SUFFIXES
        as_dicom = not by_suffix and (self.kind == 'LoadDICOM' or is_dicom(found))
        hint = ' DetInferencer takes videos.' if found.suffix.lower() in VIDEO_SUFFIXES else ''
        return self.load(dict(img_path=str(found)), as_dicom, f"the image '{text}'", hint)

    def load(self, results: dict, as_dicom: bool, name: str, hint: str = '') -> dict:
        if as_dicom and self.from_dicom is None:
            self.from_dicom = self.dicom_loader()
        try:
            read = (self.from_dicom if as_dicom else self.from_file)(dict(results, img_id=0))
        except UnreadableImage as error:
            raise ValueError(f'cannot read {name} ({error.reason}).{hint}') from None
        if read is None:   # with ignore_empty, the transform returns None; in training another image is used instead
            raise ValueError(f'cannot read {name}.{hint}')
        if as_dicom and self.kind != 'LoadDICOM':
            read['img'] = with_channels(read['img'], self.from_file.color_type)
        return read

    def read_memory(self, image: Any) -> dict:
        """Return what the loading transform would return for a file with the pixels of ``image``."""
        image, = images_in_memory(image)
        if isinstance(image, bytes):
            results = dict(img_path='bytes', encoded=np.frombuffer(image, np.uint8))
            return dict(self.load(results, is_dicom_data(image), 'the image given as bytes'), img_path=None)
        if is_pil(image):
            image = pil_array(image, upright=not self.from_file.color_type.endswith('ignore_orientation'))
        return self.from_array(dict(img=self.as_loaded(image), img_id=0, img_path=None))

    def as_loaded(self, image: np.ndarray) -> np.ndarray:
        """Convert uint8 or uint16 pixels as LoadImageFromFile does with the config's settings."""
        load = self.from_file
        if image.dtype == np.uint16 and load.depth != 'divide':
            image = as_bytes(image, load.depth)
        elif image.dtype == np.uint16 and load.color_type != 'unchanged':
            image = (image >> 8).astype(np.uint8)
        if load.background is not None and has_alpha(image):
            image = over_background(image, load.background)
        return with_channels(image, load.color_type)


def kind_of(step: dict) -> str:
    kind = step.get('type') if isinstance(step, dict) else type(step).__name__
    return plain_name(kind) if isinstance(kind, str) else kind.__name__
