"""Open every image of a dataset once: check that it exists, is complete and has the stated size, and find duplicates."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detkit.data.formats.faults import UnreadablePicture
from detkit.data.formats.pictures import picture_size, without_pixel_limit
from detkit.data.transforms.loading import UnreadableImage, read_image
from detkit.opencv import cv2

MOST_PIXELS = 150_000_000      # limit for decoding; larger images are reported
EXTREME = 20                   # aspect ratio limit
THUMB = 32                     # side of the thumbnail used for comparison
SUFFIX_OF = {'JPEG': ('.jpg', '.jpeg', '.jfif'), 'PNG': ('.png',), 'BMP': ('.bmp',), 'GIF': ('.gif',), 'WEBP': ('.webp',),
             'TIFF': ('.tif', '.tiff')}


@dataclass(frozen=True)
class Picture:
    """What is known of an image file. ``trouble``: (level, kind, description, remedy) of each problem."""

    path: str
    width: int = 0
    height: int = 0
    turned: bool = False                                  # EXIF swaps width and height
    digest: bytes = b''
    thumb: np.ndarray | None = None                       # uint8 (THUMB, THUMB), grey
    trouble: tuple[tuple[str, str, str, str], ...] = ()


def look_at_all(paths: Iterable[str], workers: int | None = None) -> Iterator[Picture]:
    """Yield the checked images in the order of ``paths``; a few are opened at the same time."""
    paths, workers = list(paths), workers or min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), 64 * workers):       # limits the results in memory, and lets Ctrl-C stop soon
            yield from pool.map(look_at, paths[start:start + 64 * workers])


def look_at(path: str) -> Picture:
    replace = 'Replace the file, or take the image out of the annotations (detkit doctor --fix does).'
    if Path(path).exists() and not Path(path).is_file():       # opening a pipe would block
        return Picture(path, trouble=(('fault', 'picture unreadable', 'it is no ordinary file', replace),))
    try:
        width, height = picture_size(path)
        stored = picture_size(path, upright=False)
    except UnreadablePicture as error:
        missing = not Path(path).exists()
        kind = 'picture missing' if missing else 'picture unreadable'
        return Picture(path, trouble=(('fault', kind, str(error), 'Put the file there, correct data_prefix, or take the image out of the '
                                       'annotations (detkit doctor --fix does).' if missing else replace),))
    turned, trouble = stored != (width, height), []
    if max(width, height) > EXTREME * min(width, height):
        trouble.append(('warning', 'picture extremely long', f'{width}x{height} pixels', 'Cut it into tiles; resized as a whole, its '
                                                                                        'objects vanish.'))
    elif min(width, height) < 16:
        trouble.append(('warning', 'picture tiny', f'{width}x{height} pixels', 'Take it out; filter_cfg=dict(min_size=32) does.'))
    if width * height > MOST_PIXELS:
        what = f'{width}x{height} pixels take {width * height * 3 / 1e9:.1f} GB in memory'
        trouble.append(('fault', 'picture too large to decode', what, 'Cut it into tiles.'))
        return Picture(path, width, height, turned, trouble=tuple(trouble))
    if path.lower().endswith('.dcm'):
        return Picture(path, width, height, turned, hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest(), None, tuple(trouble))
    return decoded(path, width, height, turned, trouble, replace)


def decoded(path: str, width: int, height: int, turned: bool, trouble: list, replace: str) -> Picture:
    data = Path(path).read_bytes()
    problem = damage(path)
    try:
        image = read_image(path, 'grayscale', np.frombuffer(data, np.uint8))
    except UnreadableImage as error:
        image = None
        kind = 'picture cut short' if 'trunc' in problem.lower() else 'picture unreadable'
        trouble.append(('fault', kind, problem or error.reason, replace))
    if image is not None and problem:
        trouble.append(('warning', 'end marker missing' if 'trunc' in problem.lower() else 'picture damaged', problem,
                        'detkit reads it, other programs may not. Save it anew.'))
    if image is None:
        return Picture(path, width, height, turned, trouble=tuple(trouble))
    if not problem:
        trouble += oddities(path)
    thumb = cv2.resize(image[..., 0] if image.ndim == 3 else image, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    return Picture(path, width, height, turned, hashlib.blake2b(data, digest_size=16).digest(), thumb, tuple(trouble))


def damage(path: str) -> str:
    """Return the errors that a strict decoder reports for the file, '' if none."""
    from PIL import Image
    try:
        with without_pixel_limit(), Image.open(path) as picture:
            picture.load()
        return ''
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return str(error) or type(error).__name__


def sees_through(path: str) -> bool:
    """Return whether a pixel is not opaque; an alpha channel of 255 everywhere has no effect."""
    from PIL import Image
    with Image.open(path) as picture:
        return picture.getchannel('A').getextrema()[0] < 255


def oddities(path: str) -> list[tuple[str, str, str, str]]:
    """Return properties that are valid but often unintended."""
    from PIL import Image
    found = []
    with Image.open(path) as picture:
        kind, mode, frames = picture.format, picture.mode, getattr(picture, 'n_frames', 1)
        if mode.startswith(('I', 'F')):
            low, high = picture.getextrema()
            found.append(('warning', 'picture of 16 bits', f'its values run from {low} to {high}; divided by 256, as OpenCV does, they are '
                          f'{int(low) // 256} to {int(high) // 256}',
                          "Set depth=(low, high) of LoadImageFromFile to the sensor's range, or depth='range' for each picture's own."))
        if mode in ('RGBA', 'LA', 'PA') and sees_through(path):
            found.append(('note', 'picture with transparency', f'mode {mode}', 'Transparency is left aside; background=(B, G, R) of '
                                                                               'LoadImageFromFile shows a colour there.'))
        if mode == 'CMYK':
            found.append(('note', 'picture in CMYK', 'mode CMYK', 'It is converted without a colour profile; save it as RGB to be sure of '
                                                                  'its colours.'))
        if frames > 1 and kind != 'TIFF':
            found.append(('note', 'picture with several frames', f'{frames} frames', 'Only the first is read.'))
        if Path(path).suffix.lower() not in SUFFIX_OF.get(kind, (Path(path).suffix.lower(),)):
            found.append(('note', 'name does not tell the format', f'it is a {kind}', 'detkit reads it by its content; other programs may '
                                                                                     'not.'))
    return found
