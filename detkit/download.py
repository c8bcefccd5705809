"""Download files: resume partial downloads, check them, write them atomically; only one process downloads a file at a time.

Only the standard library and tqdm are used, so that weights, datasets and the model zoo share one downloader.
"""
from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from detkit.locks import file_lock

CHUNK = 1 << 18
TIMEOUT = 60            # seconds without data
ROOM = 1.05             # required free disk space relative to the file size
USER_AGENT = 'detkit (https://pypi.org/project/detkit)'


class DownloadError(OSError):
    """A download failed; the message says what to do. The partial file is kept."""


def download(url: str, target: str | os.PathLike, sha256: str = '', retries: int = 4, progress: bool = True, pause: float = 1.) -> Path:
    """Download ``url`` to the file ``target``; an existing complete file is kept.

    A partial download is the file ``NAME.part``. The next try or call resumes it if the server supports ranges and the file has not
    changed (ETag or Last-Modified); otherwise it starts again. If another process downloads the same file, wait for it (``NAME.lock``),
    and resume its partial file if it was stopped. ``pause``: seconds before the second try, doubled before each further one.

    Raises:
        DownloadError: the server refuses, the connection fails ``retries`` times in a row without data, the disk is too small, or the
            file's SHA-256 is not ``sha256`` (the file is then removed).
        Busy: a process of another machine downloads the file.
    """
    target = Path(target)
    if target.is_file() and (not sha256 or digest(target) == sha256):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)

    def tell(owner: object) -> None:
        if progress:
            print(f'{target.name}: waiting for {owner}, which fetches it', file=sys.stderr)
    with file_lock(target.with_name(target.name + '.lock'), on_wait=tell):
        if target.is_file() and (not sha256 or digest(target) == sha256):       # another process downloaded it meanwhile
            return target
        return fetch(url, target, sha256, retries, progress, pause)


def fetch(url: str, target: Path, sha256: str, retries: int, progress: bool, pause: float) -> Path:
    part, failures, last = target.with_name(target.name + '.part'), 0, ''
    while failures < retries:
        before = part.stat().st_size if part.exists() else 0
        try:
            if receive(url, part, progress, target.name):
                return finish(url, part, target, sha256)
            last = 'the connection closed early'
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise DownloadError(f'{url}: the server answers {error.code} {error.reason}. Check the address, or fetch the file by other '
                                    f'means and put it at {target}.') from None
            last = f'{error.code} {error.reason}'
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            last = str(getattr(error, 'reason', '') or error)
        failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
        if failures < retries:
            time.sleep(pause * 2**max(failures - 1, 0))
    raise DownloadError(f'{url}: {last} ({retries} tries). Run it again{go_on_from(part)}, or fetch the file by other '
                        f'means and put it at {target}.')


def receive(url: str, part: Path, progress: bool, name: str) -> bool:
    """Append the missing bytes to ``part``; return True if the file is complete."""
    from tqdm import tqdm
    tag = part.with_name(part.name + '.tag')
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {'User-Agent': USER_AGENT}
    if have:
        headers |= {'Range': f'bytes={have}-', 'If-Range': tag.read_text()}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:      # no bytes after ours: the file is complete, or became smaller
            whole = (error.headers.get('Content-Range') or '').rpartition('/')[2] == str(have)
            if not whole:
                part.unlink()
            return whole
        raise
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get('Content-Length')
        total = have + int(length) if length else None
        check_room(part, (total or 0) - have)
        mark = response.headers.get('ETag') or response.headers.get('Last-Modified')
        tag.write_text(mark) if mark and not mark.startswith('W/') else tag.unlink(missing_ok=True)
        with open(part, 'ab' if have else 'wb') as file, tqdm(desc=name, total=total, initial=have, unit='B', unit_scale=True,
                                                               unit_divisor=1024, disable=not progress) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or part.stat().st_size == total


def finish(url: str, part: Path, target: Path, sha256: str) -> Path:
    """Check ``part`` and rename it to ``target``."""
    part.with_name(part.name + '.tag').unlink(missing_ok=True)
    found = digest(part) if sha256 else ''
    if found != sha256:
        part.unlink()
        raise DownloadError(f'{url}: what came has the SHA-256 {found}, expected {sha256}. It was removed; the file was changed or damaged '
                            f'on its way. Run it again, or look whether the address is still right.')
    os.replace(part, target)
    return target


def digest(path: Path) -> str:
    """Return the SHA-256 of a file as a hexadecimal string."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed * ROOM > free:
        raise DownloadError(f'{path.parent}: {free / 1e6:.0f} MB are free, {needed * ROOM / 1e6:.0f} MB are needed. Make room, or choose '
                            f'another place.')


def go_on_from(part: Path) -> str:
    return f' to go on from {part.stat().st_size} bytes' if part.exists() else ''
