"""OpenMP thread settings for torch on the CPU. Standard library only.

OpenMP reads them once, when torch is imported; ``import detkit`` sets them if torch is not imported yet. Variables that the user has set
are not changed. benchmarks/threads.py measures the effect.
"""
from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

# How often a waiting thread checks for work before it sleeps; libgomp uses this value if there are more threads than CPUs. libgomp's
# usual value, 300000, keeps a core busy for milliseconds. Other users of that core (a data-loader worker, a second training) then wait,
# and so does the thread that the others wait for. With a value of 0, waking up takes longer than small operations.
SPIN_COUNT = 1000


def set_thread_variables(environ: MutableMapping[str, str] = os.environ, root: Path = Path('/')) -> dict[str, str]:
    """Set GOMP_SPINCOUNT, and OMP_NUM_THREADS if a cgroup limits the CPUs; return the variables that were set.

    ``root`` contains ``proc`` and ``sys``. GOMP_SPINCOUNT is not set if GOMP_SPINCOUNT or OMP_WAIT_POLICY is already set.
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
    """Return the number of CPUs that the process may run on, without CPU quotas."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def cpu_quota(root: Path = Path('/')) -> float:
    """Return the number of CPUs that the cgroups of this process allow (``docker --cpus``, Kubernetes limits); infinity if unlimited."""
    try:
        lines = (root / 'proc/self/cgroup').read_text().splitlines()
    except OSError:                                        # not Linux, or no /proc
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        mount = root / 'sys/fs/cgroup' / ('cpu' if controllers else '')
        group = mount / path.lstrip('/')
        for folder in (group, *group.parents):             # the limit of a parent also applies to its children
            quotas.append(version_1_quota(folder) if controllers else version_2_quota(folder))
            if folder == mount:
                break
    return min(quotas)


def version_2_quota(folder: Path) -> float:
    """Return the quota in ``cpu.max``: '150000 100000' means 1.5 CPUs, 'max 100000' unlimited."""
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
    """Return a log line for a run on a CPU if torch was imported before ``SET_VARIABLES`` were set, else None."""
    if not TORCH_WAS_LOADED or not SET_VARIABLES:
        return None
    settings = ' '.join(f'{name}={value}' for name, value in SET_VARIABLES.items())
    return (f'torch was imported before detkit, too late for {settings}: steps are much slower when other programs use the CPU. '
            f'Import detkit first, or set them before Python starts')


TORCH_WAS_LOADED = 'torch' in sys.modules
SET_VARIABLES = set_thread_variables()
