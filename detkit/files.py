"""Files: where data lies, and writing so that a file is whole or absent, whatever interrupts it.

Standard library only, so that every floor and every tool may use it.
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
    """A temporary path beside ``path`` to write to; it takes ``path``'s place when the block ends without an exception.

    The suffix is kept (writers choose their format by it); the folder is made; ``~`` is the home folder. After an exception the temporary
    file is gone and an older file at ``path`` is untouched.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.stem[:40]}.', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~current_umask())   # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_out_dir(folder: str | os.PathLike) -> None:
    """Raise ValueError unless files can be written into ``folder``, which need not exist yet."""
    path = Path(folder).expanduser()
    existing = next(part for part in (path, *path.absolute().parents) if os.path.lexists(part))
    if not existing.is_dir():
        raise ValueError(f"nothing can be written into '{folder}': '{existing}' is a file. Give a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"nothing can be written into '{folder}': no permission to write in '{existing}'. Give another folder.")


def find_data(path: str | os.PathLike) -> Path:
    """``path`` as given, or, where it does not exist, below ``$DETKIT_DATA_ROOT`` (``data/coco`` is ``coco`` there).

    ``path`` may be written as ``local_path`` says, and a name in either Unicode form (see ``existing_path``). Returns it when neither
    place exists.
    """
    given, root = Path(existing_path(local_path(path))), os.environ.get('DETKIT_DATA_ROOT')
    if given.exists() or given.is_absolute() or not root:
        return given
    inner = given.parts[1:] if given.parts[:1] == ('data',) else given.parts
    below_root = Path(existing_path(os.path.join(os.path.expanduser(root), *inner)))
    return below_root if below_root.exists() else given


def local_path(path: str | os.PathLike) -> str:
    """``path`` with ``~`` replaced by the home folder, and, unless it exists as written, with ``/`` in place of backslashes."""
    written = os.fspath(path)
    if '\\' in written and not os.path.exists(written):
        written = written.replace('\\', '/')
    return os.path.expanduser(written)


def existing_path(path: str) -> str:
    """``path``, or the existing file whose name differs only in Unicode composition ('\u00fc' is one character or two).

    macOS writes file names decomposed, annotation files are mostly composed. A path in ASCII is returned without a look at the disk, and
    so is one that exists; ``path`` itself when there is no such file.
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
    """Composed (NFC) name -> name on disk, of the entries of ``folder``; empty if it cannot be listed."""
    try:
        return list_composed(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=16)
def list_composed(folder: str, modified: int) -> dict[str, str]:
    """As ``composed_names``; listed again once the folder is ``modified``."""
    return {unicodedata.normalize('NFC', name): name for name in sorted(os.listdir(folder), reverse=True)}


def similar_name(path: str | os.PathLike, suffixes: Collection[str] = ()) -> str:
    """The end of a sentence that names the file beside ``path`` whose name differs only in upper and lower case, or in its suffix, which is
    one of ``suffixes`` then; or ''.
    """
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
    """Name in lower case -> name on disk; listed again once the folder is ``modified``."""
    return {n.casefold(): n for n in sorted(os.listdir(folder), reverse=True) if not n.startswith('.')}


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_json(path: str | os.PathLike, data: Any, indent: int | None = None) -> None:
    """Write ``data`` as JSON at ``path``, whole or not at all.

    Raises:
        ValueError: ``data`` holds NaN or an infinity, which JSON has no way to write.
    """
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        json.dump(data, file, indent=indent, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
