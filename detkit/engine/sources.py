"""Find weights by name, URL or path."""
from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import mmengine.runner.checkpoint as mmcheckpoint
import torch
from mmengine.dist import barrier, is_main_process

from detkit.download import DownloadError, digest, download
from detkit.registry import ConfigError, did_you_mean

TABLES = {'torchvision': 'get_torchvision_models', 'modelzoo': 'get_torchvision_models', 'open-mmlab': 'get_external_models',
          'openmmlab': 'get_external_models', 'mmcls': 'get_mmcls_models'}   # mmengine's tables of model names
HASHED_HOSTS = ('download.pytorch.org',)   # their file names end with the first digits of the SHA-256


def locate(source: str | Path) -> Path:
    """Return the local file of ``source``: a path, an http(s) or file URL, ``torchvision://resnet50``, ``open-mmlab://...``.

    Raises:
        ConfigError: the name is unknown, or the download failed; the message has the reason and where to put the file by hand.
    """
    source = resolve(str(source))
    return fetch(source) if re.match(r'(https?|file)://', source) else Path(source)


def resolve(source: str) -> str:
    """Return the URL of a name such as ``torchvision://resnet50``; other sources are returned with ``~`` expanded."""
    scheme, separator, name = source.partition('://')
    if not separator or scheme not in TABLES:
        return os.path.expanduser(source)
    known = getattr(mmcheckpoint, TABLES[scheme])()
    if name not in known:
        raise ConfigError(f"{scheme}:// has no '{name}'.{did_you_mean(name, known)}")
    return known[name]


def fetch(url: str) -> Path:
    """Return the copy of ``url`` in torch's cache; download it if it is missing. One process downloads, the others wait."""
    parts = urlparse(url)
    if parts.scheme == 'file':
        return Path(unquote(parts.path))
    target = Path(torch.hub.get_dir()) / 'checkpoints' / Path(unquote(parts.path)).name
    if not target.is_file() and is_main_process():
        try:
            check_name(download(url, target), parts.hostname)
        except DownloadError as error:
            raise ConfigError(str(error)) from error
    barrier()
    if not target.is_file():
        raise ConfigError(f'{url} was not downloaded to {target}.')
    return target


def check_name(path: Path, host: str | None) -> None:
    """Remove the file and raise ConfigError if its SHA-256 does not match the digits in its name."""
    promised = re.search(r'-([0-9a-f]{8,})\.\w+$', path.name)
    if host in HASHED_HOSTS and promised and not digest(path).startswith(promised[1]):
        path.unlink()
        raise ConfigError(f'{path.name} from {host} is not what its name promises. It was removed; try again.')
