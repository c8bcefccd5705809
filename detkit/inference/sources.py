"""List and read inputs: an image, a folder, a glob, a video, an image in memory, or a list of these, frame by frame."""
from __future__ import annotations

import difflib
import glob
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.files import find_data
from detkit.inference.pixels import FORMS, flatten, images_in_memory, is_in_memory
from detkit.opencv import cv2
from detkit.result_names import VIDEO_SUFFIXES, ResultName, relative_names, result_names

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
PAGED_SUFFIXES = ('.tif', '.tiff', '.gif')
PICTURES = 'vis'                        # folder of annotated images in a folder of results
DICOM_SUFFIXES = ('.dcm', '.dicom')
DICOM_MARK = slice(128, 132)            # position of the bytes "DICM" in a file (DICOM PS3.10, 7.1)
MAX_LOST_FRAMES = 0.02                  # fraction of a video's stated frames that may be missing without a warning: containers round


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or an image in memory, and the name of its results."""

    name: str                       # relative path with '/'; images in memory: 00000000.jpg, ...
    path: Path | None = None
    image: Any = None               # see detkit.inference.pixels
    result: ResultName | None = None    # unique within the call; None: derived from the name alone

    @property
    def is_video(self) -> bool:
        return self.path is not None and self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def result_name(self) -> ResultName:
        return self.result or result_names([self.name])[0]


@dataclass(frozen=True)
class Frame:
    """One image: a whole source, or the ``index``-th frame of a video."""

    source: Source
    index: int | None = None            # from 0; None for a still image
    image: Any = None                   # image in memory or frame, uint8 BGR; None: not yet read from source.path


def list_sources(inputs: Any, exclude: str | os.PathLike | None = None, first_number: int = 0,
                 allow_missing: bool = False) -> list[Source]:
    """Return the sources of ``inputs``; files of a folder or glob are sorted by name.

    Args:
        inputs: path of an image, DICOM slice or video, of a folder (searched recursively, links included; hidden files are ignored),
            a glob such as ``'day*/*.jpg'``; an image in memory (see ``detkit.inference.pixels``) or a batch (N, ...) of them; or a list,
            generator or other iterable of these, which is read completely.
        exclude: a folder of results to leave out: all of it or, if it is the input itself or matched by a glob, its images.
        first_number: number of the first image in memory; their names are 00000000.jpg and so on.
        allow_missing: keep a missing file of a list as a source; reading it fails later.

    Raises:
        ValueError: nothing is found, or an input is a URL or not an image.
    """
    inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) or is_in_memory(inputs) else list(flatten(inputs))
    found: list[Any] = []
    for number, one in enumerate(inputs, 1):
        try:
            found.extend(images_in_memory(one) if is_in_memory(one) else files_of(one, exclude))
        except (FileNotFoundError, ValueError) as error:
            if isinstance(error, ValueError) or not allow_missing or len(inputs) == 1:
                raise ValueError(f'{error}{f" (input {number} of {len(inputs)})" if len(inputs) > 1 else ""}') from None
            found.append(Path(one))
    relative = iter(relative_names([f for f in found if isinstance(f, Path)], folder_of(inputs)))
    names = [next(relative) if isinstance(f, Path) else f'{first_number + i:08d}.jpg' for i, f in enumerate(found)]
    return [Source(name, f if isinstance(f, Path) else None, None if isinstance(f, Path) else f, result)
            for name, f, result in zip(names, found, result_names(names), strict=True)]


def files_of(name: str | os.PathLike, exclude: str | os.PathLike | None) -> list[Path]:
    """Return the image and video files of one path or glob.

    Raises:
        FileNotFoundError: there is none; the message is one line.
        ValueError: it is a URL, or not a path.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f'an input is a path, a glob, an image in memory, or a list of these, and not {type(name).__name__}. '
                         f'In memory it is {FORMS}.')
    text = os.path.expanduser(os.fspath(name))
    if not text:
        raise ValueError('an input is an empty string; give the path of an image, a folder or a video.')
    if '://' in text:
        raise ValueError(f"'{text}' is a URL; download it and give the file.")
    path = find_input(text)
    if path is not None and path.is_dir():
        return files_in(path, exclude)
    if path is not None:
        return [path]
    if glob.has_magic(text):
        return matches(text, exclude)
    link = ' (it is a link to a file that does not exist)' if os.path.islink(text) else near(text)
    raise FileNotFoundError(f"no file or folder '{text}'{link}.")


def near(text: str) -> str:
    """Return a hint that names a file with a similar name, or ''."""
    folder = Path(text).parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() and os.access(folder, os.R_OK) else []
    close = difflib.get_close_matches(Path(text).name, names, n=1, cutoff=0.8)
    return f". Did you mean '{folder / close[0]}'?" if close else ''


def find_input(text: str) -> Path | None:
    """Return the file or folder for ``text``, or None. ``~`` is the home folder, backslashes may separate folders, and the Unicode form
    may differ from the disk's (macOS decomposes accents). It is also looked up in ``$DETKIT_DATA_ROOT``, as for datasets."""
    path = find_data(text)
    return path if path.exists() else None


def matches(pattern: str, exclude: str | os.PathLike | None) -> list[Path]:
    """Return the files that match a glob; matching folders are searched. Brackets in file names are also matched.

    Raises:
        FileNotFoundError: nothing matches.
    """
    forms = [pattern, pattern.replace('\\', '/'), *(unicodedata.normalize(form, pattern) for form in ('NFC', 'NFD'))]
    for form in dict.fromkeys([*forms, *(form.replace('[', '[[]') for form in forms)]):
        found = [Path(p) for p in sorted(glob.glob(form, recursive=True))]
        if found:
            break
    else:
        raise FileNotFoundError(f"no file matches '{pattern}'.")
    files: list[Path] = []
    for path in found:
        if path.is_dir() and '**' not in pattern:             # with **, the files in it match by themselves
            files += files_in(path, exclude, required=False)
        elif path.is_file() and is_input(path):
            files.append(path)
    if exclude is not None:
        results = Path(os.path.realpath(exclude), PICTURES)
        files = [path for path in files if results not in Path(os.path.realpath(path)).parents] or files
    files = files or [path for path in found if path.is_file()]       # unknown suffixes: the loading transform reports an error
    if not files:
        raise FileNotFoundError(f"what matches '{pattern}' is {len(found)} folders without an image or video.")
    return list(dict.fromkeys(files))


def files_in(root: Path, exclude: str | os.PathLike | None, required: bool = True) -> list[Path]:
    """Return the images, slices and videos in ``root`` and its subfolders, without hidden files (also ``._`` files of macOS) and without
    ``exclude``. Links to folders are followed, each folder once.

    Raises:
        FileNotFoundError: there is none and ``required`` is True.
    """
    excluded = None if exclude is None else os.path.realpath(exclude)
    if excluded == os.path.realpath(root):
        excluded = os.path.join(excluded, PICTURES)
    files, visited = [], set()
    for folder, folders, names in os.walk(root, onerror=warn_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited or real == excluded:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith('.') and f != '__MACOSX')
        files += [Path(folder, name) for name in names if not name.startswith('.') and is_input(Path(folder, name))]
    if required and not files:
        raise FileNotFoundError(f"the folder '{root}' has no image or video in it (looked for {' '.join(IMAGE_SUFFIXES)}, "
                                f"{' '.join(VIDEO_SUFFIXES)} and DICOM slices, {' '.join(DICOM_SUFFIXES)} or without an ending).")
    return sorted(files)


def warn_unreadable(error: OSError) -> None:
    logging.getLogger('detkit').warning("the folder '%s' cannot be read (%s); what is in it is left out.", error.filename, error.strerror)


def is_input(file: Path) -> bool:
    """Return whether a file is an image, a DICOM slice or a video: by its suffix, or by its content if it has no suffix."""
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES + DICOM_SUFFIXES:
        return not file.is_dir()                         # a broken link is kept and reported as unreadable
    return (not suffix or suffix[1:].isdigit()) and is_dicom(file)        # names of slices are often like IM000001, or numbers with dots


def is_dicom(file: Path) -> bool:
    """Return whether a file is a DICOM slice: by its suffix, or by the bytes "DICM" in it."""
    if file.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with open(file, 'rb') as content:
            return is_dicom_data(content.read(DICOM_MARK.stop))
    except OSError:
        return False


def is_dicom_data(data: bytes) -> bool:
    return data[DICOM_MARK] == b'DICM'


def folder_of(inputs: Sequence[Any]) -> Path | None:
    """Return the folder if ``inputs`` is one folder, else None; names are relative to it."""
    only = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], (str, os.PathLike)) else None
    path = None if only is None else find_input(os.fspath(only))
    return path if path is not None and path.is_dir() else None


def frames(source: Source) -> Iterator[Frame]:
    """Yield the frames of a source. A still image is not read here; the config's loading transform does that. Warns if a video ends before
    its last frame.

    Raises:
        ValueError: OpenCV cannot open the video or decode any of its frames.
    """
    if not source.is_video:
        warn_of_pages(source)
        yield Frame(source, image=source.image)
        return
    capture = cv2.VideoCapture(str(source.path))
    try:
        count, more, index = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.isOpened(), 0
        while more:
            more, image = capture.read()
            if more:
                yield Frame(source, index, image)
                index += 1
        if index == 0 and not source.path.exists():
            raise ValueError(f"there is no video '{source.path}'.")
        if index == 0:
            raise ValueError(f"cannot open the video '{source.path}': it is empty or damaged, or in a format that this OpenCV does not "
                             f'decode. Convert it: ffmpeg -i INPUT -c:v mpeg4 OUTPUT.mp4')
        if 0 < count < 1 << 40 and count - index > max(1, MAX_LOST_FRAMES * count):
            logging.getLogger('detkit').warning("the video '%s' should have %d frames, and %d could be decoded: it may be cut short.",
                                                source.path, count, index)
    finally:
        capture.release()


def warn_of_pages(source: Source) -> None:
    """Warn if a TIFF or GIF has several pages: only the first is used."""
    if source.path is not None and source.path.suffix.lower() in PAGED_SUFFIXES and source.path.is_file():
        pages = cv2.imcount(str(source.path))
        if pages > 1:
            logging.getLogger('detkit').warning("'%s' has %d pages; the first is taken. Save the others as files of their own.",
                                                source.path, pages)


def video_rate(source: Source) -> float:
    """Return the frames per second; 25 if the file does not have this number."""
    capture = cv2.VideoCapture(str(source.path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return rate if 0 < rate < 1000 else 25.


def count_frames(sources: Sequence[Source]) -> int | None:
    """Return the total number of frames; None if a video does not state it."""
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
