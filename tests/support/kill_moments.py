"""Stop training, cache building and data set making at random moments, and check that nothing is lost that the docs promise to keep.

    python tests/support/kill_moments.py --count 100 --seed 0

Each moment is one process that gets SIGKILL, or SIGTERM, SIGINT or SIGUSR1 to itself or to its group, and is started again afterwards. A
training is stopped and resumed until it has finished, and must then equal the uninterrupted training, to the last bit. Processes are
forked from one that has imported everything, so that a moment costs about a second. Prints one line for each moment; ends with status 1 at
the first promise that is not kept.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from detkit.cli import leave, main
from detkit.data.synthetic import generate
from detkit.engine import train  # noqa: F401  (imported here, so that the forked processes need not)
from detkit.engine.checkpoint import latest_checkpoint, load_checkpoint
from detkit.registry import register_all_modules

SIGNALS = [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGTERM, True), (signal.SIGTERM, False),
           (signal.SIGINT, True), (signal.SIGUSR1, True)]          # and whether the whole group gets it
LONGEST = 30.        # seconds that a process may take to save and end


class Process:
    """A detkit command in a forked process that leads a group of its own; its output goes to a file."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self.log, self.started = log, time.monotonic()
        sys.stdout.flush()
        log.write_text('')
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            output = os.open(log, os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = open(1, 'w', buffering=1), open(2, 'w', buffering=1)
            torch.set_num_threads(1)          # OpenMP's threads do not outlive a fork; who asks for them waits for ever
            tqdm.set_lock(threading.RLock())  # its own is shared by all processes, and a killed one may hold it
            status = 1
            try:
                leave(main(argv))
            except SystemExit as end:
                status = end.code or 0
            except BaseException:
                import traceback
                traceback.print_exc()
            from detkit.signals import kill_workers
            kill_workers()
            sys.stdout.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """The exit status, -N after signal N, None while it runs."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None

    def wait(self, seconds: float) -> int | None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.poll()
            if status is not None:
                return status
            time.sleep(0.01)
        return None

    def wait_for(self, happened: Callable[[], bool], seconds: float) -> bool:
        """Whether something happens before the process ends, and within ``seconds``."""
        end = time.monotonic() + seconds
        while not happened():
            if self.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def stop(self, signum: int, whole_group: bool) -> int:
        (os.killpg if whole_group else os.kill)(self.pid, signum)
        status = self.wait(LONGEST)
        assert status is not None, f'still running {LONGEST} s after signal {signum}:\n{self.text()}'
        return status

    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def check_end(self, status: int, signum: int) -> None:
        """Nothing is left of the group, and the output and the status are as documented."""
        end = time.monotonic() + 15
        while time.monotonic() < end:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f'processes of the group {self.pid} are left after signal {signum}')
        is_quiet = 'Traceback' not in self.text() and 'Exception ignored' not in self.text()
        assert is_quiet or signum == signal.SIGKILL, self.text()       # then a worker may lose a connection to the killed process
        expected = -signum if signum == signal.SIGKILL else 128 + signum
        assert status in (expected, 0), f'status {status} after signal {signum}:\n{self.text()}'       # 0: it had just finished


def digest(folder: Path) -> str:
    """Of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def state_of(path: Path) -> dict[str, Any]:
    """What two equal runs have in common."""
    content = load_checkpoint(path)
    info = content['message_hub']['runtime_info']
    scores = {k: v['v'] for k, v in content['message_hub']['log_scalars'].items() if k.startswith('val/coco')}
    return dict(weights=content['state_dict'], averages=content['ema_state_dict'], optimizer=content['optimizer'],
                schedules=content['param_schedulers'], place=(content['meta']['epoch'], content['meta']['iter']), scores=scores,
                info={k: info[k] for k in ('best_score', 'best_checkpoints', 'kept_checkpoints', 'evaluated_iter', 'early_stopping')})


def differences(a: Any, b: Any, where: str = '') -> list[str]:
    """Where two states differ, and how."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [f'{where}: tensors differ by {float((a.float() - b.float()).abs().max()):.3g}']
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [text for k, v in a.items() for text in differences(v, b[k], f'{where}[{k!r}]')]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [text for i, (v, w) in enumerate(zip(a, b)) for text in differences(v, w, f'{where}[{i}]')]
    return [] if a == b or a != a and b != b else [f'{where}: {a} and {b}']


def seconds_of(argv: list[str], folder: Path) -> float:
    """Return how long the uninterrupted command takes, in seconds."""
    process = Process(argv, folder / 'log.txt')
    assert process.wait(600) == 0, process.text()
    return time.monotonic() - process.started


class Moments:
    """Draws when and how a process is stopped, and counts what was done."""

    def __init__(self, seed: int, folder: Path, limit: int) -> None:
        self.random, self.folder, self.limit, self.counts = random.Random(seed), folder, limit, Counter()

    def run(self, kind: str, argv: list[str], longest: float) -> tuple[Process, int | None]:
        """Run ``argv`` and stop it within ``longest`` seconds; the signal, or None if it ended before."""
        signum, whole_group = self.random.choice(SIGNALS)
        seconds = self.random.uniform(0.05, longest)
        process = Process(argv, self.folder / 'log.txt')
        status = process.wait(seconds if self.counts[kind] < self.limit else 600)       # the last one may finish
        if status is not None:
            assert status == 0, process.text()
            return process, None
        status = process.stop(signum, whole_group)
        process.check_end(status, signum)
        self.counts[kind] += 1
        print(f'{kind} {self.counts[kind]}: {signal.Signals(signum).name}{" to the group" if whole_group else ""} after {seconds:.2f} s, '
              f'status {status}', flush=True)
        return process, signum


def train_arguments(folder: Path, work_dir: Path) -> list[str]:
    hooks = 'custom_hooks=[dict(type=EMAHook,ema_type=ExpMomentumEMA,momentum=0.004,gamma=100,update_buffers=True,priority=49),' \
            'dict(type=EarlyStoppingHook,monitor=coco/bbox_mAP)]'
    return ['train', 'rtmdet_nano_shapes', '--work-dir', str(work_dir), '--seed', '0', '--resume', '--cfg-options',
            f'data_root={folder}/shapes/', 'max_epochs=4', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2', 'amp=False',
            'train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True', 'val_dataloader.num_workers=1',
            'val_dataloader.persistent_workers=False', 'default_hooks.checkpoint.save_best=coco/bbox_mAP',
            'default_hooks.checkpoint.max_keep_ckpts=2', 'default_hooks.logger.interval=1', hooks]


def iteration(work_dir: Path) -> int:
    """Of the newest checkpoint, which must be whole; 0 if there is none yet."""
    path = latest_checkpoint(work_dir)
    return 0 if path is None else load_checkpoint(path)['meta']['iter']


def logged_iteration(text: str, epoch_length: int) -> int:
    """The last iteration that the log tells of."""
    found = re.findall(r'epoch (\d+)/\d+ +(\d+)/\d+', text)
    return (int(found[-1][0]) - 1) * epoch_length + int(found[-1][1]) if found else 0


def train_moments(moments: Moments) -> None:
    whole, folder = moments.folder / 'whole', moments.folder
    taken = seconds_of(train_arguments(folder, whole), folder)
    expected, names = state_of(whole / 'epoch_4.pth'), checkpoint_names(whole)
    length = load_checkpoint(whole / 'epoch_4.pth')['meta']['epoch_length']
    print(f'a whole training takes {taken:.1f} s and leaves {", ".join(names)}', flush=True)
    while moments.counts['training'] < moments.limit:
        work_dir = folder / 'stopped'
        shutil.rmtree(work_dir, ignore_errors=True)
        signum: int | None = 0
        while signum is not None:
            before = iteration(work_dir)
            process, signum = moments.run('training', train_arguments(folder, work_dir), 0.6 * taken)
            after, logged = iteration(work_dir), logged_iteration(process.text(), length)
            assert after >= before, f'the newest checkpoint fell from iteration {before} to {after}'
            if signum not in (None, signal.SIGKILL):
                assert after >= logged, f'iteration {logged} was logged, the checkpoint has {after}:\n{process.text()}'
        found = differences(state_of(work_dir / 'epoch_4.pth'), expected)
        assert not found, f'the stopped training differs from the whole one ({len(found)} places): ' + '; '.join(found[:12])
        assert checkpoint_names(work_dir) == names, f'{checkpoint_names(work_dir)}, expected {names}'
        best = next(n for n in names if n.startswith('best'))
        assert not differences(load_checkpoint(work_dir / best)['state_dict'], load_checkpoint(whole / best)['state_dict'])
        print('the training that was stopped equals the whole one', flush=True)


def checkpoint_names(work_dir: Path) -> list[str]:
    return sorted(p.name for p in work_dir.iterdir() if not p.is_dir() and p.suffix != '.py')


def cache_moments(moments: Moments) -> None:
    command = ['cache-dataset', 'rtmdet_nano_shapes', '--split', 'train', '--workers', '2', '--dir', str(moments.folder / 'cache'),
               '--cfg-options', f'data_root={moments.folder}/many/']
    generate(moments.folder / 'many', 300, 1, size=256, progress=False)
    taken = seconds_of(command, moments.folder)
    while moments.counts['cache'] < moments.limit:
        shutil.rmtree(moments.folder / 'cache', ignore_errors=True)
        signum: int | None = 0
        while signum is not None:
            _, signum = moments.run('cache', command, taken)
        process = Process([*command[:-2], '--verify', *command[-2:]], moments.folder / 'log.txt')
        assert process.wait(120) == 0 and '300 records read, 0 damaged' in process.text() and '; 0 made' in process.text(), process.text()
        print('the cache that was stopped is whole', flush=True)


def data_moments(moments: Moments) -> None:
    target = moments.folder / 'data' / 'drawn'
    command = ['make-dataset', str(target), '--num-train', '60', '--num-val', '10', '--size', '96']
    taken = seconds_of(command, moments.folder)
    expected = digest(generate(moments.folder / 'expected', 60, 10, 96, progress=False)['root'])
    while moments.counts['data set'] < moments.limit:
        shutil.rmtree(target.parent, ignore_errors=True)
        signum: int | None = 0
        while signum is not None:
            _, signum = moments.run('data set', command, 1.5 * taken)
            assert not target.exists() or digest(target) == expected, 'a data set that is not whole'
        assert [p.name for p in target.parent.iterdir()] == ['drawn'], list(target.parent.iterdir())
        print('the data set that was stopped is whole', flush=True)


def run() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument('--count', type=int, default=100, help='moments of each kind (default: 100)')
    arguments.add_argument('--kinds', nargs='+', default=['data', 'cache', 'train'], choices=['data', 'cache', 'train'])
    arguments.add_argument('--seed', type=int, default=0)
    args = arguments.parse_args()
    torch.set_num_threads(1)
    register_all_modules()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder / 'shapes', 24, 8, size=64, progress=False)
        moments = Moments(args.seed, folder, args.count)
        for kind in args.kinds:
            dict(train=train_moments, cache=cache_moments, data=data_moments)[kind](moments)
    print(f'all promises were kept: {", ".join(f"{n} moments of {kind}" for kind, n in moments.counts.items())}')


if __name__ == '__main__':
    run()
