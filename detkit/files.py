"""Find data files, and write files atomically: after an interruption, a file is complete or absent.

Standard library only, so that all layers and tools can use it.
"""
from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; it is renamed to ``path`` if the block ends without an exception.

    The suffix is kept, because writers choose the format by it; parent folders are created; ``~`` is the home folder. After an
    exception, the temporary file is removed and an existing file at ``path`` is unchanged.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.stem[:40]}.', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~current_umask())   # files of mkstemp are readable only by their owner
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_out_dir(folder: str | os.PathLike) -> None:
    """Raise ValueError unless files can be written to ``folder``, which need not exist."""
    path = Path(folder).expanduser()
    existing = next(part for part in (path, *path.absolute().parents) if os.path.lexists(part))
    if not existing.is_dir():
        raise ValueError(f"nothing can be written into '{folder}': '{existing}' is a file. Give a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"nothing can be written into '{folder}': no permission to write in '{existing}'. Give another folder.")


def find_data(path: str | os.PathLike) -> Path:
    """Return ``path`` or, if it does not exist, the file in ``$DETKIT_DATA_ROOT`` (``data/coco`` is ``coco`` there).

    ``path`` may have the forms of ``local_path``, and names in either Unicode form (see ``existing_path``). If neither file exists,
    ``path`` is returned.
    """
    given, root = Path(existing_path(local_path(path))), os.environ.get('DETKIT_DATA_ROOT')
    if given.exists() or given.is_absolute() or not root:
        return given
    inner = given.parts[1:] if given.parts[:1] == ('data',) else given.parts
    below_root = Path(existing_path(os.path.join(os.path.expanduser(root), *inner)))
    return below_root if below_root.exists() else given


def local_path(path: str | os.PathLike) -> str:
    """Return ``path`` with ``~`` expanded and, unless it exists as written, with backslashes replaced by ``/``."""
    written = os.fspath(path)
    if '\\' in written and not os.path.exists(written):
        written = written.replace('\\', '/')
    return os.path.expanduser(written)


def existing_path(path: str) -> str:
    """Return ``path``, or the existing file whose name differs only in Unicode composition ('\u00fc' is one character or two).

    macOS writes decomposed file names; annotation files mostly have composed ones. A path in ASCII is returned without access to the
    disk. An existing path, and one without such a file, are returned unchanged.
    """
    if path.isascii() or os.path.exists(path):
        return path
    drive, rest = os.path.splitdrive(path)
    found = drive + (os.sep if rest.startswith(os.sep) else '')
    for part in rest.split(os.sep):
        if part and not os.path.exists(os.path.join(found, part)):
            part = composed_names(found or '.').get(unicodedata.normalize('NFC', part))
            if part is None:
                return path
        found = os.path.join(found, part)
    return found


def composed_names(folder: str) -> dict[str, str]:
    """Return a dict of composed (NFC) name -> name on disk for the entries of ``folder``; empty if it cannot be listed."""
    try:
        return list_composed(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=16)
def list_composed(folder: str, modified: int) -> dict[str, str]:
    """Cached part of ``composed_names``; a change of ``modified`` lists the folder again."""
    return {unicodedata.normalize('NFC', name): name for name in sorted(os.listdir(folder), reverse=True)}


def similar_name(path: str | os.PathLike, suffixes: Collection[str] = ()) -> str:
    """Return the end of a sentence that names a file next to ``path`` whose name differs only in upper and lower case, or in the suffix, if
    that is one of ``suffixes``; '' if there is none."""
    folder, name = os.path.split(os.fspath(path))
    try:
        names = list_folded(folder or '.', os.stat(folder or '.').st_mtime_ns)
    except OSError:
        return ''
    stem = os.path.splitext(name)[0].casefold()
    found = next((names[n] for n in (name.casefold(), *(stem + suffix for suffix in suffixes)) if n in names), None)
    return f"; there is '{found}' in that folder" if found else ''


@lru_cache(maxsize=16)
def list_folded(folder: str, modified: int) -> dict[str, str]:
    """Return a dict of case-folded name -> name on disk; a change of ``modified`` lists the folder again."""
    return {n.casefold(): n for n in sorted(os.listdir(folder), reverse=True) if not n.startswith('.')}


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_json(path: str | os.PathLike, data: Any, indent: int | None = None) -> None:
    """Write ``data`` as JSON to ``path``, atomically.

    Raises:
        ValueError: ``data`` has a NaN or infinite value, which JSON does not support.
    """
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        json.dump(data, file, indent=indent, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
