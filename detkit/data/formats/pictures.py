"""Read image headers without decoding, and find image files."""
from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock

from detkit.data.formats.faults import BrokenAnnotations, UnreadablePicture
from detkit.files import existing_path, similar_name

SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.dcm')
TURNED = (5, 6, 7, 8)      # EXIF orientations that swap width and height
ORIENTATION = 0x0112
LIMIT_LOCK = Lock()
LIMITS: list[int | None] = []      # Pillow's limit, and one entry for each thread that disabled it; empty while the limit is active


def picture_size(path: str | Path, upright: bool = True) -> tuple[int, int]:
    """Return the size (width, height) in pixels, after the EXIF rotation unless ``upright`` is False. Does not decode the image.

    Raises:
        UnreadablePicture: the file does not exist, or its header has no size.
    """
    if Path(path).suffix.lower() == '.dcm':
        from detkit.data.formats.dicom import dicom_size
        return dicom_size(path)
    from PIL import Image, UnidentifiedImageError
    try:
        with without_pixel_limit(), Image.open(path) as picture:       # only the header is read; the caller checks the size
            width, height = picture.size
            says = picture.format in ('JPEG', 'TIFF', 'WEBP') or 'exif' in picture.info    # a PNG without 'exif' would be read to its end
            turned = upright and says and picture.getexif().get(ORIENTATION) in TURNED
            return (height, width) if turned else (width, height)
    except FileNotFoundError:
        raise UnreadablePicture(f'no such file{similar_name(path, SUFFIXES)}') from None
    except UnidentifiedImageError:
        raise UnreadablePicture('no picture, or a damaged one') from None
    except (OSError, SyntaxError, ValueError) as error:                # SyntaxError: Pillow raises it for a broken PNG
        raise UnreadablePicture(str(error) or type(error).__name__) from None


@contextmanager
def without_pixel_limit() -> Iterator[None]:
    """Let Pillow open images of any size in this context. The limit is global; it is restored when the last thread leaves."""
    from PIL import Image
    with LIMIT_LOCK:
        if not LIMITS:
            LIMITS.append(Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = None
        LIMITS.append(None)
    try:
        yield
    finally:
        with LIMIT_LOCK:
            LIMITS.pop()
            if len(LIMITS) == 1:
                Image.MAX_IMAGE_PIXELS = LIMITS.pop()


def size_of(path: str | Path, source: str | Path) -> tuple[int, int]:
    """Return the size as ``picture_size`` does, for an annotation file without image sizes.

    Raises:
        BrokenAnnotations: names ``source`` and the image.
    """
    try:
        return picture_size(path)
    except UnreadablePicture as error:
        raise BrokenAnnotations(f'{source}: the size of {path} is needed and cannot be read ({error}). Put the picture there, or take it '
                                f'out of the annotations.') from None


def pictures_below(folder: Path) -> list[Path]:
    """Return all images in ``folder`` and its subfolders, by name; symlinked folders are followed, hidden files (``._a.jpg``) left out."""
    return sorted(p for p in files_below(folder) if p.suffix.lower() in SUFFIXES)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files in ``folder`` and its subfolders, without hidden files and folders; symlinks to a parent folder are not followed."""
    above: dict[str, frozenset[str]] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        around = above.pop(place, frozenset()) | {real}
        folders[:] = [f for f in folders if not is_hidden(f) and os.path.realpath(os.path.join(place, f)) not in around]
        above.update((os.path.join(place, f), around) for f in folders)
        yield from (p for p in (Path(place, n) for n in names if not is_hidden(n)) if p.is_file())


def is_hidden(name: str) -> bool:
    """Return whether the name is hidden: files of systems and editors, such as ``._a.jpg``, ``.DS_Store``, ``.ipynb_checkpoints``."""
    return name.startswith('.')


def picture_path(folder: str, name: str) -> str:
    """Return the path of the image ``name`` of an annotation file; the name on disk may use another Unicode form."""
    return existing_path(os.path.join(folder, name))


def picture_of_stem(folder: str, stem: str) -> str:
    """Return the file name in ``folder`` of the image ``stem`` (which may include a subfolder), with the suffix found there, in any case.

    ``.jpg`` is tried first and is returned if there is no image.
    """
    usual = f'{stem}.jpg'
    if os.path.isfile(os.path.join(folder, usual)):
        return usual
    inner, last = os.path.split(stem)
    place = os.path.join(folder, inner)
    names = list_pictures(place, os.stat(place).st_mtime_ns) if os.path.isdir(place) else {}
    composed = unicodedata.normalize('NFC', last)
    found = next((names[composed + s] for s in SUFFIXES if composed + s in names), None)
    return os.path.join(inner, found) if found else usual


@lru_cache(maxsize=16)
def list_pictures(folder: str, modified: int) -> dict[str, str]:
    """Return composed name with lower-case suffix -> name on disk, for the images in ``folder``; ``modified`` is part of the cache key."""
    parts = ((name, *os.path.splitext(unicodedata.normalize('NFC', name))) for name in sorted(os.listdir(folder), reverse=True))
    return {stem + suffix.lower(): name for name, stem, suffix in parts if suffix.lower() in SUFFIXES}
