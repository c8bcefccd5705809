"""Who imports whom, and what importing costs: the floors of docs/design.md, kept by import-linter."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

NAMES_NOTHING = {'utils', 'util', 'misc', 'common', 'helper', 'helpers', 'tools', 'core'}
HEAVY = {'torch', 'torchvision', 'mmengine', 'cv2', 'numpy', 'scipy', 'matplotlib', 'albumentations', 'optuna'}


def lint(folder: Path) -> subprocess.CompletedProcess:
    command = 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports("setup.cfg", no_cache=True))'
    return subprocess.run([sys.executable, '-c', command], cwd=folder, capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': str(folder)})


def modules_after(statement: str, root: Path) -> set[str]:
    """Top-level names of everything that a fresh interpreter has loaded after ``statement``."""
    command = f'{statement}\nimport sys; print(*{{name.partition(".")[0] for name in sys.modules}})'
    done = subprocess.run([sys.executable, '-c', command], cwd=root, capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root / 'detkit', tmp_path / 'detkit', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(root / 'setup.cfg', tmp_path)
    return tmp_path


def test_no_floor_imports_a_higher_one(root: Path):
    done = lint(root)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(('place', 'line', 'said'), [
    ('data/bad.py', 'from detkit.models.preprocess import DetDataPreprocessor', 'detkit.data is not allowed to import detkit.models'),
    ('ops/bad.py', 'def late():\n    from detkit.engine import train\n    return train',
     'detkit.ops is not allowed to import detkit.engine'),
    ('losses/bad.py', 'import detkit.tasks.coders', 'detkit.losses is not allowed to import detkit.tasks')])
def test_an_import_upwards_or_sideways_breaks_the_contract(copy: Path, place: str, line: str, said: str):
    (copy / 'detkit' / place).write_text(f'{line}\n')
    done = lint(copy)
    assert done.returncode == 1
    assert said in ' '.join(done.stdout.split())


def test_no_modules_import_each_other_in_a_circle():
    """Nor inside functions, nor for type checkers. The front door, ``detkit`` itself, is left out: it names what lies behind it."""
    graph = grimp.build_graph('detkit', cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) - {'detkit'} for module in graph.modules - {'detkit'}}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()                   # raises CycleError with the circle


def test_a_module_without_a_floor_breaks_the_contract(copy: Path):
    (copy / 'detkit' / 'nowhere.py').write_text('"""A module that no floor names."""\n')
    done = lint(copy)
    assert done.returncode == 1
    assert 'detkit.nowhere' in done.stdout + done.stderr or '- nowhere' in done.stdout + done.stderr


def test_importing_detkit_loads_neither_torch_nor_mmengine(root: Path):
    assert not modules_after('import detkit', root) & HEAVY


@pytest.mark.parametrize('module', ['detkit.cli', 'detkit.catalogue', 'detkit.files', 'detkit.environment', 'detkit.quickstart'])
def test_what_a_tool_imports_before_it_parses_is_light(module: str, root: Path):
    assert not modules_after(f'import {module}', root) & HEAVY


@pytest.mark.parametrize('module', ['detkit.registry', 'detkit.config', 'detkit.zoo'])
def test_names_and_recipes_can_be_read_without_torch(module: str, root: Path):
    assert not modules_after(f'import {module}', root) & {'torch', 'torchvision', 'cv2'}


def test_every_module_is_named_for_what_it_holds(root: Path):
    modules = [path.relative_to(root) for path in (root / 'detkit').rglob('*') if path.suffix == '.py' or path.is_dir()]
    assert [str(path) for path in modules if path.stem in NAMES_NOTHING] == []
