"""Convert images in memory to the arrays that a config's loading transform would read.

Arrays are BGR, as in OpenCV and MMDetection; tensors and PIL images are RGB, as in torchvision and Pillow.
"""
from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from detkit.opencv import cv2

CHANNELS = (1, 3, 4)
FORMS = ('an array (height, width, 3) BGR, (height, width) grey or (height, width, 4) BGRA; a tensor (3, height, width) RGB; '
         'a PIL image; the bytes of an image file')


def is_tensor(value: Any) -> bool:
    return hasattr(value, 'detach') and hasattr(value, 'cpu')


def is_pil(value: Any) -> bool:
    module = sys.modules.get('PIL.Image')
    return module is not None and isinstance(value, module.Image)


def is_in_memory(value: Any) -> bool:
    """Return whether ``value`` is an image or a batch of images in memory, not a path."""
    is_names = isinstance(value, np.ndarray) and value.dtype.kind in 'UO'
    return isinstance(value, (np.ndarray, bytes, bytearray, memoryview)) and not is_names or is_tensor(value) or is_pil(value) \
        or hasattr(value, 'read')


def images_in_memory(value: Any) -> list[Any]:
    """Return a list of the images in ``value``: itself, or the images of a batch (N, height, width, channels). Open files are read.

    Raises:
        ValueError: an array or tensor has an invalid shape or invalid values; a file is open in text mode.
    """
    if hasattr(value, 'read') and not is_pil(value):
        value = value.read()
        if isinstance(value, str):
            raise ValueError("the file object gives text; open the image with open(path, 'rb').")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [bytes(value)]
    if is_pil(value):
        if 0 in value.size:
            raise ValueError(f'a PIL image of {value.width}x{value.height} pixels is empty.')
        return [value]
    images = list(value) if value.ndim == 4 else [value]
    for image in images:
        check_shape(image)
    return [as_array(image) for image in images]


def check_shape(image: Any) -> None:
    """Raise ValueError unless an array or tensor has the shape of one image."""
    kind, axis = ('a tensor', 0) if is_tensor(image) else ('an array', 2)
    shape = tuple(image.shape)
    if len(shape) == 2 and min(shape) > 0 or len(shape) == 3 and min(shape) > 0 and shape[axis] <= 16:
        return
    turned = len(shape) == 3 and min(shape) > 0 and shape[2 - axis] in CHANNELS
    hint = ''
    if turned and axis == 2:
        hint = ' Its channels come first: image.transpose(1, 2, 0) puts them last.'
    elif turned:
        hint = " Its channels come last: for OpenCV's order give it as an array, image.numpy()."
    raise ValueError(f'{kind} of shape {shape} is no image.{hint} An image in memory is {FORMS}.')


def as_array(image: Any) -> np.ndarray:
    """Convert an array or tensor of one image to uint8 or uint16, channels last, BGR.

    bool becomes 0 and 255. Integers are 0 to 255 or, if larger, 16-bit. Floats are 0 to 1 if the maximum is at most 1, else 0 to 255.

    Raises:
        ValueError: values are outside of these ranges or not finite.
    """
    if is_tensor(image):
        image = tensor_array(image)
    if image.dtype in (np.uint8, np.uint16):
        return np.require(image, requirements=['C', 'W'])      # torch warns about memory that is not writable
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype.kind not in 'iuf':
        raise ValueError(f'an array of {image.dtype} is no image. Pixels are numbers: uint8, uint16, or float of 0 to 1 or 0 to 255.')
    low, high = float(image.min()), float(image.max())
    top = 255. if image.dtype.kind == 'f' else 65535.
    if not (0 <= low and high <= top):                                     # False for NaN
        raise ValueError(f'the pixels of an image in memory are 0 to 255 (or 0 to 1 as float, 0 to 65535 as whole numbers); '
                         f'this one, {image.dtype}, has {low:g} to {high:g}. Give it before it is normalised.')
    if image.dtype.kind == 'f':
        return np.rint(image * 255 if high <= 1 else image).astype(np.uint8)
    return image.astype(np.uint8 if high <= 255 else np.uint16)


def tensor_array(tensor: Any) -> np.ndarray:
    """Convert (height, width), or (channels, height, width) RGB, to an array with channels last, BGR."""
    if str(tensor.layout) != 'torch.strided' or tensor.is_meta or tensor.is_quantized:
        raise ValueError(f'a tensor that is sparse, quantized or without data is no image ({tensor.dtype}, {tensor.layout}). An image in '
                         f'memory is {FORMS}.')
    tensor = tensor.detach().cpu()
    image = np.asarray(tensor.float() if tensor.is_floating_point() else tensor)      # numpy has no bfloat16
    if image.ndim == 2:
        return image
    image = image.transpose(1, 2, 0)
    return image[..., [2, 1, 0, 3][:image.shape[2]]] if image.shape[2] in (3, 4) else image


def pil_array(picture: Any, upright: bool = True) -> np.ndarray:
    """Convert a PIL image of any mode to an array: grey (height, width), BGR, or BGRA if it has transparency.

    ``upright``: apply the EXIF orientation.

    Raises:
        ValueError: the image cannot be decoded or its mode cannot be converted.
    """
    from PIL import Image, ImageOps
    try:
        picture = ImageOps.exif_transpose(picture) if upright else picture
        if picture.mode in ('1', 'L'):
            return np.array(picture.convert('L'))
        if picture.mode.startswith('I;16'):
            return np.asarray(picture).astype(np.uint16)
        if picture.mode in ('I', 'F'):
            return as_array(np.asarray(picture))
        if picture.mode in ('LA', 'La', 'RGBA', 'RGBa', 'PA') or 'transparency' in picture.info:
            picture = picture.convert('LA') if picture.mode == 'La' else picture          # the only conversion from premultiplied grey
            return np.ascontiguousarray(np.asarray(picture.convert('RGBA'))[..., [2, 1, 0, 3]])
        return np.ascontiguousarray(np.asarray(picture.convert('RGB'))[..., ::-1])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'cannot read a PIL image of mode {picture.mode} ({error}).') from None


def with_channels(image: np.ndarray, color_type: str) -> np.ndarray:
    """Convert ``image``, (height, width) or (height, width, channels), as the loading transform with ``color_type`` does: grey without a
    last axis, three channels, or, with 'unchanged', no conversion.

    Raises:
        ValueError: the image is not grey, BGR or BGRA.
    """
    if color_type == 'unchanged':
        return image
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels not in CHANNELS:
        raise ValueError(f"an image of {channels} channels, and the config's loading step (color_type='{color_type}') gives "
                         f'{1 if color_type.startswith("grayscale") else 3}. Give grey, BGR or BGRA.')
    if channels == 1:
        grey = np.ascontiguousarray(image.reshape(image.shape[:2]))
        return grey if color_type.startswith('grayscale') else cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    bgr = np.ascontiguousarray(image[..., :3])
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY) if color_type.startswith('grayscale') else bgr


def flatten(inputs: Any) -> Iterable[Any]:
    """Yield the single inputs in ``inputs``; lists, tuples, generators and other iterables are flattened to any depth.

    Raises:
        ValueError: an input is a dict.
    """
    if isinstance(inputs, dict):
        raise ValueError('an input is a path, an image, or a list of these, and not a dict.')
    if isinstance(inputs, str) or hasattr(inputs, '__fspath__') or is_in_memory(inputs) or not hasattr(inputs, '__iter__'):
        yield inputs
        return
    for one in inputs:
        yield from flatten(one)
