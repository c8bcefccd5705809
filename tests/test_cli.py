"""The command line as users meet it: in processes of its own, with the exit statuses that scripts rely on."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from detkit.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent

RECIPE = '''
"""A toy run."""
custom_imports = dict(imports=['toy_parts'])
length = 16
loader = dict(batch_size=4, num_workers={workers}, persistent_workers={workers} > 0, sampler=dict(type='DefaultSampler', shuffle=True),
              dataset=dict(type='ToyData', length=length))
model = dict(type='ToyDetector')
train_dataloader = loader
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs={epochs})
val_dataloader = dict(loader, sampler=dict(type='DefaultSampler', shuffle=False))
val_cfg = dict(type='ValLoop')
val_evaluator = dict(type='ToyAccuracy')
test_dataloader, test_cfg, test_evaluator = val_dataloader, dict(type='TestLoop'), val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', max_keep_ckpts=1))
'''


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a config and the parts that it imports, and goes to their folder."""
    (tmp_path / 'toy_parts.py').write_text((ROOT / 'tests/engine/conftest.py').read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')

    def write(epochs: int = 2, workers: int = 0) -> str:
        (tmp_path / 'recipe.py').write_text(RECIPE.format(epochs=epochs, workers=workers))
        return 'recipe.py'
    return write


def error_line(capsys: Any) -> str:
    """What was said on stderr: one line."""
    text = capsys.readouterr().err
    assert text.startswith('detkit: error: ') and text.count('\n') == 1, text
    return text


@pytest.mark.parametrize('command', sorted(COMMANDS))
def test_help_answers_at_once_and_imports_nothing_heavy(command: str) -> None:
    code = (f'import sys; sys.argv[0] = "detkit"; from detkit.cli import main\ntry: main(["{command}", "--help"])\n'
            f'except SystemExit: print(sorted(set(sys.modules) & {{"torch", "mmengine", "cv2", "numpy"}}))')
    start = time.perf_counter()
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    print(f'detkit {command} --help: {time.perf_counter() - start:.3f} s')
    assert done.returncode == 0 and done.stdout.endswith('[]\n')
    assert f'usage: detkit {command}' in done.stdout and COMMANDS[command].help in ' '.join(done.stdout.split())


@pytest.mark.parametrize('tool', ['train', 'test', 'print_config'])
def test_tools_are_doors_to_the_same_commands(tool: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / f'tools/{tool}.py'), '--help'], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and f"usage: detkit {tool.replace('_', '-')}" in done.stdout


@pytest.mark.parametrize('argv, message', [
    (['train', 'no_such.py'], "there is no config 'no_such.py'"),
    (['train', 'recipe.py', '--cfg-options', 'lengt=3'], "the config has no 'lengt'. Did you mean 'length'"),
    (['train', 'recipe.py', '--cfg-options', 'length'], 'KEY=VALUE'),
    (['train', 'recipe.py', '--resume', 'no.pth'], "there is no checkpoint 'no.pth'"),
    (['train', 'recipe.py', '--auto-scale-lr'], 'base_batch_size'),
    (['train', 'recipe.py', '--launcher', 'pytorch'], 'torchrun'),
    (['train', 'recipe.py', '--cfg-options', 'model.num_classes=3'], 'model.num_classes=3, but the data of train_dataloader has 2'),
    (['train', 'recipe.py', '--cfg-options', 'model.type=Toy'], "model.type: no 'Toy'"),
    (['test', 'recipe.py', 'no.pth'], "there is no checkpoint 'no.pth'"),
    (['test', 'recipe.py', '.'], "there is no checkpoint '.'. It is a folder, without a .pth file in it"),
    (['test', 'recipe.py', 'no.pth', '--out', 'x.txt'], 'should end in .json or .pkl'),
    (['print-config', 'recipe.py', '--save-path', 'x.txt'], 'a config ends in'),
])
def test_a_mistake_is_one_line_and_status_2(recipe: Any, capsys: Any, argv: list[str], message: str) -> None:
    recipe()
    assert main(argv) == 2
    assert message in error_line(capsys)
    assert not list(Path('.').rglob('*.pth'))


def test_an_unwritable_work_dir_is_one_line(recipe: Any, capsys: Any) -> None:
    Path('taken').write_text('a file')
    assert main(['train', recipe(), '--work-dir', 'taken']) == 2
    assert 'taken' in error_line(capsys)


def test_a_bug_shows_its_traceback_and_so_does_a_mistake_when_asked(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('DETKIT_TRACEBACK', '1')
    with pytest.raises(ValueError):
        main(['train', 'no_such.py'])


def test_errors_of_workers_come_without_their_traceback() -> None:
    from detkit.cli import exit_status, message
    text = ('Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "/x/torch/worker.py", '
            f'line 3, in fetch\n  File "{ROOT}/detkit/data/compose.py", line 3, in x\nValueError: picture.jpg: is cut short')
    assert exit_status(ValueError(text)) == 2 and message(ValueError(text)) == 'picture.jpg: is cut short'
    assert exit_status(ValueError(text.replace(f'{ROOT}/detkit', '/elsewhere'))) is None
    assert exit_status(ValueError('from nowhere')) is None


@pytest.mark.parametrize('workers', [0, 1])
def test_an_unreadable_image_is_one_line(tmp_path: Path, capsys: Any, workers: int) -> None:
    from detkit.data.synthetic import generate
    images = generate(tmp_path / 'data', 16, 4, progress=False)['images']
    (images / 'train_00003.jpg').write_text('no picture')
    assert main(['train', 'rtmdet_nano_shapes', '--work-dir', str(tmp_path / 'w'), '--cfg-options', f'data_root={tmp_path}/data/',
                 'max_epochs=1', f'train_dataloader.num_workers={workers}', f'train_dataloader.persistent_workers={workers > 0}']) == 2
    text = error_line(capsys)
    assert text.startswith(f'detkit: error: {images}/train_00003.jpg: cannot read this image (not a picture') and "on_error='skip'" in text
    assert not list((tmp_path / 'w').glob('*.pth'))


def test_a_loss_that_is_nan_ends_with_status_1(recipe: Any, capsys: Any) -> None:
    assert main(['train', recipe(), '--cfg-options', 'train_dataloader.dataset.bad=(3,)', '--work-dir', 'w']) == 1
    assert 'loss_cls = nan' in error_line(capsys)
    assert not list(Path('w').glob('*.pth'))


def test_print_config_prints_and_saves_the_whole_config(recipe: Any, capsys: Any) -> None:
    assert main(['print-config', recipe(), '--cfg-options', 'length=7', 'optim_wrapper.clip_grad=dict(max_norm=1)']) == 0
    assert 'length=7' in capsys.readouterr().out
    assert main(['print-config', 'recipe.py', '--cfg-options', 'length=7', '--save-path', 'whole.json']) == 0
    assert json.loads(Path('whole.json').read_text())['train_dataloader']['dataset']['length'] == 7


def run(*argv: str, **kwargs: Any) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-m', 'detkit.cli', *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True, **kwargs)


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f'the process ended without saying {text!r}')


def test_ctrl_c_in_a_terminal_leaves_a_checkpoint_and_no_process(recipe: Any) -> None:
    process = run('train', recipe(epochs=100_000, workers=2), '--work-dir', 'w', '--seed', '0')
    wait_for(process, 'epoch 3/100000')
    os.killpg(process.pid, signal.SIGINT)                    # a terminal sends it to the workers as well
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert 'saved' in output and 'interrupted.pth' in output and 'Traceback' not in output, output
    assert Path('w/last_checkpoint').read_text() == 'interrupted.pth'
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)                            # the workers are gone too
    status = main(['train', 'recipe.py', '--work-dir', 'w', '--resume', '--cfg-options', 'train_cfg.max_epochs=1'])
    assert status == 0                                       # it stands beyond the first epoch already: nothing is left to do


def test_two_processes_train_on_the_cpu(recipe: Any) -> None:
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', '0', '--rdzv-backend', 'c10d',
               '--rdzv-endpoint', 'localhost:0', '-m', 'detkit.cli', 'train', recipe(), '--launcher', 'pytorch', '--work-dir', 'w',
               '--cfg-options', 'model.norm=SyncBN', 'custom_hooks=[dict(type=EMAHook,ema_type=ExpMomentumEMA)]']
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    from detkit.engine.checkpoint import load_checkpoint
    meta = load_checkpoint('w/epoch_2.pth')['meta']
    assert (meta['world_size'], meta['iter'], meta['epoch_length']) == (2, 4, 2)      # 16 images, 2 x 4 a step, 2 epochs
    assert done.stdout.count('epoch 2/2  2/2') == 1                                   # one process speaks
    assert 'Warning' not in done.stdout + done.stderr


def test_a_tilde_in_an_argument_is_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=[dict(id=1, file_name='a.jpg', width=9, height=9)], annotations=[],
                                                     categories=[dict(id=1, name='cat')])))
    assert main(['dataset', 'stats', '~/a.json', '--json=~/numbers.json']) == 0
    assert json.loads((tmp_path / 'numbers.json').read_text())['images'] == 1
