"""Detection on many images: MMDetection's ``DetInferencer`` with videos, batches and an option for unreadable files."""
from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from detkit.config import load_config
from detkit.engine.amp import native_bf16, use_channels_last
from detkit.engine.sources import fetch
from detkit.files import check_out_dir, write_json
from detkit.inference.detector import (
    PRECISIONS,
    config_and_checkpoint,
    config_of_checkpoint,
    config_of_model,
    init_detector,
    is_checkpoint,
    predict,
    refuse_text,
    tested_dataset,
)
from detkit.inference.pipeline import InferencePipeline
from detkit.inference.results import PictureWriter, as_dict
from detkit.inference.sources import PICTURES, Frame, Source, count_frames, frames, list_sources
from detkit.registry import INFERENCERS
from detkit.structures.sample import DetDataSample
from detkit.visualization.draw import draw_instances
from detkit.visualization.picture import Picture
from detkit.zoo.index import load_index

ON_UNREADABLE = ('fail', 'skip')


@dataclass(frozen=True)
class Detection:
    """One image and its detections."""

    frame: Frame
    image: np.ndarray       # uint8 BGR, as the config's loading transform read it
    sample: DetDataSample   # pred_instances in pixels of that image


@INFERENCERS.register_module()
class DetInferencer:
    """A detector for paths, folders, globs, videos, images in memory, and lists of them.

    Args:
        model: path or name of a config, name of a model in model_zoo.json, a Config, a detector from ``init_detector``,
            or a checkpoint that holds its config. None: the config in ``weights``.
        weights: checkpoint. None: the zoo's, for a model with published weights.
        device, palette, cfg_options, trusted: see ``init_detector``.
        scope: for compatibility with MMDetection: 'mmdet' and 'detkit' are the same here.
        show_progress: show a progress bar.
        precision: 'fp32'; 'bf16' or (on a GPU) 'fp16', with channels_last; 'auto': bf16 if the machine is faster with
            it.

    Raises:
        ValueError: neither model nor weights are given, or an argument is invalid.
    """

    def __init__(self, model: str | os.PathLike | Config | nn.Module | None = None, weights: str | None = None,
                 device: str | None = None, scope: str | None = 'detkit', palette: Any = 'none',
                 show_progress: bool = True, precision: str = 'fp32', cfg_options: dict | None = None,
                 trusted: bool = False) -> None:
        if model is None and weights is None:
            raise ValueError('DetInferencer needs model (a config) or weights (a checkpoint that carries its config).')
        if scope not in (None, 'detkit', 'mmdet'):
            raise ValueError(f"scope is '{scope}'; detkit builds its own classes. Leave it out, and name your package "
                             f"in the config's custom_imports.")
        if isinstance(model, nn.Module) and (weights, device, palette, cfg_options) != (None, None, 'none', None):
            raise ValueError('a detector that is built already has its weights, device, palette and config: leave those '
                             'arguments out, or give the config in its place.')
        if model is None:
            model = config_of_checkpoint(weights, trusted)
        elif is_checkpoint(model):
            model, weights = config_and_checkpoint(model, weights, trusted)
        elif isinstance(model, (str, os.PathLike)):
            model, weights = in_zoo(model, weights)
        if not isinstance(model, nn.Module):
            model = init_detector(model, weights, palette, device, cfg_options, trusted)
        self.model, self.precision, self.show_progress = model, settled(precision), show_progress
        if self.precision != 'fp32':
            use_channels_last(model)
        self.pipeline = InferencePipeline(tested_dataset(config_of_model(model)))
        self.num_in_memory = 0     # number of images in memory in earlier calls; new ones are numbered after them
        self.skipped: list[tuple[str, str]] = []   # (name, reason) of the unreadable files of the last call

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(self.model.dataset_meta.get('classes') or ())

    def __call__(self, inputs: Any, batch_size: int = 1, return_vis: bool = False, show: bool = False,
                 wait_time: float = 0, no_save_vis: bool = False, draw_pred: bool = True, pred_score_thr: float = 0.3,
                 return_datasamples: bool = False, print_result: bool = False, no_save_pred: bool = True,
                 out_dir: str = '', texts: Any = None, stuff_texts: Any = None, custom_entities: bool = False,
                 tokens_positive: Any = None, on_unreadable: str = 'fail') -> dict[str, list]:
        """Detect objects; return ``dict(predictions=[...], visualization=[...])`` with one entry per image or video frame.

        Results have unique names derived from the files, see ``detkit.result_names``. As in MMDetection, a second call with the same
        ``out_dir`` replaces the results of files with the same names. Images in memory are numbered consecutively over all
        calls.

        Args:
            inputs: see ``list_sources``.
            batch_size: number of images per batch.
            return_vis: return the drawn images (RGB) in ``visualization``; else it is empty.
            show: display each image for ``wait_time`` seconds in a window (0: until a key is pressed), or inline in a notebook.
            no_save_vis: do not write images to OUT_DIR/vis.
            draw_pred: draw the predictions; False: only the image.
            pred_score_thr: objects with a lower score are not drawn. ``predictions`` has all.
            return_datasamples: ``predictions`` are DetDataSample; else dicts of ``labels``, ``scores``, ``bboxes``
                (xyxy pixels of the original image) and ``masks`` (RLE) if predicted.
            print_result: print each prediction.
            no_save_pred: do not write OUT_DIR/preds/NAME.json.
            out_dir: output folder; '': write nothing.
            texts, stuff_texts, custom_entities, tokens_positive: for detectors with text prompts.
            on_unreadable: 'fail' at an image that cannot be read, or 'skip' it, warn, and list it in ``skipped``.

        Raises:
            ValueError: ``inputs`` is empty, or an image cannot be read; the message has its name.
        """
        refuse_text(self.model, texts, stuff_texts, custom_entities, tokens_positive)
        check_score(pred_score_thr, 'pred_score_thr')
        saving = bool(out_dir)
        if saving and return_datasamples and not no_save_pred:
            raise ValueError('no_save_pred=False writes JSON, which DetDataSamples are not: leave out '
                             'return_datasamples.')
        if saving:
            check_out_dir(out_dir)
        drawing = return_vis or show or (saving and not no_save_vis)
        writer = PictureWriter(Path(out_dir) / PICTURES) if saving and not no_save_vis else None
        results: dict[str, list] = {'predictions': [], 'visualization': []}
        try:
            for found in self.stream(inputs, batch_size, on_unreadable, exclude=out_dir or None):
                prediction = found.sample if return_datasamples else as_dict(found.sample)
                results['predictions'].append(prediction)
                if print_result:
                    print({'predictions': [prediction]})
                if saving and not no_save_pred:
                    write_json(Path(out_dir) / 'preds' / found.frame.source.result_name.prediction(found.frame.index), prediction)
                picture = self.draw(found, pred_score_thr, draw_pred) if drawing else None
                if return_vis:
                    results['visualization'].append(picture)
                if writer:
                    writer.write(found.frame, picture)
                if show:
                    show_picture(picture, found.frame.source.name, wait_time)
        finally:
            if writer:
                writer.close()
        return results

    def draw(self, found: Detection, score_thr: float = 0.3, draw_pred: bool = True) -> Picture:
        """Return the image, RGB, with its detections drawn."""
        instances = found.sample.pred_instances if draw_pred else {}
        palette = self.model.dataset_meta.get('palette')
        return draw_instances(found.image[..., ::-1], instances, self.classes, score_thr=score_thr, palette=palette)

    def stream(self, inputs: Any, batch_size: int = 1, on_unreadable: str = 'fail',
               exclude: str | os.PathLike | None = None) -> Iterator[Detection]:
        """Yield detections one by one with at most one batch in memory: for long videos and large folders."""
        if on_unreadable not in ON_UNREADABLE:
            raise ValueError(f"on_unreadable is '{on_unreadable}'; it is one of {', '.join(ON_UNREADABLE)}.")
        if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f'batch_size is {batch_size!r}; it is a whole number from 1 on.')
        self.skipped = []
        sources = list_sources(inputs, exclude, self.num_in_memory, allow_missing=on_unreadable == 'skip')
        self.num_in_memory += sum(source.path is None for source in sources)
        loaded = self._loaded(sources, on_unreadable)
        if self.show_progress:
            from rich.progress import track
            loaded = track(loaded, total=count_frames(sources), description='Inference')
        for batch in batches((item for item in loaded if item is not None), batch_size):
            samples = predict(self.model, [packed for _, _, packed in batch], self.precision)
            for (frame, image, _), sample in zip(batch, samples, strict=True):
                yield Detection(frame, image, sample)

    def _loaded(self, sources: Sequence[Source], on_unreadable: str) -> Iterator[tuple[Frame, np.ndarray, dict] | None]:
        """Yield each frame with its image and packed sample; an unreadable frame raises, or gives None and is recorded."""
        for source in sources:
            try:
                for frame in frames(source):
                    packed, image = self.pipeline(source.path if frame.image is None else frame.image)
                    yield frame, image, packed
            except (ValueError, OSError) as error:
                if on_unreadable == 'fail':
                    raise ValueError(f'{error} (on_unreadable="skip" passes over such files.)') from error
                self.skipped.append((str(source.path or source.name), str(error)))
                print_log(f'skipped: {error}', logger='current', level=logging.WARNING)
                yield None


def settled(precision: str) -> str:
    """Return ``precision`` with 'auto' resolved; warn if the machine only emulates it."""
    native, why = native_bf16()
    if precision == 'auto':
        return 'bf16' if native else 'fp32'
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}'; it is one of {', '.join(PRECISIONS)}, auto.")
    if precision == 'bf16' and not native:
        warnings.warn(f'{why}: bf16 will be slower than fp32 here.', stacklevel=3)
    return precision


def load_inferencer(name: str | os.PathLike, checkpoint: str | None = None, **options: Any) -> DetInferencer:
    """Build the inferencer for the command line's CONFIG_OR_NAME and CHECKPOINT; ``options`` are DetInferencer's.

    ``name``: path or name of a config, a model of the zoo, or, without ``checkpoint``, a checkpoint that holds its
    config.

    Raises:
        ValueError: a config without a checkpoint and without weights in the zoo.
    """
    if is_checkpoint(name):
        return DetInferencer(name, checkpoint, **options)
    place, weights = in_zoo(name, checkpoint)
    config = load_config(place, options.pop('cfg_options', None))
    if weights is None:
        raise ValueError(f"no checkpoint for '{name}': give the weights to use after it.{trained(Path(place).stem)}")
    return DetInferencer(config, weights, **options)


def in_zoo(name: str | os.PathLike, weights: str | None) -> tuple[str, str | None]:
    """Return config and weights of a model in model_zoo.json; ``weights`` overrides the zoo's. Other names are returned unchanged.

    Raises:
        ValueError: the downloaded file is not the one that the index describes.
    """
    entry = None if Path(name).exists() else next((e for e in load_index() if e.name == os.fspath(name)), None)
    if entry is None:
        return os.fspath(name), weights
    if weights is None and entry.weights.url is not None:
        path = fetch(entry.weights.url)
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry.weights.sha256:
            raise ValueError(f"'{path}' is not the file that model_zoo.json describes for '{entry.name}' (its SHA-256 "
                             f'differs). Remove it to download it again.')
        weights = str(path)
    return entry.config, weights


def trained(name: str) -> str:
    """Return a hint that names a checkpoint of this config in the default work dir, or ''."""
    found = sorted(Path('work_dirs', name).glob('*.pth'), key=lambda p: (p.name.startswith('best'), p.stat().st_mtime))
    return f" Training left '{found[-1]}'." if found else ''


def batches(items: Iterator[Any], size: int) -> Iterator[list]:
    """Yield lists of ``size`` items; the last one may be shorter."""
    batch: list = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def check_score(score_thr: Any, name: str) -> None:
    """Raise ValueError unless the threshold is a number in [0, 1]."""
    if isinstance(score_thr, bool) or not isinstance(score_thr, Real) or not 0 <= score_thr <= 1:
        raise ValueError(f'the score threshold is {score_thr!r} ({name}); it is a number between 0 and 1.')


def show_picture(picture: Picture, name: str, wait_time: float) -> None:
    from detkit.visualization.visualizer import DetLocalVisualizer
    DetLocalVisualizer.get_instance('detkit-inferencer').show(picture, win_name=name, wait_time=wait_time)
