"""Files: where data lies, and writing so that a file is whole or absent, whatever interrupts it.

Standard library only, so that every floor and every tool may use it.
"""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes ``path``'s place when the block ends without an exception.

    The suffix is kept (writers choose their format by it); the folder is made. After an exception the temporary file is
    gone and an older file at ``path`` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.stem[:60]}.', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~current_umask())   # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def find_data(path: str | os.PathLike) -> Path:
    """``path`` as given, or, where it does not exist, below ``$DETKIT_DATA_ROOT`` (``data/coco`` is ``coco`` there).

    Gives back ``path`` when neither exists.
    """
    given, root = Path(path), os.environ.get('DETKIT_DATA_ROOT')
    if given.exists() or given.is_absolute() or not root:
        return given
    inner = given.parts[1:] if given.parts[:1] == ('data',) else given.parts
    moved = Path(root, *inner)
    return moved if moved.exists() else given


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
