"""File names of results of images and videos: the same for inference, ``--show-dir`` and the hook.

Only ``result_names`` chooses them, so that results of one run never overwrite each other.
"""
from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
WRITABLE_SUFFIXES = ('.jpg', '.jpeg', '.png')     # an annotated image of any other format is written as PNG
MAX_NAME_BYTES = 255                              # of one file or folder, on common file systems
ROOM_FOR_ENDINGS = 24                             # bytes reserved for a number, a frame index and a suffix
FRAME_STEM = re.compile(r'(.+)_\d{6,}')


@dataclass(frozen=True)
class ResultName:
    """The names of the results of one input. Paths are relative, with ``/``.

    ``stem`` and ``suffix`` are those of the input (``sub/a`` and ``.jpg``). ``keeps_suffix``: another input has the same stem, so the
    suffix is kept: ``a.jpg`` and ``a.png`` give ``a.jpg.json`` and ``a.png.json``.
    """

    stem: str
    suffix: str
    keeps_suffix: bool = False

    @property
    def is_video(self) -> bool:
        return self.suffix.lower() in VIDEO_SUFFIXES

    @property
    def base(self) -> str:
        """The name without a result suffix."""
        return self.stem + self.suffix if self.keeps_suffix else self.stem

    @property
    def picture(self) -> str:
        """Path of the annotated image (``a.jpg``; ``a.tif`` gives ``a.tif.png``) or video (``clip.mp4``)."""
        if self.is_video:
            return self.base if self.base.endswith('.mp4') else f'{self.base}.mp4'
        name = self.stem + self.suffix
        return name if self.suffix.lower() in WRITABLE_SUFFIXES else f'{name}.png'

    def prediction(self, frame: int | None = None) -> str:
        """Return the path of the JSON file of an image (``a.json``) or of a video frame (``clip_000012.json``)."""
        return f'{self.base}.json' if frame is None else f'{self.base}_{frame:06d}.json'


def result_names(names: Sequence[str]) -> list[ResultName]:
    """Return one ResultName per input, all different, even on file systems that ignore case or Unicode form.

    ``names``: relative names of images and videos with ``/``, as returned by ``relative_names``.

    A unique name is not changed. Inputs with the same stem keep their suffixes, as does an image named like a frame of an input
    video. Remaining duplicates get a number: ``A.jpg`` beside ``a.jpg`` becomes ``A_2.jpg``. A name that would be too long for the file
    system with a result suffix is shortened.
    """
    split = [shortened(ResultName(*os.path.splitext(name))) for name in names]
    stems = Counter(folded(name.stem) for name in split)
    videos = {folded(name.stem) for name in split if name.is_video}
    preferred = [replace(name, keeps_suffix=stems[folded(name.stem)] > 1 or is_like_a_frame(name, videos)) for name in split]
    used, numbers = UsedPaths(), Counter()
    chosen = [name if used.take(name) else None for name in preferred]        # names without a number come first
    return [found or numbered(name, used, numbers) for name, found in zip(preferred, chosen, strict=True)]


def shortened(name: ResultName) -> ResultName:
    """Return ``name`` with its stem shortened so that all its result files have valid lengths."""
    folder, _, stem = name.stem.rpartition('/')
    room = MAX_NAME_BYTES - ROOM_FOR_ENDINGS - len(os.fsencode(name.suffix))
    if len(os.fsencode(stem)) <= room:
        return name
    stem = os.fsencode(stem)[:room].decode(errors='ignore')
    return replace(name, stem=f'{folder}/{stem}' if folder else stem)


def is_like_a_frame(name: ResultName, videos: set[str]) -> bool:
    """Return whether an image is named like the result of a video frame: ``clip_000003.jpg`` beside ``clip.mp4``."""
    match = FRAME_STEM.fullmatch(name.stem)
    return not name.is_video and match is not None and folded(match[1]) in videos


def numbered(name: ResultName, used: UsedPaths, numbers: Counter) -> ResultName:
    """Return ``name`` with the first free number from 2; without its folders if a result file has the path of one of them.

    ``numbers``: the last number used for each stem; updated.
    """
    if used.has_file_above(name):
        name = replace(name, stem=name.stem.replace('/', '_'))
    key = folded(name.stem + name.suffix)
    numbers[key] = max(numbers[key], 1)
    while True:
        numbers[key] += 1
        candidate = replace(name, stem=f'{name.stem}_{numbers[key]}')
        if used.take(candidate):
            return candidate


def folded(path: str) -> str:
    """Return a string that is equal for paths that macOS or Windows treat as the same file."""
    return unicodedata.normalize('NFC', path).casefold()


class UsedPaths:
    """Used paths of results, as files and as folders."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.folders: set[str] = set()

    def has_file_above(self, name: ResultName) -> bool:
        """Return whether a folder of ``name`` exists as a file."""
        return any(str(parent) in self.files for parent in PurePosixPath(folded(name.picture)).parents)

    def take(self, name: ResultName) -> bool:
        """Reserve the paths of ``name``; return whether all were free."""
        files = {folded(name.picture), folded(name.prediction(0 if name.is_video else None))}
        folders = {str(parent) for file in files for parent in PurePosixPath(file).parents}
        if files & self.files or files & self.folders or folders & self.files:
            return False
        self.files |= files
        self.folders |= folders
        return True


def relative_names(files: Sequence[str | os.PathLike], root: str | os.PathLike | None = None) -> list[str]:
    """Return file names relative to ``root``, or to their common folder.

    Symlinks are not resolved: an input keeps the name that was given.
    """
    paths = [Path(os.path.abspath(file)) for file in files]
    if not paths:
        return []
    if root is None and len({folded(path.name) for path in paths}) == len(paths):
        return [path.name for path in paths]
    base = Path(os.path.commonpath([path.parent for path in paths]) if root is None else os.path.abspath(root))
    return [path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name for path in paths]
