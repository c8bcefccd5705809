"""Time ``import detkit`` and ``--help`` of each tool.

    python benchmarks/import_time.py --repeats 5

Each line is the best of several new Python processes (the first may read from disk), and the difference to its base.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from measure import ROOT, headline

IMPORTS = {
    'python -c pass': ('pass', None),
    'import torch': ('import torch', 'python -c pass'),
    'import torch, detkit': ('import torch, detkit', 'import torch'),
    'import torch, detkit.registry': ('import torch, detkit.registry', 'import torch'),
    'import torch, detkit.config': ('import torch, detkit.config', 'import torch'),
    'import torch, detkit.apis': ('import torch, detkit.apis', 'import torch'),
    'import detkit': ('import detkit', 'python -c pass'),
}


def best(command: list[str], repeats: int) -> float:
    """Return the seconds of the fastest run."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=5, help='fresh interpreters for each line (default: 5)')
    args = parser.parse_args()
    print(headline(threads=1), '\n')
    seconds: dict[str, float] = {}
    for name, (statement, base) in IMPORTS.items():
        seconds[name] = best([sys.executable, '-c', statement], args.repeats)
        print(f'{name:<34}{seconds[name]:7.3f} s' + (f'   {seconds[name] - seconds[base]:+.3f} s beyond {base}' if base else ''))
    for tool in sorted((ROOT / 'tools').glob('*.py')):
        print(f'{f"tools/{tool.name} --help":<34}{best([sys.executable, str(tool), "--help"], args.repeats):7.3f} s')


if __name__ == '__main__':
    main()
