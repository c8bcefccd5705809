"""A detector ready to use, and what it finds in images (MMDetection's ``init_detector`` and ``inference_detector``)."""
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
    """A detector in evaluation mode, with ``.cfg`` and ``.dataset_meta`` (``classes``, ``palette``).

    Class names come from the checkpoint, else the config's metainfo, else the config's data set.

    Args:
        config: path or name of a config, a Config (not changed), or a checkpoint that carries its config.
        checkpoint: weights. None: the weights are random, which a warning says.
        palette: colours for drawing; 'none': the data set's, else made to measure. See ``class_colours``.
        device: None: the GPU if there is a usable one, else the CPU.
        cfg_options: settings that replace the config's, e.g. ``{'model.test_cfg.score_thr': 0.3}``.
        trusted: load a checkpoint that is more than tensors and plain values. It can then run code: only for files
            whose maker you trust.

    Raises:
        ConfigError, ValueError: the config, the checkpoint or the device cannot be used; the message says how.
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
    """Load a checkpoint that must fill the whole model: a detector that is half random finds nonsense, silently."""
    try:
        load_weights(model, content, strict=True)
    except ConfigError as error:
        raise ConfigError(str(error).replace('the checkpoint', f"'{name}'", 1)) from error


def checked_device(device: str | torch.device | None) -> torch.device:
    """``device``, or by default the GPU if it works and else the CPU.

    Raises:
        ValueError: a GPU is asked for and there is none, or it does not work with this PyTorch.
    """
    if device is None and not torch.cuda.is_available():
        return torch.device('cpu')
    try:
        chosen = torch.device('cuda' if device is None else device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:   # AssertionError: a PyTorch that was built without CUDA
        reason = str(error).strip().splitlines()[0]
        if device is None:
            warnings.warn(f'the GPU does not work with this PyTorch ({reason}); using the CPU.', stacklevel=3)
            return torch.device('cpu')
        raise ValueError(f"device '{device}' cannot be used ({reason}). Use device='cpu', or install a PyTorch that "
                         f'fits the GPU and its driver.') from None
    return chosen


def without_sync_norm(model: nn.Module) -> nn.Module:
    """SyncBatchNorm needs a process group; alone, and in evaluation, BatchNorm computes the same."""
    if any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()):
        from mmengine.model import revert_sync_batchnorm
        return revert_sync_batchnorm(model)
    return model


def dataset_meta(cfg: Config, checkpoint_meta: dict, palette: Any = 'none') -> dict[str, Any]:
    """``classes`` and ``palette``: the checkpoint's, else the config's metainfo, else the config's data set's."""
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
            known = {**more, **known}                         # the same classes: take the palette along
    classes = tuple(known.get('classes') or ())
    if not classes:
        warnings.warn('neither checkpoint nor config says what the classes are called; they appear as numbers.',
                      stacklevel=3)
    chosen = known.get('palette') if isinstance(palette, str) and palette == 'none' else palette
    return {**known, 'classes': classes, 'palette': chosen}


def tested_dataset(cfg: Config) -> dict:
    """The config's test (else validation) data set, taken out of wrappers; {} if it has none."""
    for loader in ('test_dataloader', 'val_dataloader'):
        found = (cfg.get(loader) or {}).get('dataset')
        while isinstance(found, dict) and 'pipeline' not in found and ('dataset' in found or found.get('datasets')):
            found = found['dataset'] if 'dataset' in found else found['datasets'][0]
        if found:
            return found
    return {}


def dataset_class(settings: dict) -> Any:
    """The data set's class; None if its name is unknown here, which matters for training alone."""
    kind = settings.get('type')
    if isinstance(kind, str):
        return DATASETS.get(kind) if kind in DATASETS else None
    return kind


def inference_detector(model: nn.Module, imgs: Any, test_pipeline: Any = None, text_prompt: str | None = None,
                       custom_entities: bool = False, precision: str = 'fp32') -> DetDataSample | list[DetDataSample]:
    """What ``model`` finds: ``pred_instances`` with ``bboxes`` (n, 4) xyxy pixels of the original image, ``scores`` and
    ``labels`` (n,), best first, and ``masks`` if it predicts them.

    Args:
        imgs: path of an image, an image in memory (an array in BGR, a tensor or PIL image in RGB, the bytes of a file:
            see ``detkit.inference.pixels``), or a list or generator of these, which gives a list. Images are taken one by
            one; ``DetInferencer`` takes batches, folders and videos.
        test_pipeline: a callable from ``dict(img_path=...)`` or ``dict(img=...)`` to a packed sample. None: the
            config's.
        text_prompt, custom_entities: for detectors that are told in words what to look for.
        precision: 'fp32', 'bf16' or 'fp16' (on a GPU).

    Raises:
        ValueError: an image that cannot be read, by its name; a prompt for a detector that takes none.
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
    """Paths and images in memory, out of lists and batches.

    Raises:
        ValueError: something that is neither.
    """
    for image in flatten(images):
        if is_in_memory(image):
            yield from images_in_memory(image)
        elif isinstance(image, (str, os.PathLike)):
            yield image
        else:
            raise ValueError(f'an image is a path, {FORMS}, or a list of these, and not {type(image).__name__}.')


def image_array(image: Any) -> np.ndarray:
    """An image in memory as uint8 BGR (height, width, 3), for a pipeline of the user's own."""
    return InferencePipeline({'pipeline': [{'type': 'LoadImageFromFile'}]}).read_memory(image)['img']


def config_of_model(model: nn.Module) -> Config:
    """The config that ``init_detector`` left in a model.

    Raises:
        ValueError: it has none.
    """
    cfg = getattr(model, 'cfg', None)
    if cfg is None:
        raise ValueError(f'this {type(model).__name__} has no .cfg, which says how to prepare images. Make it with '
                         f'init_detector(config, checkpoint), or set model.cfg = load_config(...).')
    return cfg


def refuse_text(model: nn.Module, *prompts: Any) -> None:
    """Raise ValueError if a prompt is given and the detector has no language model to read it."""
    if any(prompts) and not hasattr(model, 'language_model'):
        raise ValueError(f'{type(model).__name__} finds the classes it was trained on and takes no text prompt. Leave '
                         f'out text_prompt, texts and custom_entities.')


def predict(model: nn.Module, packed: Sequence[dict], precision: str = 'fp32') -> list[DetDataSample]:
    """Predictions for packed samples, as one batch.

    Raises:
        ValueError: the images have other channels than the model.
    """
    check_channels(model, packed)
    batch = {key: [sample[key] for sample in packed] for key in ('inputs', 'data_samples')}
    with torch.no_grad(), autocast(next(model.parameters()).device.type, precision):
        return model.test_step(batch)


def check_channels(model: nn.Module, packed: Sequence[dict]) -> None:
    """Raise ValueError if an image has more or fewer channels than the preprocessor's mean, or than another image of its batch."""
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
    """Run convolutions and products in ``precision`` inside.

    Raises:
        ValueError: no such precision, or fp16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}'; it is one of {', '.join(PRECISIONS)}.")
    if precision == 'fp16' and device == 'cpu':
        raise ValueError("precision 'fp16' needs a GPU; on a CPU use 'bf16', or 'fp32'.")
    with torch.autocast(device, PRECISIONS[precision] or torch.bfloat16, enabled=precision != 'fp32'):
        yield


def is_checkpoint(name: Any) -> bool:
    """Whether ``name`` is the path of a checkpoint, by its ending."""
    return isinstance(name, (str, os.PathLike)) and os.path.splitext(name)[1] in CHECKPOINT_SUFFIXES


def config_and_checkpoint(config: Any, checkpoint: Any, trusted: bool = False) -> tuple[Any, Any]:
    """Both as given, or, for a checkpoint in the place of the config, the config that it carries and itself.

    Raises:
        ValueError: two checkpoints, the two in the wrong order, or a checkpoint without its config.
    """
    if not is_checkpoint(config):
        return config, checkpoint
    if is_checkpoint(checkpoint):
        raise ValueError(f"'{config}' and '{checkpoint}' are both checkpoints; the first of them should be a config.")
    if checkpoint is not None:
        raise ValueError(f"'{config}' is a checkpoint and stands in the place of the config: give the config first, then the checkpoint.")
    return config_of_checkpoint(config, trusted), os.fspath(config)


def config_of_checkpoint(path: str | os.PathLike, trusted: bool = False) -> Config:
    """The config that a training run keeps in its checkpoints.

    Only assignments of plain values are read, nothing is executed: a checkpoint from elsewhere is data.

    Raises:
        ValueError: it has none, or one with more than plain values in it.
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
