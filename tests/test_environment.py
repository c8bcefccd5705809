"""collect-env: complete, and silent about persons."""
from __future__ import annotations

import builtins
import getpass
import platform
from pathlib import Path

from detkit import environment


def test_the_report_names_what_decides_how_things_run():
    import cv2
    import torch
    facts = environment.collect_env()
    assert facts['torch'] == torch.__version__.split('+')[0] or facts['torch'] == torch.__version__
    assert facts['python'].startswith(platform.python_version())
    assert f'cv2 {cv2.__version__}' in facts['opencv'] and 'opencv' in facts['opencv'].split('from')[1]
    assert 'cores usable' in facts['cpu'] and 'CPU kernels' in facts['pytorch build']
    assert {'mmengine', 'pycocotools', 'faster-coco-eval', 'albumentations', 'lmdb', 'optuna', 'gpu'} <= set(facts)


def test_no_user_host_or_path_is_in_it(monkeypatch):
    monkeypatch.setenv('DETKIT_TOKEN', 'secret-value')
    text = environment.report()
    assert 'secret-value' not in text and str(Path.home()) not in text
    assert platform.node() not in text.split() and str(Path(environment.__file__).parent) not in text
    user = getpass.getuser()
    assert user == 'root' or user not in text


def test_both_opencv_distributions_are_reported_as_a_clash(monkeypatch):
    versions = {'opencv-python': '4.12.0', 'opencv-python-headless': '5.0.0'}
    monkeypatch.setattr(environment, 'installed', lambda name: versions.get(name, 'not installed'))
    assert 'both write one folder and their versions differ' in environment.opencv()
    versions['opencv-python'] = '5.0.0'
    assert environment.opencv().endswith('both write one folder')


def test_a_package_that_cannot_be_imported_does_not_stop_the_report(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name in ('cv2', 'torch'):
            raise ImportError('libGL.so.1: cannot open /home/someone/lib/libGL.so.1')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', broken)
    facts = environment.collect_env()
    assert facts['opencv'].startswith('cv2 cannot be imported: ImportError: libGL.so.1: cannot open <path>')
    assert facts['pytorch build'].startswith('cannot be imported') and facts['gpu'].startswith('cannot be asked')
