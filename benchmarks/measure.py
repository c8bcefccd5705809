"""Shared code of the benchmarks: interleaved timing, and a header with machine, versions and command."""
from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))   # so that it runs from a checkout that is not installed

from detkit.environment import commit, cpu

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Times:
    wall: list[float] = field(default_factory=list)   # seconds of each repeat
    cpu: list[float] = field(default_factory=list)    # CPU seconds of each repeat, all threads: less affected by other load


def headline(threads: int, device: str = 'cpu') -> str:
    """Return machine, versions, commit and command, without which timings cannot be compared."""
    import torch
    machine = cpu() if device == 'cpu' else torch.cuda.get_device_name(device)
    versions = ', '.join(f'{name} {version(name)}' for name in ('torch', 'torchvision', 'mmengine', 'numpy'))
    return (f'machine: {machine}; {threads} threads; load average {os.getloadavg()[0]:.1f}\n'
            f'versions: Python {sys.version.split()[0]}, {versions}\ndetkit: {commit().removeprefix(" at ") or version("detkit")}\n'
            f'command: python {" ".join(sys.argv)}')


def interleaved(steps: dict[str, Callable[[], object]], repeats: int, warmup: int, wait: Callable[[], None]) -> dict[str, Times]:
    """Time the steps alternately for ``repeats`` rounds, so that load changes affect all of them. ``wait`` synchronizes the device."""
    times = {name: Times() for name in steps}
    for i in range(warmup + repeats):
        for name, step in steps.items():
            wait()
            wall, processor = time.perf_counter(), time.process_time()
            step()
            wait()
            if i >= warmup:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - processor)
    return times


def table(times: dict[str, Times], base: str, images: int = 0) -> str:
    """Return a table of median times in milliseconds (and images per second for ``images`` per repeat), and the ratio to ``base``: the
    median over rounds, its quartiles, and the ratio of CPU time."""
    width = max(map(len, times))
    speed = f'{"images/s":>9}  ' if images else ''
    lines = [f'{"":<{width}}  {"wall ms":>9}  {"cpu ms":>9}  {speed}{"ratio":>6}  {"quartiles":>13}  {"cpu ratio":>9}']
    for name, t in times.items():
        ratios = [a / b for a, b in zip(t.wall, times[base].wall)]
        low, _, high = statistics.quantiles(ratios, n=4, method='inclusive') if len(ratios) > 1 else ratios * 3
        processor = statistics.median(a / b for a, b in zip(t.cpu, times[base].cpu))
        wall = statistics.median(t.wall)
        speed = f'{images / wall:9.2f}  ' if images else ''
        lines.append(f'{name:<{width}}  {1000 * wall:9.1f}  {1000 * statistics.median(t.cpu):9.1f}  {speed}'
                     f'{statistics.median(ratios):6.3f}  {low:6.3f}-{high:6.3f}  {processor:9.3f}')
    return '\n'.join(lines)
