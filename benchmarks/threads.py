"""Time a training step with several OpenMP settings, with and without other busy processes on the machine.

    python benchmarks/threads.py
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/threads.py --settings default detkit

OpenMP reads its settings when torch is imported, so each setting has its own process. The processes alternate, one step at a time, so
that load changes affect all of them. Each setting is timed with contiguous and with channels_last weights. A ratio is relative to the
first line of a table, the median over rounds; below 1 is faster. ``detkit`` is what `import detkit` sets. Only prints numbers.
"""
from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from measure import ROOT, headline  # imports detkit, which sets the variables, before torch is imported

LIMITS = ('ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'OMP_NUM_THREADS')
VARIABLES = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')
SETTINGS: dict[str, dict[str, str]] = {
    'default': {'GOMP_SPINCOUNT': '300000'},              # libgomp's default; set explicitly, so that detkit does not change it
    'spin 100000': {'GOMP_SPINCOUNT': '100000'},
    'spin 10000': {'GOMP_SPINCOUNT': '10000'},
    'spin 3000': {'GOMP_SPINCOUNT': '3000'},
    'spin 1000': {'GOMP_SPINCOUNT': '1000'},
    'passive': {'OMP_WAIT_POLICY': 'PASSIVE'},
    'detkit': {}}
LAYOUTS = ('contiguous', 'channels_last')


# ------------------------------------------------------------------------------------------------- in each process
def serve(args: argparse.Namespace) -> None:
    """Train one step for each input line, in the memory format that the line names, and print the seconds."""
    import torch
    from train_step import detkit_step, draw

    from detkit.config import load_config
    from detkit.registry import MODELS, register_all_modules

    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules()
    size = (args.size[1], args.size[0])
    images, boxes, labels, masks = draw(args.batch, size, objects=10)
    data = images, boxes, [torch.zeros_like(of_image) for of_image in labels], masks          # every config has class 0
    steps = {}
    for layout in LAYOUTS:
        torch.manual_seed(0)
        cfg = load_config(ROOT / 'configs' / args.config)
        cfg.model.backbone.init_cfg = None
        if cfg.model.get('data_preprocessor'):
            cfg.model.data_preprocessor.batch_augments = None
        model = MODELS.build(cfg.model)
        model.init_weights()
        steps[layout] = detkit_step(model.train(), data, bf16=False, channels_last=layout == 'channels_last')
        steps[layout]()
    print('ready', torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        with realtime() if args.realtime else nullcontext():
            start = time.perf_counter()
            steps[line.strip()]()
            seconds = time.perf_counter() - start
        print(seconds, flush=True)


@contextmanager
def realtime() -> Iterator[None]:
    """Give all threads of this process priority over normal ones (Linux, as root)."""
    threads = [int(name) for name in os.listdir('/proc/self/task')]
    for policy, priority in ((os.SCHED_FIFO, 1), (os.SCHED_OTHER, 0)):
        for thread in threads:
            os.sched_setscheduler(thread, policy, os.sched_param(priority))
        if policy == os.SCHED_FIFO:
            yield


# ------------------------------------------------------------------------------------------------- in the main process
def start(setting: str, argv: list[str]) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | SETTINGS[setting]
    return subprocess.Popen([sys.executable, __file__, '--serve', *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env=environment)


def ask(process: subprocess.Popen, line: str) -> float:
    process.stdin.write(f'{line}\n')
    process.stdin.flush()
    return float(process.stdout.readline())


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` processes that compute without pause, like data-loader workers or another training."""
    processes = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(processes: dict[str, subprocess.Popen], rounds: int) -> dict[tuple[str, str], list[float]]:
    times: dict[tuple[str, str], list[float]] = {(setting, layout): [] for layout in LAYOUTS for setting in processes}
    for _ in range(rounds):
        for (setting, layout), seconds in times.items():
            seconds.append(ask(processes[setting], layout))
    return times


def table(times: dict[tuple[str, str], list[float]]) -> str:
    base = next(iter(times.values()))
    lines = [f'{"":<28}{"s/step":>8}{"ratio":>8}{"quartiles":>16}']
    for (setting, layout), seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, base)]
        low, middle, high = statistics.quantiles(ratios, n=4, method='inclusive') if len(ratios) > 1 else ratios * 3
        lines.append(f'{f"{setting}, {layout}":<28}{statistics.median(seconds):8.3f}{middle:8.2f}{f"{low:.2f}-{high:.2f}":>16}')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='rtmdet/rtmdet_nano_bccd.py', help='below configs/ (default: rtmdet/rtmdet_nano_bccd.py)')
    parser.add_argument('--size', nargs=2, type=int, default=(320, 256), metavar=('WIDTH', 'HEIGHT'),
                        help='of the images (default: 320 256)')
    parser.add_argument('--batch', type=int, default=8, help='images in a step (default: 8)')
    parser.add_argument('--rounds', type=int, default=7, help='timed steps of each line (default: 7)')
    parser.add_argument('--threads', type=int, default=0, help="of torch (default: torch's own choice)")
    parser.add_argument('--load', type=int, nargs='+', default=[0, os.cpu_count()],
                        help='busy processes beside it, one table for each number (default: 0, and one for each core)')
    parser.add_argument('--settings', nargs='+', choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument('--realtime', action='store_true', help='time each step at real-time priority, as on a machine without other load')
    parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    argv = ['--config', args.config, '--size', *map(str, args.size), '--batch', str(args.batch), '--threads', str(args.threads),
            *(['--realtime'] if args.realtime else [])]
    processes = {}
    try:
        for setting in args.settings:                      # sequentially, because they share the machine
            processes[setting] = start(setting, argv)
            threads = int(processes[setting].stdout.readline().split()[1])
        print(headline(threads))
        print('limits:', ', '.join(f'{k}={os.environ[k]}' for k in LIMITS if k in os.environ) or 'none')
        for load in args.load:
            with busy(load):
                print(f'\n{args.config}, {args.batch} images of {args.size[0]}x{args.size[1]}, fp32, {args.rounds} rounds, '
                      f'{"real-time priority, " if args.realtime else ""}{load} busy processes; load average {os.getloadavg()[0]:.1f}')
                print(table(measure(processes, args.rounds)), flush=True)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


if __name__ == '__main__':
    main()
