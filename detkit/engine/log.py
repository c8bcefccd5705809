"""Logging: short lines on the console, the full record in the file, a progress bar in a terminal."""
from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import torch
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner import LogProcessor as MMLogProcessor

from detkit.registry import HOOKS, LOG_PROCESSORS

FILE_ONLY = dict(extra=dict(file_only=True))          # logger.info(page, **FILE_ONLY)
SILENT = ('Hooks will be executed', 'Exp name:', 'Checkpoints will be saved', 'Distributed training is not used', 'Load checkpoint from',
          'Loads checkpoint by', 'Saving checkpoint at', 'resumed epoch:', 'Auto resumed from', 'Advance dataloader')
SHOWN = {'time', 'data_time', 'memory', 'epoch', 'iter', 'loss', 'grad_norm', 'step'}   # formatted separately


@LOG_PROCESSORS.register_module()
class LogProcessor(MMLogProcessor):
    """mmengine's LogProcessor with lines such as

    ``epoch 3/12  50/458  lr 1.00e-03  loss 0.812 (cls 0.512, bbox 0.300)  0.41 s/it  eta 0:12:31  1.2 GB``
    """

    def get_log_after_iter(self, runner: Any, batch_idx: int, mode: str) -> tuple[dict, str]:
        tag, _ = super().get_log_after_iter(runner, batch_idx, mode)
        values = {k.removeprefix(f'{mode}/'): v for k, v in tag.items()}
        words = [self.place(runner, batch_idx, mode)]
        if mode == 'train':
            words += [*rates(values), losses(values)]
            if 'grad_norm' in values:
                words.append(f"grad {values['grad_norm']:.3g}")
        words += times(values, runner if mode == 'train' else None)
        words.append(f'{memory_gb():.1f} GB')
        return tag, '  '.join(w for w in words if w)

    def place(self, runner: Any, batch_idx: int, mode: str) -> str:
        """Return the position in the run: epoch and batch, or iteration."""
        if mode == 'train' and counts_iterations(runner):
            return f'iter {runner.iter + 1}/{runner.max_iters}'
        total = self._get_dataloader_size(runner, mode)
        batch = f'{str(batch_idx + 1).rjust(len(str(total)))}/{total}'
        return f'epoch {runner.epoch + 1}/{runner.max_epochs}  {batch}' if mode == 'train' else f'{mode}  {batch}'

    def get_log_after_epoch(self, runner: Any, batch_idx: int, mode: str, with_non_scalar: bool = False) -> tuple[dict, str]:
        tag, _ = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        values = {k.removeprefix(f'{mode}/'): v for k, v in tag.items()}
        done = f'iteration {runner.iter}' if counts_iterations(runner) else f'epoch {self._get_epoch(runner, "val")}'
        where = f'{mode} after {done}' if mode == 'val' and runner._train_loop is not None else mode
        metrics = [f'{k} {v:.4g}' for k, v in values.items() if isinstance(v, (int, float)) and k not in SHOWN]
        return tag, f"{where}:  {'  '.join(metrics) or 'no metrics'}  ({values.get('time', 0):.3f} s/batch)"


def counts_iterations(runner: Any) -> bool:
    return isinstance(runner._train_loop, IterBasedTrainLoop)


def rates(values: dict) -> list[str]:
    return [f'{k} {v:.2e}' for k, v in values.items() if k.endswith('lr') and k != 'base_lr']


def losses(values: dict) -> str:
    """Return the total loss and its terms, without the prefix ``loss_``."""
    if 'loss' not in values:
        return ''
    parts = [f"{k.replace('loss_', '').removesuffix('_loss')} {number(v)}" for k, v in values.items()
             if k not in SHOWN and not k.endswith('lr') and isinstance(v, (int, float))]
    return f"loss {number(values['loss'])}" + (f" ({', '.join(parts)})" if len(parts) > 1 else '')


def number(value: float) -> str:
    return f'{value:.4f}' if math.isfinite(value) and abs(value) < 100 else f'{value:.4g}'


def times(values: dict, runner: Any) -> list[str]:
    if 'time' not in values:
        return []
    waiting = values.get('data_time', 0)
    words = [f"{values['time']:.3f} s/it" + (f' (data {waiting:.3f})' if waiting > 0.1 * values['time'] else '')]
    eta = runner.message_hub.get_info('eta') if runner is not None else None
    return words if eta is None else [*words, f'eta {clock(eta)}']


def clock(seconds: float) -> str:
    seconds = max(int(seconds), 0)
    days, rest = divmod(seconds, 86400)
    return (f'{days} d ' if days else '') + f'{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}'


def memory_gb() -> float:
    """Return the peak memory in GiB: the GPU's if there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2 ** 30
    if sys.platform == 'win32':
        return math.nan
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (30 if sys.platform == 'darwin' else 20)


# ---------------------------------------------------------------------------------------------------------- handlers
class ConsoleHandler(logging.StreamHandler):
    """Write messages above the progress bar, if there is one; skip messages meant only for the file."""

    bar: str = ''                                     # text of the progress bar on the terminal's last line

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream or sys.stdout)

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        return super().filter(record) and not getattr(record, 'file_only', False) and not text.startswith(SILENT)

    def emit(self, record: logging.LogRecord) -> None:
        bar = self.bar
        self.show('')
        super().emit(record)
        self.show(bar)

    def show(self, bar: str) -> None:
        """Replace the bar; '' removes it."""
        if bar or self.bar:
            self.stream.write(f'\r\x1b[2K{bar}')
            self.stream.flush()
        self.bar = bar


class ConsoleFormatter(logging.Formatter):
    """Format as time and message; warnings and errors also have their level."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage().replace('\n', '\n         ')
        label = '' if record.levelno <= logging.INFO else f'{record.levelname.lower()}: '
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {label}{text}"


def tidy(logger: logging.Logger) -> None:
    """Set formatters on mmengine's logger: short lines on the console, lines with date in the file."""
    for i, handler in enumerate(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(message)s', '%Y-%m-%d %H:%M:%S'))
        elif type(handler) is logging.StreamHandler:
            console = ConsoleHandler()
            console.setLevel(handler.level)
            console.setFormatter(ConsoleFormatter())
            for old in handler.filters:
                console.addFilter(old)
            logger.handlers[i] = console


# --------------------------------------------------------------------------------------------------------------- bar
@HOOKS.register_module()
class ProgressHook(Hook):
    """Progress bar on the last line of the terminal: progress of the epoch, the loss, and the remaining time.

    Disabled if the output is not a terminal, and in all processes except rank 0.
    """

    priority = 'LOWEST'
    period = 0.1                                      # minimum seconds between two updates

    def __init__(self) -> None:
        self.console: ConsoleHandler | None = None
        self.drawn = 0.

    def before_run(self, runner: Any) -> None:
        found = [h for h in runner.logger.handlers if isinstance(h, ConsoleHandler)]
        self.console = found[0] if found and found[0].stream.isatty() and runner.rank == 0 else None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        if self.due():
            eta = runner.message_hub.get_info('eta')
            loss = runner.message_hub.log_scalars.get('train/loss')
            tail = [] if loss is None else [f'loss {number(float(loss.current()))}']
            tail += [] if eta is None else [f'eta {clock(eta)}']
            if counts_iterations(runner):
                head, done, total = 'training', runner.iter + 1, runner.max_iters
            else:
                head, done, total = f'epoch {runner.epoch + 1}/{runner.max_epochs}', batch_idx + 1, len(runner.train_dataloader)
            self.draw(head, done, total, tail)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None) -> None:
        if self.due():
            self.draw('validation', batch_idx + 1, len(runner.val_dataloader), [])

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None) -> None:
        if self.due():
            self.draw('test', batch_idx + 1, len(runner.test_dataloader), [])

    def after_train_epoch(self, runner: Any) -> None:
        self.clear()

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        self.clear()

    def after_test_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        self.clear()

    def after_run(self, runner: Any) -> None:
        self.clear()

    def due(self) -> bool:
        now = time.monotonic()
        if self.console is None or now - self.drawn < self.period:
            return False
        self.drawn = now
        return True

    def draw(self, head: str, done: int, total: int, tail: list[str]) -> None:
        self.console.show(bar_line(head, done, total, tail, shutil.get_terminal_size().columns))

    def clear(self) -> None:
        if self.console is not None:
            self.console.show('')


def bar_line(head: str, done: int, total: int, tail: list[str], columns: int) -> str:
    """Return a line like ``epoch 3/12 [#####-----] 45/90  loss 0.81  eta 0:03:10``, at most ``columns`` - 1 characters."""
    count = f'{done}/{total}'
    text = '  '.join([count, *tail])
    width = min(40, columns - len(head) - len(text) - 6)
    if width < 5:
        return f'{head} {text}'[:columns - 1]
    filled = width * min(done, total) // max(total, 1)
    return f"{head} [{'#' * filled}{'-' * (width - filled)}] {text}"
