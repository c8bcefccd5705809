"""Thread variables: set before torch reads them, below a cgroup's quota, and never over the user's choice."""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detkit import threads
from detkit.threads import cpu_quota, late_import_note, set_thread_variables, version_2_quota

NAMES = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS')


def in_fresh_process(root: Path, program: str, **variables: str) -> dict:
    """What ``program`` prints as JSON in a Python process whose thread variables are ``variables``."""
    env = {k: v for k, v in os.environ.items() if k not in NAMES} | variables | {'PYTHONPATH': str(root)}
    done = subprocess.run([sys.executable, '-c', program], cwd=root, env=env, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


SHOW = f'import json, os; print(json.dumps({{k: os.environ.get(k) for k in {NAMES}}}))'


def test_importing_detkit_bounds_the_spinning(root: Path):
    assert in_fresh_process(root, f'import detkit; {SHOW}')['GOMP_SPINCOUNT'] == '1000'


@pytest.mark.parametrize('chosen', [{'GOMP_SPINCOUNT': '7'}, {'OMP_WAIT_POLICY': 'ACTIVE'}])
def test_a_choice_of_the_user_wins(root: Path, chosen: dict[str, str]):
    seen = in_fresh_process(root, f'import detkit; {SHOW}', **chosen, OMP_NUM_THREADS='3')
    assert seen == {**dict.fromkeys(NAMES), **chosen, 'OMP_NUM_THREADS': '3'}


def test_the_command_line_sets_them_before_torch_and_workers_have_them(root: Path):
    program = '''
import json, os, sys
import detkit.cli
early = 'torch' not in sys.modules and os.environ['GOMP_SPINCOUNT']
import torch
from functools import partial
from detkit.engine.loaders import start_worker

class Settings(torch.utils.data.Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        import cv2
        return os.environ['GOMP_SPINCOUNT'], torch.get_num_threads(), cv2.getNumThreads()

loader = torch.utils.data.DataLoader(Settings(), num_workers=1, batch_size=None, worker_init_fn=partial(start_worker, None))
print(json.dumps([early, *next(iter(loader))]))'''
    assert in_fresh_process(root, program) == ['1000', '1000', 1, 1]


def test_torch_takes_the_number_of_the_quota(root: Path, tmp_path: Path):
    cgroup(tmp_path, '0::/', {'': '100000 100000'})
    program = f'''
import json, pathlib
from detkit import threads
threads.usable_cpus = lambda: 8
chosen = threads.set_thread_variables(root=pathlib.Path({str(tmp_path)!r}))
import torch
print(json.dumps([chosen, torch.get_num_threads()]))'''
    assert in_fresh_process(root, program) == [{'OMP_NUM_THREADS': '1'}, 1]


def cgroup(root: Path, line: str, limits: dict[str, str]) -> None:
    """Write the files in which Linux tells a process its group (``line``) and groups their limits (cpu.max by folder)."""
    (root / 'proc/self').mkdir(parents=True)
    (root / 'proc/self/cgroup').write_text(f'{line}\n')
    for folder, limit in limits.items():
        (root / 'sys/fs/cgroup' / folder).mkdir(parents=True, exist_ok=True)
        (root / 'sys/fs/cgroup' / folder / 'cpu.max').write_text(f'{limit}\n')


@pytest.mark.parametrize(('limits', 'quota'), [
    ({}, math.inf), ({'': 'max 100000'}, math.inf), ({'a/b': '150000 100000'}, 1.5), ({'a/b': 'max 100000', 'a': '50000 100000'}, 0.5),
    ({'a/b': '400000 100000', '': '300000 100000'}, 3.), ({'other': '100000 100000'}, math.inf), ({'a/b': 'nonsense'}, math.inf)])
def test_the_smallest_limit_of_a_group_and_its_parents_counts(tmp_path: Path, limits: dict[str, str], quota: float):
    cgroup(tmp_path, '0::/a/b', limits)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(('quota', 'expected'), [(-1, math.inf), (250000, 2.5)])
def test_limits_of_the_first_version_of_cgroups_are_read(tmp_path: Path, quota: int, expected: float):
    cgroup(tmp_path, '5:memory:/a\n4:cpu,cpuacct:/a\n0::/a', {})
    folder = tmp_path / 'sys/fs/cgroup/cpu'
    folder.mkdir(parents=True)                             # a container sees its own group as the top
    (folder / 'cpu.cfs_quota_us').write_text(f'{quota}\n')
    (folder / 'cpu.cfs_period_us').write_text('100000\n')
    assert cpu_quota(tmp_path) == expected


def test_without_cgroups_there_is_no_limit(tmp_path: Path):
    assert cpu_quota(tmp_path) == math.inf and version_2_quota(tmp_path) == math.inf


@pytest.mark.parametrize(('limit', 'number'), [
    ('250000 100000', '2'), ('50000 100000', '1'), ('800000 100000', None), ('max 100000', None)])
def test_threads_stay_below_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, number: str | None):
    monkeypatch.setattr(threads, 'usable_cpus', lambda: 8)
    cgroup(tmp_path, '0::/', {'': limit})
    environ = {'OMP_WAIT_POLICY': 'PASSIVE'}
    assert set_thread_variables(environ, tmp_path).get('OMP_NUM_THREADS') == number == environ.get('OMP_NUM_THREADS')
    environ = {'OMP_NUM_THREADS': '5'}
    set_thread_variables(environ, tmp_path)
    assert environ == {'OMP_NUM_THREADS': '5', 'GOMP_SPINCOUNT': '1000'}


@pytest.mark.parametrize(('was_loaded', 'set_variables', 'expected'), [
    (True, {'GOMP_SPINCOUNT': '1000'}, 'too late for GOMP_SPINCOUNT=1000'), (True, {}, None), (False, {'GOMP_SPINCOUNT': '1000'}, None)])
def test_a_run_is_told_when_torch_came_first(monkeypatch: pytest.MonkeyPatch, was_loaded: bool, set_variables: dict, expected: str | None):
    monkeypatch.setattr(threads, 'TORCH_WAS_LOADED', was_loaded)
    monkeypatch.setattr(threads, 'SET_VARIABLES', set_variables)
    note = late_import_note()
    assert note is None if expected is None else expected in note


def test_what_is_noted_follows_the_order_of_imports(root: Path):
    show = 'import json; from detkit.threads import late_import_note; print(json.dumps(late_import_note()))'
    assert 'Import detkit first' in in_fresh_process(root, f'import torch; import detkit; {show}')
    assert in_fresh_process(root, f'import detkit; import torch; {show}') is None
