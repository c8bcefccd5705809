"""Read text files from various editors: with or without a byte-order mark, with any line ends."""
from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from detkit.data.formats.faults import BrokenAnnotations

MARKS = {codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


def read_text(path: Path, kind: str = 'text', remedy: str = '') -> str:
    """Return the content of a file in UTF-8, or in UTF-16 with a byte-order mark (PowerShell, Excel), without the mark.

    Raises:
        BrokenAnnotations: names the file and the first byte that is not UTF-8.
    """
    try:
        data = path.read_bytes()
        return data.decode(MARKS.get(data[:2], 'utf-8')).lstrip('\ufeff')
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        reason, remedy = f'byte {error.start} is not {error.encoding.upper()}', 'Save the file as UTF-8.'
    raise BrokenAnnotations(f'{path}: cannot be read as {kind} ({reason}). {remedy}'.strip())


def read_lines(path: Path, kind: str = 'text', remedy: str = '') -> Iterator[tuple[int, str]]:
    """Yield (number from 1, stripped line) of each non-blank line; accepts line ends of Windows, Linux and old Macs.

    Raises:
        BrokenAnnotations: as ``read_text``.
    """
    for number, line in enumerate(io.StringIO(read_text(path, kind, remedy), newline=None), 1):
        if line.strip():
            yield number, line.strip()
