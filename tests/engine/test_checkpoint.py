"""Checkpoints are data: reading one runs nothing, writing one leaves no half."""
from __future__ import annotations

import builtins
import functools
import http.server
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModule
from torch import nn

from detkit.engine.checkpoint import load_checkpoint, load_weights, plain, write_checkpoint
from detkit.engine.sources import resolve
from detkit.engine.unpickle import load_as_data
from detkit.registry import ConfigError


class Runs:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Patches:
    """Pickles as ``setattr(target, name, value)``."""

    def __reduce__(self) -> Any:
        return torch.Size, ((),), (None, {'__module__': 'x'})


def foreign(path: Path, zipped: bool = True) -> Path:
    """A file as mmengine 0.10.7 writes it: histories with bound functions, numpy scalars and arrays."""
    hub = MessageHub.get_instance(f'foreign-{path}-{zipped}')
    hub.update_scalar('train/loss', 3.0)
    hub.update_scalar('train/loss', 2.0)
    content = dict(meta=dict(epoch=1, score=np.float32(0.5), array=np.arange(3), dataset_meta=dict(classes=('a', 'b'))),
                   state_dict={'weight': torch.ones(2)}, message_hub=hub.state_dict(), other=StrangeObject())
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


class StrangeObject:
    x = 3


@pytest.mark.parametrize('zipped', [True, False])
def test_a_file_of_mmengine_loads_without_running_its_functions(tmp_path: Path, zipped: bool) -> None:
    content = load_checkpoint(foreign(tmp_path / 'x.pth', zipped))
    assert content['meta']['score'] == 0.5 and content['meta']['dataset_meta'] == dict(classes=('a', 'b'))
    assert content['meta']['array'].tolist() == [0, 1, 2]
    history = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer) and history.data[0].tolist() == [3.0, 2.0]
    assert torch.equal(content['state_dict']['weight'], torch.ones(2))
    assert 'other' not in content                         # an object of an unknown class is left out


@pytest.mark.parametrize('function, args', [
    (os.system, ('touch {}',)), (builtins.eval, ('open("{}", "w")',)), (builtins.exec, ('open("{}", "w")',)), (open, ('{}', 'w')),
    (os.mkdir, ('{}',)), (functools.partial, (os.mkdir, '{}')), (__import__, ('os',))])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, function: Any, args: tuple, zipped: bool) -> None:
    mark, path = tmp_path / 'mark', tmp_path / 'evil.pth'
    args = tuple(a.format(mark) if isinstance(a, str) else a for a in args)
    torch.save(dict(state_dict={'w': torch.ones(1)}, x=Runs(function, *args)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match='would run code.* if you made it, --trust-checkpoint loads it. Nothing of it was loaded'):
        load_checkpoint(path)
    assert not mark.exists()


def test_code_of_unknown_modules_is_not_run_either(tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    torch.save(dict(state_dict={'w': torch.ones(1)}, x=Runs(np.save, str(mark), 1), y=Runs(torch.save, 1, str(mark))), tmp_path / 'e.pth')
    content = load_checkpoint(tmp_path / 'e.pth')
    assert list(content) == ['state_dict'] and not list(tmp_path.glob('mark*'))


def test_paths_in_a_checkpoint_are_left_out_and_their_methods_not_called(tmp_path: Path) -> None:
    torch.save(dict(state_dict={'w': torch.ones(1)}, args=dict(out=tmp_path, epochs=3)), tmp_path / 'e.pth')
    assert load_checkpoint(tmp_path / 'e.pth')['args'] == dict(epochs=3)
    torch.save(dict(state_dict={'w': torch.ones(1)}, x=Runs(Path.unlink, tmp_path / 'e.pth')), tmp_path / 'evil.pth')
    assert list(load_checkpoint(tmp_path / 'evil.pth')) == ['state_dict'] and (tmp_path / 'e.pth').is_file()


def test_getattr_gives_nothing_to_call(tmp_path: Path) -> None:
    torch.save(dict(state_dict={'w': torch.ones(1)}, x=Runs(getattr, HistoryBuffer, 'mean')), tmp_path / 'e.pth')
    assert list(load_checkpoint(tmp_path / 'e.pth')) == ['state_dict']


def test_setting_attributes_of_classes_is_refused(tmp_path: Path) -> None:
    torch.save(dict(state_dict={'w': torch.ones(1)}, x=Patches()), tmp_path / 'e.pth')
    with pytest.raises(ValueError, match='sets attributes'):
        load_as_data(tmp_path / 'e.pth')


def test_trusted_files_are_read_whole(tmp_path: Path) -> None:
    assert load_checkpoint(foreign(tmp_path / 'x.pth'), trusted=True)['other'].x == 3


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / 'program.pth'))
    with pytest.raises(ConfigError):
        load_checkpoint(tmp_path / 'program.pth')


def test_safetensors_load(tmp_path: Path) -> None:
    safetensors = pytest.importorskip('safetensors.torch', reason='safetensors is not installed')
    safetensors.save_file({'w': torch.arange(3.)}, str(tmp_path / 'x.safetensors'))
    assert load_checkpoint(tmp_path / 'x.safetensors')['state_dict']['w'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('make, message', [
    (lambda p: None, 'there is no checkpoint'),
    (lambda p: p.write_bytes(b''), 'cannot be read as a checkpoint'),
    (lambda p: p.write_text('a picture of a cat'), 'cannot be read as a checkpoint'),
    (lambda p: torch.save([1, 2], p), 'holds a list'),
    (lambda p: torch.save(dict(a=1), p), 'holds no weights')])
def test_what_is_no_checkpoint_says_so(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / 'x.pth')
    with pytest.raises(ConfigError, match=message) as error:
        load_checkpoint(tmp_path / 'x.pth')
    assert str(tmp_path / 'x.pth') in str(error.value)


def test_a_folder_in_place_of_a_checkpoint_names_the_newest_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='It is a folder, without a .pth file in it'):
        load_checkpoint(tmp_path)
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        torch.save(dict(state_dict={'w': torch.ones(1)}), tmp_path / name)
    (tmp_path / 'last_checkpoint').write_text('epoch_2.pth')
    with pytest.raises(ConfigError, match=f"there is no checkpoint '{tmp_path}'. It is a folder. Its newest checkpoint is "
                                          f"'{tmp_path}/epoch_2.pth'"):
        load_checkpoint(tmp_path)


def test_a_cut_file_says_how_long_it_is(tmp_path: Path) -> None:
    torch.save(dict(state_dict={'w': torch.ones(100)}), tmp_path / 'x.pth')
    whole = (tmp_path / 'x.pth').read_bytes()
    (tmp_path / 'x.pth').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ConfigError, match=f'{len(whole) // 2} bytes'):
        load_checkpoint(tmp_path / 'x.pth')


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A web server for a folder, and an empty cache."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    folder = tmp_path / 'served'
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Not to the test's output."""

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}', tmp_path / 'cache/hub/checkpoints'
    server.shutdown()


def test_a_url_is_fetched_once(served: Any) -> None:
    folder, url, cache = served
    torch.save(dict(state_dict={'w': torch.ones(1)}), folder / 'x.pth')
    load_checkpoint(f'{url}/x.pth')
    (folder / 'x.pth').unlink()
    assert load_checkpoint(f'{url}/x.pth')['state_dict']['w'].item() == 1
    assert [p.name for p in cache.iterdir()] == ['x.pth']


def test_a_failed_download_says_url_reason_and_place(served: Any) -> None:
    _, url, cache = served
    with pytest.raises(ConfigError) as error:
        load_checkpoint(f'{url}/none.pth')
    assert f'{url}/none.pth' in str(error.value) and '404' in str(error.value) and str(cache / 'none.pth') in str(error.value)
    assert not list(cache.glob('*'))


def test_names_of_known_weights_resolve_or_suggest() -> None:
    assert resolve('torchvision://resnet50').startswith('https://download.pytorch.org/models/resnet50')
    assert resolve('open-mmlab://detectron2/resnet50_caffe').startswith('https://')
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        resolve('torchvision://resnet_50')


def net(features: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, features), nn.BatchNorm1d(features))


def test_weights_of_the_same_model_load_with_or_without_module_prefix() -> None:
    source, target = net(), net()
    weights = {f'module.{k}': v for k, v in source.state_dict().items() if not k.endswith('num_batches_tracked')}
    report = load_weights(target, dict(state_dict=weights))
    assert report.complete and report.matched == report.total == 6
    assert torch.equal(source[0].weight, target[0].weight)


def test_another_head_is_reported_in_one_line_and_keeps_its_weights() -> None:
    target = net(5)
    before = target[1].weight.clone()
    weights = {**net(4).state_dict(), '0.weight': torch.ones(5, 2), 'extra': torch.ones(1)}
    report = load_weights(target, dict(state_dict=weights))
    assert report.matched == 1 and report.unexpected == ('extra',)
    assert ('0.bias', (4,), (5,)) in report.mismatched
    assert '\n' not in str(report) and '1 of the 6 tensors' in str(report)
    assert torch.equal(target[1].weight, before) and torch.equal(target[0].weight, torch.ones(5, 2))
    with pytest.raises(ConfigError, match='does not fit this model'):
        load_weights(net(5), dict(state_dict=weights), strict=True)


def test_another_architecture_is_one_message_with_a_remedy() -> None:
    backbone = net()
    detector = nn.ModuleDict(dict(backbone=net()))
    with pytest.raises(ConfigError, match=r"lack the prefix 'backbone\.'.*model\.backbone") as error:
        load_weights(detector, dict(state_dict=backbone.state_dict()))
    assert len(str(error.value)) < 600
    with pytest.raises(ConfigError, match="begin with 'backbone.'"):
        load_weights(net(), dict(state_dict=detector.state_dict()))
    with pytest.raises(ConfigError, match='0 of the 6 tensors'):
        load_weights(net(), dict(state_dict={'conv.weight': torch.ones(1)}))


class Pretrained(BaseModule):
    def __init__(self, path: Path, prefix: str | None = None) -> None:
        super().__init__(dict(type='Pretrained', checkpoint=str(path), **({'prefix': prefix} if prefix else {})))
        self.layer = nn.Linear(2, 2)


def test_pretrained_of_mmengine_reads_files_as_data(tmp_path: Path) -> None:
    weights = nn.ModuleDict(dict(layer=nn.Linear(2, 2))).state_dict()
    write_checkpoint(dict(state_dict={f'backbone.{k}': v for k, v in weights.items()}), tmp_path / 'x.pth')
    module = Pretrained(tmp_path / 'x.pth', 'backbone.')
    module.init_weights()
    assert torch.equal(module.layer.weight, weights['layer.weight'])
    torch.save(dict(state_dict=weights, x=Runs(os.system, f'touch {tmp_path}/mark')), tmp_path / 'evil.pth')
    with pytest.raises(ConfigError, match='would run code'):
        Pretrained(tmp_path / 'evil.pth').init_weights()
    with pytest.raises(ConfigError, match='does not fit'):
        write_checkpoint(dict(state_dict={'other': torch.ones(1)}), tmp_path / 'other.pth')
        Pretrained(tmp_path / 'other.pth').init_weights()
    assert not (tmp_path / 'mark').exists()


def test_what_is_written_is_readable_without_trust(tmp_path: Path) -> None:
    write_checkpoint(dict(state_dict={'w': nn.Parameter(torch.ones(1))}, meta=dict(a=np.float64(2), b=np.arange(2), c=(1, [2]), d=tmp_path),
                          message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1., 2.], [1, 1])))), tmp_path / 'x.pth')
    content = torch.load(tmp_path / 'x.pth', weights_only=True)
    assert content['meta']['a'] == 2 and content['meta']['b'].tolist() == [0, 1] and content['meta']['c'] == (1, [2])
    assert content['message_hub']['log_scalars']['loss'] == dict(v=[1., 2.], n=[1, 1], m=1000000)


def test_an_object_in_a_checkpoint_is_refused_with_its_key_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\['meta'\]\['x'\]\[1\] is a StrangeObject"):
        write_checkpoint(dict(meta=dict(x=[1, StrangeObject()])), tmp_path / 'x.pth')
    assert not any(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(dict(state_dict={'w': torch.ones(1)}), tmp_path / 'x.pth')

    def half(content: Any, file: Any) -> None:
        file.write(b'half')
        raise OSError('no space left')

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(OSError, match='no space'):
        write_checkpoint(dict(state_dict={'w': torch.zeros(1)}), tmp_path / 'x.pth')
    assert load_checkpoint(tmp_path / 'x.pth')['state_dict']['w'].item() == 1
    assert [p.name for p in tmp_path.iterdir()] == ['x.pth']


def test_plain_keeps_kinds_that_are_data() -> None:
    value = dict(a=(1, 2.5), b=[None, True], c={1: 'x'}, d=torch.ones(1), e=np.array(['x', 'y']))
    assert plain(value, '') | dict(d=0) == dict(a=(1, 2.5), b=[None, True], c={1: 'x'}, d=0, e=['x', 'y'])
