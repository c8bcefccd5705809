"""Settings of OpenMP's threads, which torch computes with on a CPU. Standard library only.

OpenMP reads them once, when torch is loaded; ``import detkit`` sets them if torch is not loaded yet. A variable that the user has set is
left alone. benchmarks/threads.py has the times.
"""
from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

# How often a waiting thread looks for work before it sleeps; libgomp's own choice where it has more threads than CPUs. Its usual 300000
# keep a core busy for milliseconds: whoever else needs that core, a data-loader worker or a second training, waits, and so does the
# thread that the others wait for. Without any looking, waking up costs more than small operations take.
SPIN_COUNT = 1000


def set_thread_variables(environ: MutableMapping[str, str] = os.environ, root: Path = Path('/')) -> dict[str, str]:
    """Set GOMP_SPINCOUNT, and OMP_NUM_THREADS where a cgroup grants fewer CPUs than there are; return what was set.

    ``root`` holds ``proc`` and ``sys``. Neither GOMP_SPINCOUNT nor OMP_WAIT_POLICY is changed if one of them is set.
    """
    chosen = {}
    if 'GOMP_SPINCOUNT' not in environ and 'OMP_WAIT_POLICY' not in environ:
        chosen['GOMP_SPINCOUNT'] = str(SPIN_COUNT)
    quota = cpu_quota(root)
    if quota < usable_cpus() and 'OMP_NUM_THREADS' not in environ:
        chosen['OMP_NUM_THREADS'] = str(max(1, math.floor(quota)))
    environ.update(chosen)
    return chosen


def usable_cpus() -> int:
    """Return the number of CPUs that the process may run on; a quota does not change it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def cpu_quota(root: Path = Path('/')) -> float:
    """Return the CPUs that the cgroups of this process grant (``docker --cpus``, Kubernetes limits); infinity without a limit."""
    try:
        lines = (root / 'proc/self/cgroup').read_text().splitlines()
    except OSError:                                        # no Linux, or no /proc
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        mount = root / 'sys/fs/cgroup' / ('cpu' if controllers else '')
        group = mount / path.lstrip('/')
        for folder in (group, *group.parents):             # a limit of a parent holds for its children
            quotas.append(version_1_quota(folder) if controllers else version_2_quota(folder))
            if folder == mount:
                break
    return min(quotas)


def version_2_quota(folder: Path) -> float:
    """``cpu.max``: '150000 100000' grants 1.5 CPUs, 'max 100000' any number."""
    try:
        quota, period = (folder / 'cpu.max').read_text().split()
        return math.inf if quota == 'max' else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def version_1_quota(folder: Path) -> float:
    try:
        quota, period = (int((folder / f'cpu.cfs_{name}_us').read_text()) for name in ('quota', 'period'))
        return math.inf if quota < 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def late_import_note() -> str | None:
    """Return a line for the log of a run on a CPU if torch was loaded before ``SET_VARIABLES`` were set, else None."""
    if not TORCH_WAS_LOADED or not SET_VARIABLES:
        return None
    settings = ' '.join(f'{name}={value}' for name, value in SET_VARIABLES.items())
    return (f'torch was imported before detkit, too late for {settings}: steps are much slower when other programs use the CPU. '
            f'Import detkit first, or set them before Python starts')


TORCH_WAS_LOADED = 'torch' in sys.modules
SET_VARIABLES = set_thread_variables()
