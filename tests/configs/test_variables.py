"""A variable of a recipe reaches every place: no old value is left, whichever recipe, and schedules keep their shape."""
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from detkit.config import READ, load_config
from detkit.config_files import FileTree
from detkit.recipe_variables import VARIABLES
from detkit.registry import ConfigError

ROOT = Path(__file__).resolve().parents[2] / 'configs'
RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob('*.py') if '_base_' not in path.parts)
PARTS = ('train', 'val', 'test')
SIZES = {'scale', 'scales', 'img_scale', 'crop_size', 'size', 'border', 'random_size_range'}
WIDTH_FIRST = {'RandomCrop', 'RandomCenterCropPad', 'Pad', 'CachedMosaic', 'CachedMixUp', 'Mosaic'}      # their sizes are (width, height)

# No default of a recipe is equal to one of these.
VALUES = dict(
    data_root='elsewhere/', train_ann_file='a.json', val_ann_file='b.json', test_ann_file='c.json', train_images='one/', val_images='two/',
    test_images='three/', train_segments='s1/', val_segments='s2/', test_segments='s3/', val_instances='i1.json', test_instances='i2.json',
    classes=('v', 'w', 'x', 'y', 'z'), stuff_classes=('u',), image_size=(1504, 992), test_size=(1120, 736), keep_ratio=True, batch_size=7,
    val_batch_size=3, num_workers=11, max_epochs=2520, max_iters=1000, val_interval=13, warmup_iters=17, base_lr=0.5)
FOLLOW = {'num_classes', 'metainfo'}                       # of classes
# A recipe that has no place for a variable of its base: tests see whole images; no PNGs beside instances.
WITHOUT_EFFECT = {
    'centernet/centernet_r18_8xb16-crop512-140e_coco.py': {'test_size'},
    'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py': {'test_size'},
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': {
        'stuff_classes', 'train_segments', 'val_segments', 'test_segments', 'val_instances', 'test_instances'}}


def walk(node: Any, path: str = '') -> Iterator[tuple[str, str, Any]]:
    """``(path, key, value)`` of everything in ``node``."""
    items = dict.items(node) if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        yield f'{path}.{key}', str(key), value
        yield from walk(value, f'{path}.{key}')


def sections(cfg: Config) -> dict:
    return {key: value for key, value in dict.items(cfg._cfg_dict) if key in READ}


def inner(dataset: dict) -> dict:
    return dataset if 'ann_file' in dataset else inner(dataset['dataset'])


def declared(name: str) -> set[str]:
    tree = FileTree(ROOT / name)
    return tree.variables(list(tree.names))


@pytest.fixture(scope='module', params=RECIPES)
def pair(request: pytest.FixtureRequest) -> tuple[str, set[str], Config, Config]:
    """A recipe, its variables, the config as it is and the config with another value for each."""
    name = request.param
    names = declared(name)
    return name, names, load_config(ROOT / name), load_config(ROOT / name, {n: VALUES[n] for n in names - FOLLOW})


def test_no_old_value_is_left(pair: tuple[str, set[str], Config, Config]) -> None:
    name, names, old, new = pair
    check_paths(name, names, old, new)
    check_classes(name, new)
    check_sizes(old, new)
    check_loaders(names, new)
    check_schedule(names, old, new)


def check_paths(name: str, names: set[str], old: Config, new: Config) -> None:
    text = repr(sections(new))
    for variable in sorted(n for n in names if VARIABLES[n] in ('file', 'folder')):
        assert repr(old[variable])[1:-1] not in text, f'{variable} is left'
        assert VALUES[variable] in text or variable in WITHOUT_EFFECT.get(name, ()), f'{variable} goes nowhere'
    for part in PARTS:
        dataset = inner(new[f'{part}_dataloader'].dataset)
        assert (dataset.data_root, dataset.ann_file, dataset.data_prefix.img) == (
            'elsewhere/', VALUES[f'{part}_ann_file'], VALUES[f'{part}_images'])
    assert {v.ann_file for p in ('val', 'test') for v in [new[f'{p}_evaluator']] if isinstance(v, dict)} <= {
        'elsewhere/b.json', 'elsewhere/c.json'}


def check_classes(name: str, new: Config) -> None:
    stuff = VALUES['stuff_classes'] if 'panoptic' in name else ()
    counts = {(path, value) for path, key, value in walk(new.model) if key in ('num_classes', 'num_things_classes')}
    assert {value for _, value in counts} <= {5} and (counts or new.model.type == 'RPN'), counts
    assert {value for _, key, value in walk(new.model) if key == 'num_stuff_classes'} <= {len(stuff)}
    weights = [value for _, key, value in walk(new.model) if key == 'class_weight' and isinstance(value, list)]
    assert all(len(value) == 5 + len(stuff) + 1 for value in weights)
    for part in PARTS:
        metainfo = inner(new[f'{part}_dataloader'].dataset).metainfo
        assert tuple(metainfo.classes)[:5] == VALUES['classes'] and metainfo.get('palette') is None
        assert 'panoptic' not in name or metainfo.stuff_classes == stuff


def check_sizes(old: Config, new: Config) -> None:
    places = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'custom_hooks', 'tta_pipeline')
    for place in places:
        after = {path: value for path, key, value in walk(new.get(place))}
        for path, key, value in walk(old.get(place)):
            if key in SIZES and value is not None:
                assert after[path] != value, f'{place}{path} is left at {value}'
        for path, _, step in walk(new.get(place)):
            if isinstance(step, dict) and step.get('type') in WIDTH_FIRST and step.get('crop_type') != 'absolute_range':
                sides = [step[key] for key in ('crop_size', 'size', 'img_scale') if step.get(key)]
                assert all(width > height for width, height in sides), f'{place}{path}: {sides} is (height, width)'
    augments = new.model.get('data_preprocessor', {}).get('batch_augments') or ()
    assert all(value != before for (_, key, value), (_, _, before) in zip(walk(augments), walk(
        old.model.data_preprocessor.get('batch_augments') or ())) if key in SIZES)
    for part in ('val', 'test'):
        for step in inner(new[f'{part}_dataloader'].dataset).pipeline:
            assert step.get('scale', VALUES['test_size']) == VALUES['test_size'] and step.get('keep_ratio', True)


def check_loaders(names: set[str], new: Config) -> None:
    assert new.train_dataloader.batch_size == 7 and new.val_dataloader.batch_size == new.test_dataloader.batch_size == 3
    assert {new[f'{part}_dataloader'].num_workers for part in PARTS} == {11}
    if 'val_interval' in names:
        assert new.train_cfg.val_interval == 13 and new.default_hooks.checkpoint.interval in (1, 13)


def check_schedule(names: set[str], old: Config, new: Config) -> None:
    length = 'max_iters' if 'max_iters' in names else 'max_epochs'
    assert new.train_cfg[length] == VALUES[length]
    ratio = VALUES[length] / old[length]
    before, after = ([s] if isinstance(s, dict) else s for s in (old.param_scheduler, new.param_scheduler))
    for one, other in zip(before, after, strict=True):
        if one.by_epoch or length == 'max_iters':
            for key in ('begin', 'end', 'T_max'):
                assert other.get(key, 0) == pytest.approx(one.get(key, 0) * ratio, abs=max(1, ratio)), (other, key)
            milestones = [m * ratio for m in one.get('milestones', [])]
            assert other.get('milestones', []) == pytest.approx(milestones, abs=max(1, ratio))
        else:
            assert other.end == 17
        if 'eta_min' in one:
            assert other.eta_min / one.eta_min == pytest.approx(0.5 / old.base_lr)
    if 'base_lr' in names:
        assert new.optim_wrapper.optimizer.lr == 0.5
    for one, other in zip(old.custom_hooks if 'custom_hooks' in old else (), new.get('custom_hooks', ())):
        for key in {'switch_epoch', 'num_last_epochs'} & set(one):
            assert other[key] == pytest.approx(one[key] * ratio, abs=max(1, ratio))


def test_aspect_ratios_are_kept_but_where_a_recipe_says_why(pair: tuple[str, set[str], Config, Config]) -> None:
    name, _, cfg, _ = pair
    stretching = [path for path, _, step in walk(sections(cfg)) if isinstance(step, dict) and step.get('type') == 'Resize'
                  and 'scale' in step and not step.get('keep_ratio')]
    assert not stretching or 'keep_ratio = False            # BCCD' in (ROOT / name).read_text(), stretching


@pytest.mark.parametrize('epochs', [1, 2, 3, 7, 20])
@pytest.mark.parametrize('name', ['rtmdet/rtmdet_nano_bccd.py', 'yolox/yolox_nano_bccd.py', 'yolox/yolox_s_8xb8-300e_coco.py',
                                  'rtmdet/rtmdet-ins_tiny_nuclei.py', 'mask_rcnn/mask-rcnn_r18_fpn_nuclei.py',
                                  'tood/tood_r50_fpn_1x_coco.py', 'quickstart/rtmdet_nano_shapes.py', 'detr/detr_r50_8xb2-500e_coco.py'])
def test_a_short_training_has_a_schedule_that_fits(name: str, epochs: int) -> None:
    cfg = load_config(ROOT / name, dict(max_epochs=epochs))
    assert cfg.train_cfg.max_epochs == epochs
    for scheduler in cfg.param_scheduler:
        if scheduler.by_epoch:
            assert 0 <= scheduler.begin < scheduler.end <= epochs and scheduler.get('T_max', 1) > 0
            assert all(1 <= m <= epochs for m in scheduler.get('milestones', ()))
    for hook in cfg.get('custom_hooks', ()):
        assert 0 < hook.get('switch_epoch', 1) < max(epochs, 2) and 0 <= hook.get('num_last_epochs', 0) < epochs


CHILD = """
_base_ = 'detkit::{}'
data_root = 'my/'
train_ann_file, val_ann_file = 'train.json', 'val.json'
classes = tuple('ab')
max_epochs = 4 * 5
batch_size: int = 4
if True:
    image_size = (96, 64)
"""


@pytest.mark.parametrize('name', ['rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'cascade_rcnn/cascade-mask-rcnn_r101_fpn_1x_coco.py'])
def test_a_file_sets_variables_in_any_form_as_the_command_line_does(tmp_path: Path, name: str) -> None:
    (tmp_path / 'my.py').write_text(CHILD.format(name))
    words = ['data_root=my/', 'train_ann_file=train.json', 'val_ann_file=val.json', 'classes=a,b', 'max_epochs=20', 'batch_size=4',
             'image_size=96,64']
    assert sections(load_config(tmp_path / 'my.py')) == sections(load_config(ROOT / name, words))


def test_the_outermost_file_and_then_the_command_line_decide(tmp_path: Path) -> None:
    (tmp_path / 'a.py').write_text("_base_ = 'detkit::retinanet/retinanet_r50_fpn_1x_coco.py'\nmax_epochs = 24\nbatch_size = 3\n")
    (tmp_path / 'b.py').write_text("_base_ = './a.py'\nmax_epochs = _base_.max_epochs // 2 + 6\n")
    assert load_config(tmp_path / 'b.py').param_scheduler[1].milestones == [12, 16]                # of 18 epochs
    cfg = load_config(tmp_path / 'b.py', ['max_epochs=36'])
    assert cfg.train_cfg.max_epochs == 36 and cfg.param_scheduler[1].milestones == [24, 33] and cfg.train_dataloader.batch_size == 3


@pytest.mark.parametrize('suffix, text', [
    ('json', '{"_base_": "detkit::rtmdet/rtmdet_nano_bccd.py", "max_epochs": 20, "classes": ["a", "b"]}'),
    ('yaml', '_base_: detkit::rtmdet/rtmdet_nano_bccd.py\nmax_epochs: 20\nclasses: [a, b]\n'),
    ('py', "_base_ = 'detkit::rtmdet/rtmdet_nano_bccd.py'\nmax_epochs = 20\nmetainfo = dict(classes=('a', 'b'))\n")])
def test_json_yaml_and_metainfo_set_variables_too(tmp_path: Path, suffix: str, text: str) -> None:
    (tmp_path / f'my.{suffix}').write_text(text)
    cfg = load_config(tmp_path / f'my.{suffix}')
    assert cfg.model.bbox_head.num_classes == 2 and cfg.param_scheduler[1].end == 20 and cfg.custom_hooks[1].switch_epoch == 18
    assert [tuple(cfg[f'{part}_dataloader'].dataset.metainfo.classes) for part in PARTS] == [('a', 'b')] * 3


@pytest.mark.parametrize('line, message', [
    ("classes = 'cat'", "classes='cat' should be a list of names, as in ('cat', 'dog'); one class: ('cat',)"),
    ("classes = ('a', 'a')", 'each name once'), ("classes = ('',)", "classes=('',) should be a list of names"),
    ('classes = ()', 'classes=() should be a list of names'),
    ("max_epochs = 'ten'", "max_epochs='ten' should be a whole number above 0"),
    ('batch_size = 0', 'batch_size=0 should be a whole number above 0'),
    ('num_workers = -1', 'num_workers=-1 should be a whole number, 0 or more'),
    ('image_size = 640', 'image_size=640 should be (width, height) in pixels'),
    ('keep_ratio = 1', 'keep_ratio=1 should be True or False'),
    ('data_root = None', 'data_root=None should be a folder'),
    ("base_lr = '1e-3'", "base_lr='1e-3' should be a number above 0")])
def test_a_variable_of_the_wrong_kind_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / 'my.py').write_text(f"_base_ = 'detkit::rtmdet/rtmdet_nano_bccd.py'\n{line}\n")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / 'my.py')
    assert str(error.value).startswith(f"{tmp_path / 'my.py'}") and message in str(error.value)


def test_one_class_by_the_command_line_and_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    cfg = load_config('rtmdet_nano_bccd', ['classes=cat', 'data_root=~/cats'])
    assert cfg.model.bbox_head.num_classes == 1 and cfg.train_dataloader.dataset.metainfo.classes == ('cat',)
    assert cfg.val_evaluator.ann_file == f'{tmp_path}/cats/annotations/val.json'


def test_a_copy_of_the_recipes_works_as_they_do_and_other_folders_are_mmdetections(tmp_path: Path) -> None:
    name = 'swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py'
    shutil.copytree(ROOT, tmp_path / 'copy')
    assert sections(load_config(tmp_path / 'copy' / name)) == sections(load_config(ROOT / name))
    (tmp_path / 'base.py').write_text("max_epochs = 12\nmodel = dict(type='A', epochs=max_epochs)\n")
    (tmp_path / 'my.py').write_text("_base_ = './base.py'\nmax_epochs = 3\nmodel = dict(x=max_epochs)\n")
    assert load_config(tmp_path / 'my.py').model == dict(type='A', epochs=12, x=3)
