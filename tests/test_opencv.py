"""A broken OpenCV is told in one line with its remedy. Broken ones are made: a folder ``cv2`` and metadata in front of the real ones."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detkit.opencv import HEADLESS, digest, mending, newest

ROOT = Path(__file__).resolve().parent.parent


def environment(folder: Path, module: str, **versions: str) -> dict[str, str]:
    """Variables with which Python sees this ``cv2`` and these versions of ``opencv_python`` and ``opencv_python_headless``."""
    (folder / 'cv2.py').write_text(module)
    for name, version in versions.items():
        info = folder / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    return {**os.environ, 'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}'}


def python(program: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', program], env=variables, capture_output=True, text=True, timeout=60)


NO_LIBGL = "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"


def test_a_missing_libgl_is_told_with_the_command_that_mends_it(tmp_path: Path):
    done = python('import detkit.opencv', environment(tmp_path, NO_LIBGL, opencv_python='4.12.0.88', opencv_python_headless='4.12.0.88'))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith('ImportError: OpenCV cannot be imported (libGL.so.1: cannot open shared object file')
    assert last.endswith('--force-reinstall --no-deps opencv-python-headless==4.12.0.88')


def test_a_tool_ends_with_that_line_alone(tmp_path: Path):
    variables = environment(tmp_path, NO_LIBGL, opencv_python='4.12.0.88')
    done = subprocess.run([sys.executable, str(ROOT / 'tools/infer.py'), 'x.jpg', 'rtmdet_nano_bccd', 'x.pth'], env=variables,
                          capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert done.stderr.startswith('detkit: error: OpenCV cannot be imported (libGL.so.1')


@pytest.mark.parametrize('module', ['detkit.engine', 'detkit.structures', 'detkit.visualization', 'detkit.apis'])
def test_every_door_to_opencv_tells_it(tmp_path: Path, module: str):
    program = f'import {module}\nfrom detkit.apis import DetInferencer'
    done = python(program, environment(tmp_path, NO_LIBGL, opencv_python='4.12.0.88'))
    assert done.stderr.strip().splitlines()[-1].startswith('ImportError: OpenCV cannot be imported')


def test_two_versions_in_one_folder_are_told_in_one_line(tmp_path: Path):
    variables = environment(tmp_path, '', opencv_python='4.12.0.88', opencv_python_headless='5.0.0.93')
    done = python('from detkit.opencv import cv2', variables)
    assert done.returncode == 0
    assert done.stderr.count('\n') == 1
    assert 'opencv-python 4.12.0.88 and opencv-python-headless 5.0.0.93 share one folder and differ in version' in done.stderr
    assert 'opencv-python==5.0.0.93 && ' in done.stderr
    assert done.stderr.rstrip().endswith('opencv-python-headless==5.0.0.93')


def test_equal_versions_are_silent(tmp_path: Path):
    done = python('from detkit.opencv import cv2', environment(tmp_path, '', opencv_python='5.0.0.93', opencv_python_headless='5.0.0.93'))
    assert (done.returncode, done.stderr) == (0, '')


def test_versions_are_compared_as_numbers():
    assert newest({'a': '4.9.0.80', 'b': '4.12.0.88'}) == '4.12.0.88'
    assert newest({}) is None


def test_the_headless_build_is_written_last():
    assert mending({}) == [HEADLESS]
    assert mending({'opencv-python': '5.0.0.93'}) == [f'{HEADLESS}==5.0.0.93']
    assert mending({HEADLESS: '5.0.0.93', 'opencv-python': '4.12.0.88'}) == ['opencv-python==5.0.0.93', f'{HEADLESS}==5.0.0.93']
    assert mending({HEADLESS: '4.12.0.88', 'opencv-python': '5.0.0.93'}) == [f'{HEADLESS}==5.0.0.93']


def test_a_digest_is_written_as_in_pips_record():
    assert digest(b'') == '47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU'   # of the empty file, in every RECORD with an empty __init__.py
