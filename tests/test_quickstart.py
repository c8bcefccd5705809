"""The quickstart's steps on little data: what it leaves, and that running it again keeps that."""
from __future__ import annotations

import signal
from pathlib import Path

import pytest
from kill_moments import Process
from PIL import Image

from detkit.cli import main
from detkit.engine.checkpoint import read_meta
from detkit.quickstart import quickstart, shown

SMALL = ['--num-train', '16', '--num-val', '4', '--epochs', '1', '--pictures', '2']


def test_it_leaves_data_a_detector_and_pictures_and_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('DETKIT_DATA_ROOT', raising=False)
    assert main(['quickstart', *SMALL]) == 0
    said = capfd.readouterr().out
    pictures = sorted((tmp_path / 'work_dirs/quickstart/pictures').iterdir())
    assert len(pictures) == 2
    assert Image.open(pictures[0]).width == 2 * 3 * 128 + 8   # truth and prediction, enlarged three times, with a gap
    assert 'box AP 0.' in said and 'work_dirs/quickstart/pictures' in said and 'detkit infer data/shapes/images' in said
    checkpoint = next((tmp_path / 'work_dirs/quickstart').glob('best_*.pth'))
    made, image = checkpoint.stat().st_mtime_ns, (tmp_path / 'data/shapes/images').stat().st_mtime_ns
    assert main(['quickstart', *SMALL]) == 0
    assert 'holds a finished one of 1 epochs' in capfd.readouterr().out
    assert (checkpoint.stat().st_mtime_ns, (tmp_path / 'data/shapes/images').stat().st_mtime_ns) == (made, image)


def test_one_that_was_stopped_goes_on_when_it_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('DETKIT_DATA_ROOT', raising=False)
    small = ['quickstart', '--num-train', '20', '--num-val', '4', '--pictures', '1', '--epochs']
    process = Process([*small, '1000'], tmp_path / 'log.txt')
    assert process.wait_for(lambda: (tmp_path / 'work_dirs/quickstart/last_checkpoint').exists(), 120), process.text()
    status = process.stop(signal.SIGTERM, whole_group=True)
    process.check_end(status, signal.SIGTERM)
    meta = read_meta(tmp_path / 'work_dirs/quickstart/interrupted.pth')
    assert status == 143 and meta['epoch'] >= 1
    assert 'stopped by SIGTERM; run the quickstart again to go on' in process.text() and '--resume' not in process.text()
    assert main([*small, str(meta['epoch'] + 1)]) == 0
    said = capfd.readouterr().out
    assert f"going on after epoch {meta['epoch']}" in said and f"resumed after epoch {meta['epoch']}, iteration {meta['iter']}" in said
    assert not (tmp_path / 'work_dirs/quickstart/interrupted.pth').exists()


def test_no_pictures_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match='num_pictures=0 must be at least 1'):
        quickstart(tmp_path / 'data', tmp_path / 'work', num_pictures=0)


def test_other_data_at_that_place_is_refused(tmp_path: Path, capfd):
    (tmp_path / 'mine.txt').write_text('mine')
    assert main(['quickstart', '--data-dir', str(tmp_path), '--work-dir', str(tmp_path / 'work'), *SMALL]) == 2
    assert 'is not empty and holds no set that detkit made' in capfd.readouterr().err


def test_paths_are_shown_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / 'a/b') == Path('a/b')
    assert shown(Path('/elsewhere/b')) == Path('/elsewhere/b')
