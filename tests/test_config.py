"""Config files: found, read, overridden, and what is said when one is wrong."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from detkit.config import dump_config, find_config, load_config
from detkit.registry import ConfigError

BASE = """
data_root = 'data/coco/'
max_epochs = 12
default_scope = 'mmdet'
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(640, 640))]
train_dataloader = dict(batch_size=2, dataset=dict(type='mmdet.CocoDataset', data_root=data_root, pipeline=pipeline))
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'val.json')
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02), clip_grad=None)
"""
CHILD = """
_base_ = ['./base.py']
model = dict(type='RetinaNet', root=_base_.data_root)
half = _base_.max_epochs // 2
param_scheduler = [dict(type='MultiStepLR', milestones=[half])]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'child.py').write_text(CHILD)
    return tmp_path


# ------------------------------------------------------------------------------------------------------------ reading
def test_bases_merge_and_mmdetection_s_scope_is_ours(files: Path) -> None:
    cfg = load_config(files / 'child.py')
    assert cfg.default_scope == 'detkit' and cfg.model.root == 'data/coco/' and cfg.param_scheduler[0].milestones == [6]
    assert cfg.filename == str(files / 'child.py')


def test_an_override_of_a_variable_reaches_everything_made_from_it(files: Path) -> None:
    words = ['data_root=/x/', 'max_epochs=4', 'optim_wrapper.optimizer.lr=0.1', 'train_dataloader.dataset.pipeline.1.scale=(320,320)',
             'optim_wrapper.clip_grad=dict(max_norm=1)']
    cfg = load_config(files / 'child.py', words)
    assert cfg.train_dataloader.dataset.data_root == '/x/' and cfg.model.root == '/x/' and cfg.val_evaluator.ann_file == '/x/val.json'
    assert cfg.train_cfg.max_epochs == 4 and cfg.param_scheduler[0].milestones == [2]
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1))
    assert cfg.train_dataloader.dataset.pipeline[1].scale == (320, 320)


def test_a_dict_over_a_known_section_merges_and_over_a_variable_replaces(files: Path) -> None:
    (files / 'x.py').write_text("meta = dict(classes=('a', 'b'))\nmodel = dict(type='A', meta=meta, depth=1)\n")
    cfg = load_config(files / 'x.py', dict(model=dict(depth=2), meta=dict(classes=('c',))))
    assert cfg.model == dict(type='A', meta=dict(classes=('c',)), depth=2)


@pytest.mark.parametrize('option, message', [
    ('data_rot=/x/', "no 'data_rot'. Did you mean 'data_root'"),
    ('optim_wraper.optimizer.lr=1', "Did you mean 'optim_wrapper'"),
    ('base_lr=1', "no 'base_lr'. In a file it is optim_wrapper = dict(optimizer=dict(lr=0.01))."),
    ('val_interval=2', "no 'val_interval'. In a file it is train_cfg = dict(val_interval=1)."),
    ('optim_wrapper.optimiser.lr=1', "optim_wrapper has no 'optimiser'. Did you mean 'optimizer'"),
    ('pipeline.1.scale=(1,1)', "'pipeline' is a variable of the config; nothing reads it afterwards"),
    ('train_dataloader.dataset.pipeline.7.scale=1', 'is a list of 2'),
    ('optim_wrapper.optimizer.lr.x=1', 'optim_wrapper.optimizer.lr is 0.02, no dict'),
    ('optim_wrapper.clip_grad.max_norm=1', 'optim_wrapper.clip_grad="dict(max_norm=...)"')])
def test_an_override_that_would_change_nothing_is_refused(files: Path, option: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(files / 'child.py', [option])
    assert message in str(error.value)


@pytest.mark.parametrize('text, message', [
    ('model = dict(\nx = 1', r'bad\.py:1: .*never closed'),
    ('a = 1\nb = a +\n', r'bad\.py:2: invalid syntax'),
    ('a = 1\n\nb = c\n', r"bad\.py:3: NameError: name 'c' is not defined"),
    ("_base_ = './bse.py'\n", r"bad\.py:1: _base_ './bse\.py' does not exist .*Did you mean 'base\.py'"),
    ("x = 1\n_base_ = ['nowhere::a/b.py']\n", "the package 'nowhere' is not installed"),
    ("_base_ = ['./base.py', './base.py']\n", r'bad\.py: KeyError: Duplicate key'),
    ("_base_ = './base.py'\ntrain_cfg = 3\noptim_wrapper = dict(optimizer=dict(lr=dict(x=1)))\n", r'bad\.py: TypeError: .*lr'),
    ("default_scope = 'elsewhere'\n", "default_scope: 'elsewhere' is unknown"),
    ("custom_imports = dict(imports=['not_there.at_all'])\n", "custom_imports.imports: cannot import 'not_there.at_all'"),
    ("x = '{{$DETKIT_NOT_SET:}}'\n", 'DETKIT_NOT_SET')])
def test_a_broken_file_is_named_with_its_line(files: Path, text: str, message: str) -> None:
    (files / 'bad.py').write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(files / 'bad.py')
    assert '\n' not in str(error.value)


def test_the_file_at_fault_is_named_not_the_one_that_inherits_it(files: Path) -> None:
    (files / 'base.py').write_text('a = 1\nb = 1 / 0\n')
    with pytest.raises(ConfigError, match=r'base\.py:2: ZeroDivisionError'):
        load_config(files / 'child.py')


@pytest.mark.parametrize('name, text, message', [
    ('x.json', '{"model": {"type": "A"},}', r'x\.json:1: JSONDecodeError'),
    ('x.yaml', 'model:\n  type: [A\n', r'x\.yaml:\d: '), ('x.py', b'a = "\xff"', 'is not UTF-8'), ('x.txt', '', 'it should end in')])
def test_other_formats_name_their_faults_too(tmp_path: Path, name: str, text: Any, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / name)


@pytest.mark.parametrize('name, text', [('x.json', '{"model": {"type": "A"}}'), ('x.yaml', 'model: {type: A}')])
def test_json_and_yaml_are_configs(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert load_config(tmp_path / name, ['model.depth=3']).model == dict(type='A', depth=3)


def test_lazy_configs_name_our_classes_for_mmdetection_s(tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text('from mmdet.models import RetinaNet\nfrom torch.optim import SGD\nlr = 0.1\n'
                                      'model = dict(type=RetinaNet)\noptim_wrapper = dict(optimizer=dict(type=SGD, lr=lr))\n')
    (tmp_path / 'child.py').write_text('from mmengine.config import read_base\nwith read_base():\n    from .base import *\n'
                                       'model.update(dict(x=1))\n')
    cfg = load_config(tmp_path / 'child.py', ['lr=0.5'])
    assert cfg.model == dict(type='RetinaNet', x=1) and cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.optim_wrapper.optimizer.type.__name__ == 'SGD'


def test_custom_modules_are_imported_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my_parts_of_a_test.py').write_text('LOADED = True\n')
    load_config(dict(custom_imports=dict(imports=['my_parts_of_a_test'])))
    assert sys.modules['my_parts_of_a_test'].LOADED
    load_config(dict(custom_imports=dict(imports=['not_there'], allow_failed_imports=True)))


def test_mmpretrain_need_not_be_there_for_configs_that_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its classes are ours; one that is not is named when it is built."""
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)             # not installed, whatever is
    cfg = load_config(dict(custom_imports=dict(imports=['mmpretrain.models'], allow_failed_imports=False), model=dict(type='A')))
    assert cfg.model.type == 'A'


def test_sources_are_not_changed(files: Path) -> None:
    source = dict(model=dict(type='A', _scope_='mmdet'))
    given = Config(source)
    assert load_config(source, ['model.depth=1']).model == dict(type='A', depth=1)
    assert load_config(given, ['model.depth=1']).model == dict(type='A', depth=1)
    assert source == dict(model=dict(type='A', _scope_='mmdet')) and 'depth' not in given.model


# ------------------------------------------------------------------------------------------------------------ finding
def test_shipped_configs_are_found_by_name(root: Path) -> None:
    file = root / 'configs/rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    for name in ('rtmdet_tiny_8xb32-300e_coco', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'detkit::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
                 str(file)):
        assert find_config(name) == file


@pytest.mark.parametrize('name, message', [
    ('rtmdet_tiny_8xb32_300e_coco', "Did you mean 'rtmdet_tiny_8xb32-300e_coco'"),
    ('retinanet', 'Of that method: retinanet_'),
    ('detkit::rtmdet/rtmdet_tini.py', 'no such config in detkit'),
    ('configs', 'is a folder')])
def test_an_unknown_name_offers_the_nearest(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(ConfigError) as error:
        find_config(name)
    assert message in str(error.value)


def test_a_base_of_ours_may_be_named_by_package(tmp_path: Path) -> None:
    (tmp_path / 'x.py').write_text("_base_ = 'detkit::_base_/default_runtime.py'\nmodel = dict(type='A')\n")
    cfg = load_config(tmp_path / 'x.py')
    assert cfg.default_hooks.checkpoint.type == 'CheckpointHook' and '_scope_' not in str(cfg)


def test_a_written_config_reads_back_the_same(files: Path) -> None:
    cfg = load_config(files / 'child.py')
    for name in ('out.py', 'out.json', 'out.yaml'):
        dump_config(cfg, files / name)
        again = load_config(files / name)
        assert again.train_cfg == cfg.train_cfg and again.train_dataloader.batch_size == 2
    cfg.model['made_by'] = len
    with pytest.raises(ConfigError, match=r'broken\.py'):
        dump_config(cfg, files / 'broken.py')
    assert not (files / 'broken.py').exists()


def test_reading_a_config_imports_no_torch(root: Path) -> None:
    code = "import sys; from detkit.config import load_config; load_config('rtmdet_tiny_8xb32-300e_coco'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root)
    assert done.stdout == 'False\n', done.stderr


# ------------------------------------------------------------------------------------------------- unusual ways to write a config
@pytest.mark.parametrize('name', ['x.py', 'x.json', 'x.yaml'])
def test_a_config_that_is_its_own_base_is_refused(tmp_path: Path, name: str) -> None:
    def based_on(base: str) -> str:
        return dict(json=f'{{"_base_": "{base}"}}', yaml=f"_base_: '{base}'", py=f"_base_ = '{base}'\n")[name[2:]]

    (tmp_path / name).write_text(based_on(f'./{name}'))
    with pytest.raises(ConfigError, match=rf'{name}:1: _base_ leads back to the same file \({name} -> {name}\)'):
        load_config(tmp_path / name)
    (tmp_path / name).write_text(based_on('./y.py'))
    (tmp_path / 'y.py').write_text(f"\n_base_ = ['./{name}']\n")
    with pytest.raises(ConfigError, match=rf'y\.py:2: _base_ leads back to the same file \({name} -> y.py -> {name}\)'):
        load_config(tmp_path / name)


@pytest.mark.parametrize('name, text', [
    ('c.py', "_base_ = './base.py'\nmodel = dict(type='A', a='{{_base_.data_root}}', b={{ _base_.max_epochs }}, "
             "c=['{{ _base_.train_cfg }}'])"),
    ('c.json', '{"_base_": "./base.py", "model": {"type": "A", "a": "{{_base_.data_root}}", "b": {{_base_.max_epochs}}, '
               '"c": ["{{_base_.train_cfg}}"]}}'),
    ('c.yaml', "_base_: ./base.py\nmodel:\n  type: A\n  a: '{{_base_.data_root}}'\n  b: {{_base_.max_epochs}}\n"
               "  c: ['{{_base_.train_cfg}}']")])
def test_a_template_may_stand_in_quotes(files: Path, name: str, text: str) -> None:
    (files / name).write_text(text)
    assert load_config(files / name).model == dict(type='A', a='data/coco/', b=12, c=[dict(max_epochs=12)])


def test_a_file_works_with_the_value_of_a_template(files: Path) -> None:
    (files / 'c.py').write_text('''
_base_ = './base.py'
root = '{{_base_.data_root}}'
epochs = {{_base_.max_epochs}}
load_from = f'{root}a.pth'
work_dir = {{_base_.data_root}} + 'b'
copied = {{_base_.train_cfg}}
copied['val_interval'] = epochs * 2
model = dict(type='A', copied=copied)
''')
    cfg = load_config(files / 'c.py')
    assert (cfg.load_from, cfg.work_dir, cfg.model.copied) == ('data/coco/a.pth', 'data/coco/b', dict(max_epochs=12, val_interval=24))
    assert cfg.train_cfg == dict(max_epochs=12)


@pytest.mark.parametrize('name, text, message', [
    ('c.py', "_base_ = './base.py'\nx = '{{_base_.data_root}}train'", r'c\.py:2: .* longer text .*Write _base_\.data_root, as in'),
    ('c.py', "_base_ = './base.py'\nx = f'{{_base_.data_root}}/{1}'", r'c\.py:2: .* stands inside a longer text'),
    ('c.py', "_base_ = './base.py'\nx = {{_base_.data_rot}}", r"c\.py:2: .*: no base has a 'data_rot'\. Did you mean"),
    ('c.json', '{"_base_": "./base.py", "x": "{{_base_.data_root}}train"}', 'stands inside a longer text'),
    ('c.json', '{"_base_": "./base.py", "load_from": "a", "load_from": "b"}', "the key 'load_from' stands there twice"),
    ('c.json', '{"_base_": "./base.py", "model": {"a": 1, "a": 2}}', "the key 'a' stands there twice"),
    ('c.yaml', '_base_: ./base.py\nmodel:\n  a: 1\n  a: 2\n', "the key 'a' stands there twice"),
    ('c.py', "_base_ = './base.py'\nload_from = '{{ fileDir }}/x'", r'c\.py:2: \{\{ fileDir \}\} stands for nothing\. There are file'),
    ('c.py', "_base_ = './base.py'\nload_from = '{{$HOME}}/x'", r'c\.py:2: .* stands for nothing.*\{\{\$NAME:default\}\}'),
    ('c.py', "_base_ = './base.py'\n_base_ = './c.py'", r'c\.py:2: _base_ is read from one plain _base_ = \.\.\. only'),
    ('c.py', "_base_ = ['./base.py']\n_base_ += ['./c.py']", r'c\.py:2: _base_ is read from one plain'),
    ('c.py', "if True:\n    _base_ = './base.py'", r'c\.py:2: _base_ is read from one plain'),
    ('c.py', "_base_: str = './base.py'", r'c\.py:1: _base_ is read from one plain'),
    ('c.py', "_base = './base.py'\nmodel = dict(type='A')", "'_base' names configs, but nothing reads it. Write _base_"),
    ('c.json', '{"base": ["./base.py"], "model": {"type": "A"}}', "'base' names configs, but nothing reads it. Write _base_"),
    ('c.py', "_base_ = './base.py'\nfrom .base import model", r'c\.py:2: .*a relative import .* Name the file in _base_'),
    ('c.py', "from mmdet.datasets import CocoDataset as C\nx = C.METAINFO['classes']", r'c\.py:2: .*is a name .*Write the value itself'),
    ('c.py', '_base_ = 3', r'_base_ is 3\. It should be a path, or a list of paths'),
    ('c.yaml', '- a', 'holds a list, not keys with values'),
    ('c.py', 'import torch\nx = torch.cuda.is_available()', r'c\.py:2: .*is a name in it; it cannot be called')])
def test_what_would_be_half_read_is_refused(files: Path, name: str, text: str, message: str) -> None:
    (files / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(files / name)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('imports', ['import os, json\nimport torch.nn as nn', 'from torch import nn\nfrom os import path as os'])
@pytest.mark.parametrize('first', [True, False])
def test_imports_beside_a_base_are_real_and_can_be_written(files: Path, imports: str, first: bool) -> None:
    base, name = "_base_ = './base.py'", 'os.path.sep' if 'json' in imports else 'os.sep'
    (files / 'c.py').write_text('\n'.join([imports, base] if first else [base, imports]) +
                                f"\nfrom torch.optim import SGD\nmodel = dict(type='A', sep={name}, kind=SGD, act=nn.ReLU, "
                                'n=nn.Linear(2, 3).out_features)')
    cfg = load_config(files / 'c.py')
    assert cfg.model == dict(type='A', sep='/', kind='torch.optim.sgd.SGD', act='torch.nn.modules.activation.ReLU', n=3)
    assert not {'os', 'nn', 'json', 'SGD'} & set(cfg)
    dump_config(cfg, files / 'out.py')
    assert load_config(files / 'out.py').model == cfg.model


def test_a_config_may_import_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / 'x.py').write_text("import os\nfrom os.path import join\nmodel = dict(type='A', x=join('a', os.path.basename('/b/c')))\n")
    assert load_config(tmp_path / 'x.py').model.x == 'a/c'


def test_a_template_may_stand_beside_an_import_of_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / 'x.py').write_text("import os\nmodel = dict(type='A', x='{{ fileBasenameNoExtension }}')\n")
    assert load_config(tmp_path / 'x.py').model.x == 'x'


READ_BASE = 'from mmengine.config import read_base\nwith read_base():\n    from {} import *\n'


def test_a_pure_python_config_uses_the_standard_library_at_once(files: Path) -> None:
    (files / 'x.py').write_text(f"{READ_BASE.format('.base')}from os.path import basename\nkind = dict(type='A', x=basename('/b/c'))\n")
    assert load_config(files / 'x.py').kind.x == 'c'


def test_a_pure_python_base_at_fault_is_named(files: Path) -> None:
    (files / 'broken.py').write_text('x = 1\ny = x / 0\n')
    (files / 'x.py').write_text(READ_BASE.format('.broken'))
    with pytest.raises(ConfigError, match=r'broken\.py:2: ZeroDivisionError'):
        load_config(files / 'x.py')


def test_a_pure_python_base_may_lie_in_a_package(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / 'configs_of_mine').mkdir()
    (files / 'configs_of_mine' / '__init__.py').touch()
    (files / 'base.py').rename(files / 'configs_of_mine' / 'base.py')
    monkeypatch.syspath_prepend(files)
    (files / 'x.py').write_text(READ_BASE.format('configs_of_mine.base'))
    assert load_config(files / 'x.py', ['max_epochs=4']).train_cfg.max_epochs == 4


@pytest.mark.parametrize('base', [r'.\base.py', r'sub\..\base.py', '~/base.py', r'~\base.py'])
def test_bases_with_backslashes_and_in_the_home_folder(files: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv('HOME', str(files))
    (files / 'sub').mkdir()
    for text in (f'_base_ = "{base}"', f"_base_ = ('{base}',)", f"_base_ = [r'{base}']"):          # '\\b' is one character in the first two
        (files / 'c.py').write_text(text + "\nmodel = dict(type='A', root=_base_.data_root)\n")
        assert load_config(files / 'c.py').model.root == 'data/coco/'
    (files / 'c.json').write_text('{"_base_": "./base.py", "model": {"type": "A"}}')
    assert load_config(files / 'c.json').train_cfg.max_epochs == 12


def test_a_config_named_with_backslashes_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert find_config(r'configs\rtmdet\rtmdet_nano_bccd.py') == find_config('rtmdet_nano_bccd')
    assert find_config(r'rtmdet\rtmdet_nano_bccd.py') == find_config('rtmdet_nano_bccd')
