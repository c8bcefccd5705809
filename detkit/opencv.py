"""Import OpenCV with a helpful error message if it is broken: ``from detkit.opencv import cv2``.

mmengine requires ``opencv-python``, albumentations requires ``opencv-python-headless``, and both install the same folder, ``cv2``: the
one installed last is used. ``opencv-python`` needs libGL, which slim containers lack; a folder with files of two versions fails in
unexpected ways. ``python -m detkit.opencv`` installs the headless build last, with equal versions of both.
"""
from __future__ import annotations

import base64
import hashlib
import importlib
import logging
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

HEADLESS = 'opencv-python-headless'
DISTRIBUTIONS = ('opencv-python', HEADLESS, 'opencv-contrib-python', 'opencv-contrib-python-headless')


def installed() -> dict[str, Distribution]:
    """Return the installed distributions that write the ``cv2`` folder, by name."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
    return found


def newest(versions: dict[str, str]) -> str | None:
    """Return the highest version, or None without versions."""
    return max(versions.values(), key=lambda v: [int(p) if p.isdigit() else 0 for p in v.split('.')], default=None)


def mending(versions: dict[str, str]) -> list[str]:
    """Return the requirements to reinstall, in order, so that all builds have one version and the headless one is installed last."""
    version = newest(versions)
    if version is None:
        return [HEADLESS]
    others = [f'{name}=={version}' for name, v in versions.items() if name != HEADLESS and v != version]
    return [*others, f'{HEADLESS}=={version}']


def install_command(requirement: str) -> list[str]:
    """Return the command that installs ``requirement`` in this environment: with pip, or with uv if there is no pip."""
    uv = shutil.which('uv')
    if find_spec('pip') is None and uv:
        return [uv, 'pip', 'install', '--python', sys.executable, '--reinstall', '--no-deps', requirement]
    return [sys.executable, '-m', 'pip', 'install', '--force-reinstall', '--no-deps', requirement]


def remedy(versions: dict[str, str]) -> str:
    """Return the command line that repairs this environment."""
    return ' && '.join(shlex.join(install_command(requirement)) for requirement in mending(versions))


def headless_in_place() -> bool:
    """Return whether the ``cv2`` folder has the headless build, byte for byte, and all distributions have one version."""
    found = installed()
    if HEADLESS not in found or len({d.version for d in found.values()}) > 1:
        return False
    libraries = [f for f in found[HEADLESS].files or () if f.parts[0] == 'cv2' and f.name.startswith('cv2.') and f.hash]
    return bool(libraries) and all(f.locate().is_file() and digest(f.locate().read_bytes()) == f.hash.value for f in libraries)


def digest(content: bytes) -> str:
    """Return the digest in the format of pip's RECORD."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()


def mend() -> None:
    """Install the headless build last and one version of all distributions; does nothing if this is already so.

    Raises:
        subprocess.CalledProcessError: the installer failed; its output gives the reason.
    """
    if headless_in_place():
        return
    for requirement in mending({name: d.version for name, d in installed().items()}):
        subprocess.run(install_command(requirement), check=True)


def load() -> ModuleType:
    """Return the module ``cv2``; warn in one line if its folder has files of two versions.

    Raises:
        ImportError: it is missing or broken; the message is one line with the repair command.
    """
    versions = {name: d.version for name, d in installed().items()}
    try:
        module = importlib.import_module('cv2')
    except ImportError as error:   # absent, libGL missing, or files of two versions mixed
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImportError(f'OpenCV cannot be imported ({reason}). This mends it: {remedy(versions)}', name='cv2') from error
    if len(set(versions.values())) > 1:
        listing = ' and '.join(f'{name} {version}' for name, version in versions.items())
        logging.getLogger(__name__).warning('detkit: %s share one folder and differ in version, which mixes their files. '
                                            'This mends it: %s', listing, remedy(versions))
    return module


if __name__ == '__main__':
    try:
        mend()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
elif TYPE_CHECKING:
    import cv2
else:
    cv2 = load()
