"""What a person sees while a run goes on."""
from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from detkit.engine import train
from detkit.engine.log import FILE_ONLY, ConsoleFormatter, ConsoleHandler, bar_line, clock, number


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_fits_its_terminal() -> None:
    assert bar_line('epoch 1/2', 5, 10, ['loss 0.5'], 80) == f"epoch 1/2 [{'#' * 20}{'-' * 20}] 5/10  loss 0.5"
    assert len(bar_line('epoch 1/2', 5, 10, ['loss 0.5', 'eta 0:00:01'], 60)) < 60
    assert bar_line('epoch 1/2', 5, 10, ['loss 0.5'], 20) == 'epoch 1/2 5/10  los'


@pytest.mark.parametrize('seconds, text', [(5.9, '0:00:05'), (3725, '1:02:05'), (90061, '1 d 1:01:01'), (-1, '0:00:00')])
def test_times_read_as_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_numbers_keep_their_digits() -> None:
    assert [number(v) for v in (0.51234, 123.4, float('nan'))] == ['0.5123', '123.4', 'nan']


def test_messages_go_above_the_bar_and_pages_to_the_file_only() -> None:
    stream = Terminal()
    console = ConsoleHandler(stream)
    console.setFormatter(ConsoleFormatter())
    logger = logging.Logger('test')
    logger.addHandler(console)
    console.show('bar')
    logger.warning('careful')
    logger.info('a page', **FILE_ONLY)
    logger.info('Exp name: x')
    console.show('')
    first, rest = stream.getvalue().split('warning: careful\n')
    assert first.startswith('\r\x1b[2Kbar\r\x1b[2K') and rest == '\r\x1b[2Kbar\r\x1b[2K'


def test_a_terminal_gets_a_live_bar_and_a_file_does_not(toy: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from detkit.engine.log import ProgressHook
    monkeypatch.setattr(ProgressHook, 'period', 0.)
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        monkeypatch.setattr('sys.stdout', stream)
        train(toy(tmp_path), fresh=True)
    assert 'epoch 3/3 [' in terminal.getvalue() and 'validation [' in terminal.getvalue() and terminal.getvalue().endswith('\r\x1b[2K')
    assert '\x1b' not in plain.getvalue() and 'epoch 3/3  2/3' in plain.getvalue()
