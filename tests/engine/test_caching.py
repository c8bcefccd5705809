"""The command that builds, checks and weighs caches."""
from __future__ import annotations

from pathlib import Path

import pytest

from detkit.cli import main
from detkit.data.cache.store import Store
from detkit.data.synthetic import generate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return generate(tmp_path / 'shapes', 6, 3, size=64, progress=False)['root']


def run(root: Path, *argv: str) -> int:
    return main(['cache-dataset', 'rtmdet_nano_shapes', '--workers', '1', *argv, '--cfg-options', f'data_root={root}/'])


def folders(root: Path) -> list[str]:
    return sorted(path.name.rsplit('-', 1)[0] for path in (root / '.detkit_cache').iterdir())


def test_it_builds_the_splits_and_makes_nothing_twice(root: Path, capsys: pytest.CaptureFixture):
    assert run(root) == 0
    said = capsys.readouterr().out
    assert 'train: 6 samples in' in said and '6 made in' in said and 'val: 3 samples in' in said and '3 made in' in said
    assert folders(root) == ['train-decoded', 'val-decoded']
    assert run(root) == 0
    assert capsys.readouterr().out.count(' 0 made in') == 2


def test_cleaning_takes_what_other_settings_left_and_nothing_else(root: Path, capsys: pytest.CaptureFixture):
    run(root)
    assert run(root, '--split', 'train', '--store', 'encoded') == 0
    assert 'other settings left' in capsys.readouterr().out
    assert run(root, '--split', 'train', '--store', 'encoded', '--clean') == 0
    assert folders(root) == ['train-encoded', 'val-decoded']


def test_verifying_makes_damaged_records_anew(root: Path, capsys: pytest.CaptureFixture):
    run(root, '--split', 'val')
    folder, = (root / '.detkit_cache').iterdir()
    store = Store(folder)
    with store.begin() as transaction:
        key, record = next(iter(transaction.cursor()))
        key, record = bytes(key), bytearray(record)
    record[-1] ^= 255
    store.write([(key, bytes(record))])
    capsys.readouterr()
    assert run(root, '--split', 'val', '--verify') == 0
    said = capsys.readouterr().out
    assert 'val: 3 records read, 1 damaged' in said and '1 made in' in said
    assert store.damaged() == []


def test_advice_names_the_fastest(root: Path, capsys: pytest.CaptureFixture):
    assert run(root, '--advise') == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ['files', 'encoded', 'decoded', 'fastest:']
    speeds = {line.split()[0]: int(line.split()[1]) for line in lines[:3]}
    assert speeds[lines[3].split()[1].rstrip(',')] == max(speeds.values())
    assert not (root / '.detkit_cache').exists()


def test_a_config_trains_from_its_cache(root: Path, tmp_path: Path):
    argv = ['train', 'rtmdet_nano_shapes', '--work-dir', str(tmp_path / 'w'), '--cfg-options', f'data_root={root}/', 'max_epochs=1',
            'train_dataloader.batch_size=2', 'train_dataloader.dataset.cache=dict(type=lmdb)']
    assert main(argv) == 0
    assert folders(root) == ['train-decoded']
