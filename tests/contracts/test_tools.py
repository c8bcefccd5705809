"""The doors: each ``tools/*.py`` and each command answers ``--help`` at once, which means before it imports anything heavy."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from detkit.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.name for path in (ROOT / 'tools').glob('*.py'))
HEAVY = {'torch', 'torchvision', 'mmengine', 'cv2', 'numpy', 'scipy', 'matplotlib', 'albumentations', 'optuna', 'pycocotools'}


def ask(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-X', 'importtime', *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def imported(done: subprocess.CompletedProcess) -> set[str]:
    """Top-level names in the report of ``-X importtime``."""
    return {match[1] for match in re.finditer(r'^import time:[ \d|]+\|\s*([\w]+)', done.stderr, re.M)}


@pytest.mark.parametrize('tool', TOOLS)
def test_a_tool_explains_itself_without_importing_torch(tool: str):
    done = ask(f'tools/{tool}', '--help')
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.startswith('usage: ')
    assert 'argparse' in imported(done)   # the report is there to be read
    assert not imported(done) & HEAVY


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_explains_itself_without_importing_torch(command: str):
    done = ask('-m', 'detkit.cli', command, '--help')
    assert done.returncode == 0, done.stderr[-800:]
    assert f'detkit {command}' in done.stdout
    assert not imported(done) & HEAVY


def test_every_command_has_its_tool_and_every_tool_its_command():
    assert [tool.removesuffix('.py').replace('_', '-') for tool in TOOLS] == sorted(COMMANDS)


def test_a_wrong_argument_ends_with_status_2_and_the_usage():
    done = ask('tools/train.py', 'x.py', '--no-such-option')
    assert done.returncode == 2
    assert 'unrecognized arguments: --no-such-option' in done.stderr
