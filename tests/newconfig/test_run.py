"""The command as a user runs it: what it writes, prints, leaves alone and refuses."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from detkit.cli import main
from detkit.config import load_config


@pytest.fixture
def work(tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the data set at data/shapes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shapes, tmp_path / 'data/shapes')
    return tmp_path


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def error_line(capsys: pytest.CaptureFixture) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('detkit: ')]
    assert len(lines) == 1
    return lines[0]


def test_from_a_folder_to_a_config_that_the_doctor_has_seen(work: Path, capsys: pytest.CaptureFixture):
    before = state(work / 'data')
    assert main(['new-config', '--data', 'data/shapes']) == 0
    printed = capsys.readouterr().out
    assert state(work / 'data') == before
    for line in (f'found: COCO in {work}/data/shapes', '12 images, ', '4 classes: circle, square, triangle, star', f'wrote {work}/my.py: ',
                 f'train: {work}/data/shapes/annotations/train.json (images in {work}/data/shapes/images): 12 images', '0 faults, ',
                 'note: the objects have masks; --model rtmdet-ins_tiny', '  detkit doctor my.py', '  detkit train my.py',
                 '  detkit test my.py work_dirs/my/epoch_300.pth', '  detkit infer '):
        assert line in printed, printed
    text = (work / 'my.py').read_text()
    assert text.startswith('"""rtmdet/rtmdet_nano_small-data.py for the data in ') and 'written by detkit new-config on 20' in text
    assert 'circle (' in text.split('"""')[1] and len(text.splitlines()) < 40
    cfg = load_config('my.py')
    assert cfg.max_epochs == 300 and cfg.image_size == (64, 64) and cfg.num_workers >= 1


def test_made_splits_are_written_beside_the_config(work: Path, capsys: pytest.CaptureFixture):
    (work / 'data/shapes/annotations/val.json').unlink()
    assert main(['new-config', '--data', 'data/shapes', '--out', 'configs/new.py', '--no-doctor']) == 0
    assert f'{work}/configs/new_val.json  (written)' in capsys.readouterr().out
    parts = {s: json.loads((work / f'configs/new_{s}.json').read_text()) for s in ('train', 'val')}
    assert [len(p['images']) for p in parts.values()] == [10, 2]
    cfg = load_config('configs/new.py')
    assert cfg.train_ann_file == str(work / 'configs/new_train.json') and cfg.train_images == 'images/'
    assert cfg.val_evaluator.ann_file == str(work / 'configs/new_val.json')


def test_an_existing_file_is_not_overwritten_without_force(work: Path, capsys: pytest.CaptureFixture):
    command = ['new-config', '--data', 'data/shapes', '--no-doctor']
    (work / 'my.py').write_text('mine')
    assert main(command) == 2
    assert error_line(capsys) == f'detkit: error: {work}/my.py exists. Choose another --out, or overwrite it with --force.'
    assert (work / 'my.py').read_text() == 'mine'
    assert main([*command, '--force']) == 0
    (work / 'data/shapes/annotations/val.json').unlink()
    (work / 'new_val.json').write_text('mine')
    assert main([*command, '--out', 'new.py']) == 2
    assert error_line(capsys).startswith(f'detkit: error: {work}/new_val.json exists.') and not (work / 'new.py').exists()


def test_a_fault_that_the_doctor_finds_is_shown_and_gives_status_1(work: Path, capsys: pytest.CaptureFixture):
    image = json.loads((work / 'data/shapes/annotations/train.json').read_text())['images'][0]['file_name']
    (work / 'data/shapes/images' / image).write_text('no picture')
    assert main(['new-config', '--data', 'data/shapes']) == 1
    printed = capsys.readouterr().out
    assert 'FAULT   train: picture' in printed and image in printed and 'next:' in printed
    assert (work / 'my.py').exists()


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--data', 'nothing'], 'nothing: there is no such folder or file'),
    (['--data', 'data/shapes/images'], 'no annotations found. Looked in 1 folder(s) for: a COCO .json'),
    (['--data', 'data/shapes', '--format', 'voc'], "no annotations found. Looked in 3 folder(s) for: VOC's .xml files"),
    (['--data', 'data/shapes', '--model', 'faster-rcnn_r50'], "there is no config 'faster-rcnn_r50'"),
    (['--data', 'data/shapes', '--out', 'my.yaml'], 'a config that this command writes ends in .py'),
    (['--data', 'data/shapes', '--images', 'none'], '--images none: there is no such folder')])
def test_mistakes_are_one_line(arguments: list[str], message: str, work: Path, capsys: pytest.CaptureFixture):
    assert main(['new-config', *arguments]) == 2
    assert message in error_line(capsys)
    assert not (work / 'my.py').exists()
