"""Weights by URL: fetched once, whole or not at all, into torch's own cache."""
from __future__ import annotations

import hashlib
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch
from mmengine.dist import barrier, is_main_process

from detkit.files import atomic_path
from detkit.registry import ConfigError, did_you_mean

CHUNK = 1 << 20
HASHED_HOSTS = ('download.pytorch.org',)   # their file names end in the first digits of the SHA-256


def cache_folder() -> Path:
    """``$TORCH_HOME/hub/checkpoints``, where torch and mmengine keep their downloads too."""
    return Path(torch.hub.get_dir()) / 'checkpoints'


def fetch(url: str) -> Path:
    """The local copy of ``url``, downloaded when there is none yet. One process downloads, the others wait.

    Raises:
        ConfigError: the download failed; it says why, and where a file fetched by hand belongs.
    """
    parts = urlparse(url)
    if parts.scheme == 'file':
        return Path(unquote(parts.path))
    target = cache_folder() / Path(unquote(parts.path)).name
    if not target.is_file() and is_main_process():
        try:
            download(url, target)
        except (OSError, ValueError) as error:   # urllib's errors are OSErrors
            reason = error.reason if type(error) is urllib.error.URLError else error
            raise ConfigError(f'cannot download {url}: {reason}. Fetch it by other means and put it at {target}.') from error
    barrier()
    if not target.is_file():
        raise ConfigError(f'{url} was not downloaded to {target}.')
    return target


def download(url: str, target: Path) -> None:
    """Fetch ``url`` to ``target``, checking length and, where the name carries it, the hash."""
    print(f'downloading {url} to {target}', file=sys.stderr)
    digest, received = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={'User-Agent': 'detkit'})
    with urllib.request.urlopen(request, timeout=60) as response, atomic_path(target) as temporary, open(temporary, 'wb') as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
        expected = response.headers.get('Content-Length')
        if expected is not None and int(expected) != received:
            raise ValueError(f'the connection ended after {received} of {expected} bytes')
        wanted = re.search(r'-([0-9a-f]{8,})\.\w+$', target.name)
        if urlparse(url).hostname in HASHED_HOSTS and wanted and not digest.hexdigest().startswith(wanted[1]):
            raise ValueError(f'the file is not what its name promises (SHA-256 begins {digest.hexdigest()[:8]})')


def resolve_source(source: str) -> str:
    """A path or URL for ``torchvision://resnet50``, ``open-mmlab://x`` and ``mmcls://x``; others stay as they are.

    Raises:
        ConfigError: an unknown name; with the nearest.
    """
    scheme, separator, name = source.partition('://')
    tables = {'torchvision': 'get_torchvision_models', 'modelzoo': 'get_torchvision_models',
              'open-mmlab': 'get_external_models', 'openmmlab': 'get_external_models', 'mmcls': 'get_mmcls_models'}
    if not separator or scheme not in tables:
        return os.path.expanduser(source)
    import mmengine.runner.checkpoint as names
    known = getattr(names, tables[scheme])()
    if name not in known:
        raise ConfigError(f"{scheme}:// has no '{name}'.{did_you_mean(name, known)}")
    return known[name]
