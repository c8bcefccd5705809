"""Build a detector and detect objects in images (MMDetection's ``init_detector`` and ``inference_detector``)."""
from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from detkit.config import load_config
from detkit.data.classes import class_difference, in_order_of
from detkit.engine.checkpoint import load_checkpoint, load_weights
from detkit.inference.pipeline import InferencePipeline
from detkit.inference.pixels import FORMS, flatten, images_in_memory, is_in_memory
from detkit.options import literal
from detkit.registry import DATASETS, MODELS, ConfigError
from detkit.structures.sample import DetDataSample

CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.ckpt', '.safetensors')
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def init_detector(config: str | os.PathLike | Config, checkpoint: str | os.PathLike | None = None,
                  palette: Any = 'none', device: str | torch.device | None = None, cfg_options: dict | None = None,
                  trusted: bool = False) -> nn.Module:
    """Build a detector in evaluation mode, with ``.cfg`` and ``.dataset_meta`` (``classes``, ``palette``).

    Class names come from the checkpoint, else the config's metainfo, else the config's dataset.

    Args:
        config: path or name of a config, a Config (not changed), or a checkpoint that holds its config.
        checkpoint: weights. None: random weights, with a warning.
        palette: colours for drawing; 'none': the dataset's, else generated ones. See ``class_colours``.
        device: None: the GPU if one is usable, else the CPU.
        cfg_options: settings that override the config's, e.g. ``{'model.test_cfg.score_thr': 0.3}``.
        trusted: load a checkpoint that holds more than tensors and plain values. It can run code: only for files from a
            source that you trust.

    Raises:
        ConfigError, ValueError: the config, the checkpoint or the device cannot be used; the message says why.
    """
    device = checked_device(device)
    config, checkpoint = config_and_checkpoint(config, checkpoint, trusted)
    cfg = load_config(config, cfg_options)
    if 'model' not in cfg:
        raise ConfigError(f"the config {cfg.filename or ''} has no 'model', so there is nothing to build.")
    model = MODELS.build(cfg.model)
    content = {} if checkpoint is None else load_checkpoint(checkpoint, trusted)
    if checkpoint is None:
        warnings.warn('no checkpoint given: the weights are random, and so is what this detector finds.', stacklevel=2)
    else:
        load_all_weights(model, content, os.fspath(checkpoint))
    model.dataset_meta = dataset_meta(cfg, content.get('meta') or {}, palette)
    model.cfg = cfg
    return without_sync_norm(model).to(device).eval()


def load_all_weights(model: nn.Module, content: dict, name: str) -> None:
    """Load a checkpoint that must fill the whole model, because a detector with random weights gives wrong results without an error."""
    try:
        load_weights(model, content, strict=True)
    except ConfigError as error:
        raise ConfigError(str(error).replace('the checkpoint', f"'{name}'", 1)) from error


def checked_device(device: str | torch.device | None) -> torch.device:
    """Return ``device``; None: the GPU if it works, else the CPU.

    Raises:
        ValueError: ``device`` is a GPU, and there is none or it does not work with this PyTorch.
    """
    if device is None and not torch.cuda.is_available():
        return torch.device('cpu')
    try:
        chosen = torch.device('cuda' if device is None else device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:   # AssertionError: PyTorch without CUDA
        reason = str(error).strip().splitlines()[0]
        if device is None:
            warnings.warn(f'the GPU does not work with this PyTorch ({reason}); using the CPU.', stacklevel=3)
            return torch.device('cpu')
        raise ValueError(f"device '{device}' cannot be used ({reason}). Use device='cpu', or install a PyTorch that "
                         f'fits the GPU and its driver.') from None
    return chosen


def without_sync_norm(model: nn.Module) -> nn.Module:
    """Replace SyncBatchNorm, which needs a process group, by BatchNorm; the results are equal in evaluation mode."""
    if any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()):
        from mmengine.model import revert_sync_batchnorm
        return revert_sync_batchnorm(model)
    return model


def dataset_meta(cfg: Config, checkpoint_meta: dict, palette: Any = 'none') -> dict[str, Any]:
    """Return ``classes`` and ``palette``: the checkpoint's, else the config's metainfo, else the config's dataset's."""
    known = checkpoint_meta.get('dataset_meta') or {'classes': checkpoint_meta.get('CLASSES')}
    known = {key.lower(): value for key, value in known.items()}
    settings = tested_dataset(cfg)
    named = (settings.get('metainfo') or {}).get('classes')
    if known.get('classes') and isinstance(named, (list, tuple)) and in_order_of(known['classes'], named) != tuple(named):
        difference = class_difference(known['classes'], named, 'the checkpoint', 'the config')
        warnings.warn(f"the config names other classes than the checkpoint: {difference}. The checkpoint's are used.", stacklevel=3)
    for more in (settings.get('metainfo') or {}, getattr(dataset_class(settings), 'METAINFO', {})):
        if not known.get('classes'):
            known = {**known, **more}
        elif more.get('classes') and tuple(more['classes']) == tuple(known['classes']):
            known = {**more, **known}                         # the same classes: also use the palette
    classes = tuple(known.get('classes') or ())
    if not classes:
        warnings.warn('neither checkpoint nor config says what the classes are called; they appear as numbers.',
                      stacklevel=3)
    chosen = known.get('palette') if isinstance(palette, str) and palette == 'none' else palette
    return {**known, 'classes': classes, 'palette': chosen}


def tested_dataset(cfg: Config) -> dict:
    """Return the config of the test (else validation) dataset without wrappers; {} if there is none."""
    for loader in ('test_dataloader', 'val_dataloader'):
        found = (cfg.get(loader) or {}).get('dataset')
        while isinstance(found, dict) and 'pipeline' not in found and ('dataset' in found or found.get('datasets')):
            found = found['dataset'] if 'dataset' in found else found['datasets'][0]
        if found:
            return found
    return {}


def dataset_class(settings: dict) -> Any:
    """Return the dataset's class; None if its name is not registered, which matters only for training."""
    kind = settings.get('type')
    if isinstance(kind, str):
        return DATASETS.get(kind) if kind in DATASETS else None
    return kind


def inference_detector(model: nn.Module, imgs: Any, test_pipeline: Any = None, text_prompt: str | None = None,
                       custom_entities: bool = False, precision: str = 'fp32') -> DetDataSample | list[DetDataSample]:
    """Run ``model`` on images and return samples with ``pred_instances``: ``bboxes`` (n, 4) xyxy pixels of the original image, ``scores``
    and ``labels`` (n,), best first, and ``masks`` if it predicts them.

    Args:
        imgs: path of an image, an image in memory (an array in BGR, a tensor or PIL image in RGB, the bytes of a file:
            see ``detkit.inference.pixels``), or a list or generator of these, which gives a list. Images are processed one by
            one; ``DetInferencer`` supports batches, folders and videos.
        test_pipeline: a callable from ``dict(img_path=...)`` or ``dict(img=...)`` to a packed sample. None: the
            config's.
        text_prompt, custom_entities: for detectors with text prompts.
        precision: 'fp32', 'bf16' or 'fp16' (on a GPU).

    Raises:
        ValueError: an image cannot be read (the message has its name), or a prompt is given to a detector without prompts.
    """
    refuse_text(model, text_prompt, custom_entities)
    is_single = isinstance(imgs, (str, os.PathLike, dict)) or is_in_memory(imgs) and getattr(imgs, 'ndim', 3) != 4 \
        or not hasattr(imgs, '__iter__')
    own = isinstance(test_pipeline, (list, tuple))
    pipeline = InferencePipeline({'pipeline': test_pipeline} if own else tested_dataset(config_of_model(model))) \
        if own or test_pipeline is None else None
    samples = []
    for image in in_single_images(imgs):
        packed = pipeline(image)[0] if pipeline else test_pipeline(
            {'img_id': 0, **({'img': image_array(image)} if is_in_memory(image) else {'img_path': os.fspath(image)})})
        samples += predict(model, [packed], precision)
    return samples[0] if is_single else samples


def in_single_images(images: Any) -> Iterator[Any]:
    """Yield paths and single images in memory from nested lists and batches.

    Raises:
        ValueError: an item is neither.
    """
    for image in flatten(images):
        if is_in_memory(image):
            yield from images_in_memory(image)
        elif isinstance(image, (str, os.PathLike)):
            yield image
        else:
            raise ValueError(f'an image is a path, {FORMS}, or a list of these, and not {type(image).__name__}.')


def image_array(image: Any) -> np.ndarray:
    """Return an image in memory as uint8 BGR (height, width, 3), for a pipeline of the user."""
    return InferencePipeline({'pipeline': [{'type': 'LoadImageFromFile'}]}).read_memory(image)['img']


def config_of_model(model: nn.Module) -> Config:
    """Return the config that ``init_detector`` stored in a model.

    Raises:
        ValueError: the model has no config.
    """
    cfg = getattr(model, 'cfg', None)
    if cfg is None:
        raise ValueError(f'this {type(model).__name__} has no .cfg, which says how to prepare images. Make it with '
                         f'init_detector(config, checkpoint), or set model.cfg = load_config(...).')
    return cfg


def refuse_text(model: nn.Module, *prompts: Any) -> None:
    """Raise ValueError if a prompt is given and the detector has no language model."""
    if any(prompts) and not hasattr(model, 'language_model'):
        raise ValueError(f'{type(model).__name__} finds the classes it was trained on and takes no text prompt. Leave '
                         f'out text_prompt, texts and custom_entities.')


def predict(model: nn.Module, packed: Sequence[dict], precision: str = 'fp32') -> list[DetDataSample]:
    """Return the predictions of packed samples, computed as one batch.

    Raises:
        ValueError: the images and the model have different numbers of channels.
    """
    check_channels(model, packed)
    batch = {key: [sample[key] for sample in packed] for key in ('inputs', 'data_samples')}
    with torch.no_grad(), autocast(next(model.parameters()).device.type, precision):
        return model.test_step(batch)


def check_channels(model: nn.Module, packed: Sequence[dict]) -> None:
    """Raise ValueError if an image's number of channels differs from the preprocessor's mean, or from the other images of the batch."""
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    counts = [sample['inputs'].shape[0] for sample in packed]
    expected = counts[0] if mean is None else mean.numel()
    found = next((count for count in counts if count != expected), None)
    if found is not None:
        raise ValueError(f"an image has {found} channels after the test pipeline, and the model takes {expected} "
                         f"(model.data_preprocessor.mean): set color_type='{'grayscale' if expected == 1 else 'color'}' in the "
                         f"pipeline's LoadImageFromFile.")


@contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """Run convolutions and matrix products in ``precision`` while the block runs.

    Raises:
        ValueError: the precision is unknown, or fp16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}'; it is one of {', '.join(PRECISIONS)}.")
    if precision == 'fp16' and device == 'cpu':
        raise ValueError("precision 'fp16' needs a GPU; on a CPU use 'bf16', or 'fp32'.")
    with torch.autocast(device, PRECISIONS[precision] or torch.bfloat16, enabled=precision != 'fp32'):
        yield


def is_checkpoint(name: Any) -> bool:
    """Return whether ``name`` is the path of a checkpoint, by its suffix."""
    return isinstance(name, (str, os.PathLike)) and os.path.splitext(name)[1] in CHECKPOINT_SUFFIXES


def config_and_checkpoint(config: Any, checkpoint: Any, trusted: bool = False) -> tuple[Any, Any]:
    """Return both as given; if ``config`` is a checkpoint, return the config that it holds and its path.

    Raises:
        ValueError: both are checkpoints, they are in the wrong order, or the checkpoint does not hold its config.
    """
    if not is_checkpoint(config):
        return config, checkpoint
    if is_checkpoint(checkpoint):
        raise ValueError(f"'{config}' and '{checkpoint}' are both checkpoints; the first of them should be a config.")
    if checkpoint is not None:
        raise ValueError(f"'{config}' is a checkpoint and stands in the place of the config: give the config first, then the checkpoint.")
    return config_of_checkpoint(config, trusted), os.fspath(config)


def config_of_checkpoint(path: str | os.PathLike, trusted: bool = False) -> Config:
    """Return the config that a training stored in a checkpoint.

    Only assignments of plain values are read and no code is executed, because the checkpoint may come from another source.

    Raises:
        ValueError: the checkpoint has no config, or one with more than plain values.
    """
    text = (load_checkpoint(path, trusted=trusted).get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise ValueError(f"the checkpoint '{os.fspath(path)}' does not carry its config; give the config as well.")
    try:
        settings = {s.targets[0].id: literal(s.value, text) for s in ast.parse(text).body if isinstance(s, ast.Assign)}
    except (SyntaxError, AttributeError) as error:
        raise ValueError(f"the config in the checkpoint '{os.fspath(path)}' holds more than plain values ({error}); "
                         f'give the config file instead.') from None
    return Config(settings, cfg_text=text, filename=os.fspath(path))
