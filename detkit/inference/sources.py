"""What an INPUT means: an image, a folder, a glob, a video, an array, or a list of these, frame by frame."""
from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkit.opencv import cv2

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or an image in memory, and the name that its results go by."""

    name: str                       # relative path with '/', unique among the sources; arrays: 00000000.jpg, ...
    path: Path | None = None
    image: np.ndarray | None = None     # uint8 BGR (height, width, 3)

    @property
    def is_video(self) -> bool:
        return self.path is not None and self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Frame:
    """One image to look at: a whole source, or the ``index``-th frame of a video."""

    source: Source
    index: int | None = None            # from 0; None for a still image
    image: np.ndarray | None = None     # uint8 BGR; None: still to be read from source.path


def list_sources(inputs: Any, exclude: str | os.PathLike | None = None) -> list[Source]:
    """The sources that ``inputs`` stand for, in the order of their names.

    Args:
        inputs: path of an image or video, of a folder (searched with its subfolders), a glob such as ``'day*/*.jpg'``,
            an array (uint8 BGR, height x width x 3), or a list of any of these.
        exclude: a folder to leave out, for results that are written below the input.

    Raises:
        ValueError: there is nothing there, or it is a URL or no image array.
    """
    if isinstance(inputs, np.ndarray) or not isinstance(inputs, (list, tuple)):
        inputs = [inputs]
    found: list[Path | np.ndarray] = []
    for one in inputs:
        found.extend([checked_array(one)] if isinstance(one, np.ndarray) else files_of(one, exclude))
    names = iter(unique_names([f for f in found if isinstance(f, Path)], folder_of(inputs)))
    return [Source(next(names), path=f) if isinstance(f, Path) else Source(f'{i:08d}.jpg', image=f)
            for i, f in enumerate(found)]


def checked_array(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f'an image given as an array is uint8, BGR, of shape (height, width, 3); this one is '
                         f'{image.dtype} {image.shape}.')
    return image


def files_of(name: str | os.PathLike, exclude: str | os.PathLike | None) -> list[Path]:
    """The image and video files that one path or glob stands for."""
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f'an input is a path, a glob, an array, or a list of these, and not {type(name).__name__}.')
    text = os.fspath(name)
    if '://' in text:
        raise ValueError(f"'{text}' is a URL; download it and give the file.")
    path = Path(text)
    if path.is_dir():
        files = [f for f in sorted(path.rglob('*')) if wanted(f, path, exclude)]
        if not files:
            raise ValueError(f"the folder '{text}' has no image or video in it (looked for {' '.join(IMAGE_SUFFIXES)} "
                             f"and {' '.join(VIDEO_SUFFIXES)}).")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(text):
        files = [f for f in map(Path, sorted(glob.glob(text, recursive=True))) if f.is_file()]
        if files:
            return files
        raise ValueError(f"no file matches '{text}'.")
    raise ValueError(f"no file or folder '{text}'.")


def wanted(file: Path, root: Path, exclude: str | os.PathLike | None) -> bool:
    """Whether ``file`` is an image or video, not hidden, and not below ``exclude``."""
    inside = file.relative_to(root)
    if file.suffix.lower() not in IMAGE_SUFFIXES + VIDEO_SUFFIXES or any(part.startswith('.') for part in inside.parts):
        return False
    return exclude is None or Path(exclude).resolve() not in file.resolve().parents


def folder_of(inputs: Sequence[Any]) -> Path | None:
    """The one folder given, to which names are relative."""
    only = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], (str, os.PathLike)) else None
    return Path(only) if only is not None and Path(only).is_dir() else None


def unique_names(files: Sequence[Path], root: Path | None) -> list[str]:
    """File names, with as much of their folders as tells them apart: relative to ``root`` or what they share."""
    if not files:
        return []
    if root is None and len({f.name for f in files}) == len(files):
        return [f.name for f in files]
    base = Path(os.path.commonpath([f.resolve().parent for f in files])) if root is None else root.resolve()
    return [f.resolve().relative_to(base).as_posix() if base in f.resolve().parents else f.name for f in files]


def frames(source: Source) -> Iterator[Frame]:
    """The frames of one source. A still image is not read here: the config's own loader does that.

    Raises:
        ValueError: a video that OpenCV cannot open.
    """
    if not source.is_video:
        yield Frame(source, image=source.image)
        return
    capture = cv2.VideoCapture(str(source.path))
    try:
        if not capture.isOpened():
            raise ValueError(f"cannot open the video '{source.path}': it is damaged, or in a format that this OpenCV "
                             f'does not decode. Convert it: ffmpeg -i INPUT -c:v mpeg4 OUTPUT.mp4')
        index = 0
        while True:
            more, image = capture.read()
            if not more:
                return
            yield Frame(source, index, image)
            index += 1
    finally:
        capture.release()


def video_rate(source: Source) -> float:
    """Frames a second; 25 where the file does not say."""
    capture = cv2.VideoCapture(str(source.path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return rate if 0 < rate < 1000 else 25.


def count_frames(sources: Sequence[Source]) -> int | None:
    """How many frames there are; None when a video does not say."""
    total = 0
    for source in sources:
        if source.is_video:
            capture = cv2.VideoCapture(str(source.path))
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.release()
            if count <= 0:
                return None
            total += count
        else:
            total += 1
    return total
