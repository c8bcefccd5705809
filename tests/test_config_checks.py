"""Settings that would change nothing are refused: names that nothing reads, and MMDetection 2's."""
from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from mmengine.config import Config

from detkit.config import load_config
from detkit.config_checks import check_keys
from detkit.engine.prepare import check_sections
from detkit.registry import ConfigError
from detkit.renamed_settings import SECTIONS

OTHER = """
dataset_type = 'CocoDataset'
data_root = 'data/coco/'
max_epochs = 12
half = max_epochs // 2
pipeline = [dict(type='LoadImageFromFile')]
model = dict(type='RetinaNet', bbox_head=dict(num_classes=80))
train_dataloader = dict(batch_size=2, dataset=dict(type=dataset_type, data_root=data_root, pipeline=pipeline))
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', milestones=[half])]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02))
"""
FOREIGN, RECIPE = './other.py', 'detkit::rtmdet/rtmdet_nano_bccd.py'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'other.py').write_text(OTHER)
    return tmp_path


def refused(path: Path, text: str, options: list[str] | None = None) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path, options)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('base, line, message', [
    (FOREIGN, 'optim_wraper = dict(optimizer=dict(lr=1))', "'optim_wraper' is set, but nothing reads it. Did you mean 'optim_wrapper'"),
    (RECIPE, 'optim_wraper = dict(optimizer=dict(lr=1))', "Did you mean 'optim_wrapper'"),
    (FOREIGN, 'max_epochs = 3', 'other.py:4 has a variable of that name, but it goes into param_scheduler, train_cfg before'),
    (FOREIGN, 'max_epochs = 3', '--cfg-options max_epochs=..., which replaces the variable'),
    (FOREIGN, "data_root = 'mine/'", 'other.py:3 has a variable of that name, but it goes into train_dataloader before'),
    (FOREIGN, 'batch_size = 4', 'Set train_dataloader = dict(batch_size=2)'),
    (FOREIGN, "metainfo = dict(classes=('a',))", 'Set the metainfo of each dataset: train_dataloader = '),
    (FOREIGN, 'img_scale = (640, 640)', 'Set the scale of Resize in each pipeline'),
    (FOREIGN, 'max_iters = 5', 'Set train_cfg = dict(max_iters=90000)'),
    (FOREIGN, 'lr = 0.1', 'Set optim_wrapper = dict(optimizer=dict(lr=0.01))'),
    (FOREIGN, 'for k in range(3):\n    total = k', 'Use it in this file, or take it out'),
    (FOREIGN, 'half, third = 6, 4', "'half' is set"),
    (FOREIGN, 'pipelin = []', "Did you mean 'pipeline'"),
    (RECIPE, 'max_epoch = 3', "Did you mean 'max_epochs'"),
    (RECIPE, 'max_iters = 3', 'This recipe is counted by max_epochs: set that'),
    ('detkit::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 'max_epochs = 3', 'This recipe is counted by max_iters: set that'),
    (RECIPE, 'train_pipeline = []', 'rtmdet_nano_bccd.py:')])
def test_a_name_that_nothing_reads_is_refused(folder: Path, base: str, line: str, message: str) -> None:
    said = refused(folder / 'my.py', f'_base_ = {base!r}\n\n{line}\n')
    assert message in said and said.startswith(f"{folder / 'my.py'}:{3 + line.count(chr(10))}: '")


@pytest.mark.parametrize('name', sorted(SECTIONS))
def test_a_setting_of_mmdetection_2_over_a_base_of_today_is_told_what_it_is_now(folder: Path, name: str) -> None:
    message = refused(folder / 'my.py', f'_base_ = {RECIPE!r}\n{name} = dict(step=[8, 11])\n')
    assert f"my.py:2: '{name}' is " in message and "MMDetection 2's form" in message and f'Now: {SECTIONS[name][1]}.' in message


@pytest.mark.parametrize('line', [
    'max_epochs = 3\ntrain_cfg = dict(max_epochs=max_epochs)', "data_root = 'data/coco/'", '_note = 3', 'import math\nfrom os import sep',
    'def double(x): return 2 * x\ntrain_cfg = dict(max_epochs=double(2))', 'k = 3\ntrain_cfg = dict(max_epochs=[k for _ in range(1)][0])',
    'names = []\nfor name in ("a",): names.append(name)\nlog_processor = dict(names=names)', 'lr: float = 1\nauto_scale_lr = dict(x=lr)',
    'k = 3\ndel k'])
def test_a_name_that_is_read_is_not(folder: Path, line: str) -> None:
    (folder / 'my.py').write_text(f'_base_ = {FOREIGN!r}\n{line}\n')
    load_config(folder / 'my.py')


def test_reading_before_the_name_is_set_again_is_no_reading(folder: Path) -> None:
    said = refused(folder / 'my.py', f'_base_ = {FOREIGN!r}\nlr = 1\noptim_wrapper = dict(optimizer=dict(lr=lr))\nlr = 2\n')
    assert "my.py:4: 'lr' is set" in said


@pytest.mark.parametrize('child', ['model = dict(x=_base_.extra)', 'model = dict(x={{_base_.extra}})', "model = dict(x='{{_base_.extra}}')",
                                   "model = dict(x=_base_['extra'])", "model = dict(x=_base_.get('extra'))"])
def test_a_name_may_be_read_by_a_file_above(folder: Path, child: str) -> None:
    (folder / 'middle.py').write_text(f'_base_ = {FOREIGN!r}\nextra = 5\n')
    assert 'extra' in refused(folder / 'top.py', "_base_ = './middle.py'\n")
    (folder / 'top.py').write_text(f"_base_ = './middle.py'\n{child}\n")
    assert load_config(folder / 'top.py').model.x == 5


def test_json_yaml_and_pure_python_configs_are_held_to_it_too(folder: Path) -> None:
    assert "a.json:2: 'optim_wraper'" in refused(folder / 'a.json', '{"_base_": "./other.py",\n "optim_wraper": {"a": 1}}')
    assert "a.yaml:2: 'max_epochs'" in refused(folder / 'a.yaml', '_base_: ./other.py\nmax_epochs: 3\n')
    start = 'from mmengine.config import read_base\nwith read_base():\n    from .other import *\n'
    assert "lazy.py:4: 'max_epochs'" in refused(folder / 'lazy.py', start + 'max_epochs = 3\n')
    (folder / 'lazy.py').write_text(start + 'from torch.optim import SGD\nlr = 3\noptim_wrapper.optimizer.lr = lr\nmodel.update(a=half)\n')
    assert load_config(folder / 'lazy.py').optim_wrapper.optimizer.lr == 3


def test_parts_of_a_config_and_dumped_configs_are_left_alone(folder: Path) -> None:
    (folder / 'part.py').write_text("colour = 'red'\ntrain_dataloader = dict()\n")
    load_config(folder / 'part.py')
    load_config(folder / 'other.py').dump(folder / 'dumped.py')
    cfg = load_config(folder / 'dumped.py')
    assert cfg.max_epochs == 12                            # which nothing reads, and which is right
    with pytest.raises(ConfigError, match=r'dumped\.py:\d+ has it, but nothing is made from it there\. Set train_cfg = '):
        load_config(folder / 'dumped.py', ['max_epochs=3'])
    assert "Did you mean 'optim_wrapper'" in refused(folder / 'dumped.py', (folder / 'dumped.py').read_text() + '\noptim_wraper = dict()\n')


def test_a_value_that_was_edited_at_the_top_of_a_dumped_config_is_told(folder: Path) -> None:
    path = folder / 'dumped.py'
    path.write_text("lr = 0.1\nmax_epochs = 12\nmodel = dict(type='A')\nother = 5\ntrain_cfg = dict(max_epochs=12, type='Loop')\n"
                    "optim_wrapper = dict(optimizer=dict(lr=0.02), extra=[dict(lr=0.1)])\n")
    assert load_config(path)._notes == []                  # lr is one of the two
    path.write_text(path.read_text().replace('max_epochs = 12', 'max_epochs = 3').replace('lr = 0.1', 'lr = 0.3'))
    notes = [f'{path}:1: lr=0.3 changes nothing in this dumped config: optim_wrapper.optimizer.lr is 0.02. Set optim_wrapper.optimizer.lr.',
             f'{path}:2: max_epochs=3 changes nothing in this dumped config: train_cfg.max_epochs is 12. Set train_cfg.max_epochs.']
    assert load_config(path)._notes == notes and load_config(load_config(path))._notes == notes


def test_configs_given_in_python(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'optim_wraper', which nothing reads. Did you mean 'optim_wrapper'"):
        load_config(dict(model=dict(type='A'), optim_wrapper=dict(), optim_wraper=dict()))
    with pytest.raises(ConfigError, match="a config given in Python has no _base_; here it is 'x.py'"):
        load_config(dict(_base_='x.py', optim_wrapper=dict(optimizer=dict(lr=1))))
    (folder / 'my.py').write_text(f'_base_ = {FOREIGN!r}\ncustom_hook = dict(type="X")\ncustom_hooks = [custom_hook]\n')
    check_keys(load_config(folder / 'my.py'))
    check_keys(Config.fromfile(str(folder / 'my.py')))


@pytest.mark.parametrize('key, value, message', [
    ('max_epochs', 3, 'max_epochs=3 was set after the config had been read, and nothing reads it.'),
    ('max_epochs', 3, "Use load_config(file, {'max_epochs': ...})"),
    ('max_epochs', 2, "Use load_config(file, {'max_epochs': ...})"), ('seed', 0, 'Now: randomness = dict(seed=0)'),
    ('gpu_ids', range(1), 'Now: nothing: CUDA_VISIBLE_DEVICES chooses the GPUs'), ('device', 'cuda', 'the GPU is used if there is one'),
    ('batch_size', 77, 'Use train_dataloader = dict(batch_size=2)'), ('custom_hoks', [], "Did you mean 'custom_hooks'"),
    ('colour', 'red', "Use '_colour', if your own code reads it")])
def test_a_variable_set_after_reading_is_refused(folder: Path, key: str, value: object, message: str) -> None:
    cfg = load_config(folder / 'other.py')
    cfg[key] = value
    with pytest.raises(ConfigError) as error:
        check_sections(cfg)
    assert message in str(error.value)


def test_a_variable_that_is_put_into_its_places_by_hand_is_not(folder: Path) -> None:
    cfg = load_config(folder / 'other.py')
    cfg.data_root, cfg._note = 'mine/', 5
    cfg.train_dataloader.dataset.data_root = cfg.data_root
    check_keys(cfg)


@pytest.mark.parametrize('key, value, now', [
    ('data', 'dict(samples_per_gpu=2, workers_per_gpu=2, train=dict())', 'train_dataloader, val_dataloader, test_dataloader'),
    ('optimizer', "dict(type='SGD', lr=0.02)", "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(...))"),
    ('optimizer_config', 'dict(grad_clip=None)', 'optim_wrapper = dict(clip_grad=dict(...))'),
    ('lr_config', "dict(policy='step', step=[8, 11])", 'param_scheduler = ['),
    ('runner', "dict(type='EpochBasedRunner', max_epochs=12)", "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12)"),
    ('total_epochs', '12', 'train_cfg = dict(max_epochs=12)'), ('evaluation', "dict(interval=1, metric='bbox')", 'val_evaluator = '),
    ('checkpoint_config', 'dict(interval=1)', "default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))"),
    ('log_config', 'dict(interval=50)', 'default_hooks = dict(logger='), ('dist_params', "dict(backend='nccl')", 'env_cfg = dict(dist_cfg'),
    ('workflow', "[('train', 1)]", 'validation runs every train_cfg.val_interval epochs'),
    ('cudnn_benchmark', 'True', 'env_cfg = dict(cudnn_benchmark=True)'), ('fp16', 'dict(loss_scale=512.)', 'AmpOptimWrapper'),
    ('resume_from', "'x.pth'", 'resume = True'), ('seed', '0', 'randomness = dict(seed=0)'),
    ('train_cfg', 'dict(rpn=dict(assigner=dict()))', 'model = dict(train_cfg=dict(...))'),
    ('test_cfg', 'dict(nms_pre=1000)', 'model = dict(test_cfg=dict(...))')])
def test_a_section_of_mmdetection_2_names_the_one_of_today(tmp_path: Path, key: str, value: str, now: str) -> None:
    said = refused(tmp_path / 'old.py', f"model = dict(type='RetinaNet')\n\n{key} = {value}\n")
    assert said.startswith(f"{tmp_path / 'old.py'}:3: '{key}' is MMDetection 2's form, which nothing reads. Now: ") and now in said
    with pytest.raises(ConfigError) as error:
        load_config(dict(model=dict(type='RetinaNet'), **{key: eval(value)}))
    assert f"'{key}' is MMDetection 2's form" in str(error.value) and now in str(error.value)


@pytest.mark.parametrize('line, place, now', [
    ('train_dataloader = dict(samples_per_gpu=2)', 'train_dataloader.samples_per_gpu', 'batch_size'),
    ('val_dataloader = dict(workers_per_gpu=2)', 'val_dataloader.workers_per_gpu', 'num_workers'),
    ("train_dataloader = dict(dataset=dict(type='CocoDataset', img_prefix='a/'))", 'train_dataloader.dataset.img_prefix', 'data_prefix'),
    ("train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict(type='CocoDataset', classes=('a',))))",
     'train_dataloader.dataset.dataset.classes', 'metainfo=dict(classes=(...))'),
    ("train_dataloader = dict(dataset=dict(pipeline=[dict(type='Normalize', mean=[1])]))", 'pipeline.0', 'model.data_preprocessor'),
    ("train_dataloader = dict(dataset=dict(pipeline=[dict(type='X'), dict(type='mmdet.Collect')]))", 'pipeline.1', 'PackDetInputs'),
    ("train_dataloader = dict(dataset=dict(pipeline=[dict(type='DefaultFormatBundle')]))", 'pipeline.0', 'take it out'),
    ("test_dataloader = dict(dataset=dict(pipeline=[dict(type='ImageToTensor')]))", 'pipeline.0', 'take it out'),
    ("test_dataloader = dict(dataset=dict(pipeline=[dict(type='MultiScaleFlipAug')]))", 'pipeline.0', 'tta_pipeline'),
    ("train_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', img_scale=(1, 2))]))", 'pipeline.0.img_scale', 'Now: scale.'),
    ("train_dataloader = dict(dataset=dict(pipeline=[dict(type='RandomFlip', flip_ratio=1)]))", 'pipeline.0.flip_ratio', 'Now: prob.'),
    ("model = dict(type='A', pretrained='torchvision://resnet50', backbone=dict())", 'model.pretrained', 'model.backbone.init_cfg')])
def test_a_setting_of_mmdetection_2_inside_a_section(tmp_path: Path, line: str, place: str, now: str) -> None:
    said = refused(tmp_path / 'old.py', f"model = dict(type='RetinaNet')\n{line}\n")
    assert said.startswith(f"{tmp_path / 'old.py'}:2: '") and place in said and now in said


def test_several_old_settings_are_named_at_once_and_the_file_that_has_them(tmp_path: Path) -> None:
    (tmp_path / 'old.py').write_text("model = dict(type='A')\noptimizer = dict()\nrunner = dict()\n")
    said = refused(tmp_path / 'my.py', "_base_ = './old.py'\nlr_config = dict()\n")
    assert said.startswith(f"{tmp_path / 'old.py'}:2: 'optimizer'") and "Old too: 'lr_config', 'runner'." in said


def test_variables_of_today_may_have_old_names(tmp_path: Path) -> None:
    (tmp_path / 'my.py').write_text("optimizer = dict(type='SGD')\nmodel = dict(type='A')\noptim_wrapper = dict(optimizer=optimizer)\n")
    assert load_config(tmp_path / 'my.py').optim_wrapper.optimizer.type == 'SGD'


@pytest.mark.parametrize('option, now', [
    ('data.samples_per_gpu=2', 'train_dataloader.batch_size=...'), ('data.workers_per_gpu=2', 'train_dataloader.num_workers=...'),
    ('data.train.ann_file=x', 'train_dataloader.dataset.ann_file=...'), ('optimizer.lr=1', 'optim_wrapper.optimizer.lr=...'),
    ('runner.max_epochs=1', 'train_cfg.max_epochs=...'), ('total_epochs=1', 'train_cfg.max_epochs=...'),
    ('evaluation.interval=1', 'train_cfg.val_interval=...'), ('checkpoint_config.interval=1', 'default_hooks.checkpoint.interval=...'),
    ('model.pretrained=None', 'model.backbone.init_cfg.checkpoint=...'), ('seed=1', 'randomness.seed=...')])
def test_options_of_mmdetection_2(option: str, now: str) -> None:
    with pytest.raises(ConfigError, match="is MMDetection 2's form, which nothing reads. Write ") as error:
        load_config('rtmdet_nano_bccd', [option])
    assert str(error.value).endswith(now)


def test_names_that_mmdetection_s_own_configs_carry_are_let_through(folder: Path) -> None:
    text = f'_base_ = {FOREIGN!r}\ncaption_prompt = dict()\n'
    assert "'caption_prompt' is set" in refused(folder / 'mine.py', text)
    (folder / 'grounding_dino_swin-t_pretrain_odinw13.py').write_text(text)
    load_config(folder / 'grounding_dino_swin-t_pretrain_odinw13.py')


def test_reading_a_section_of_mmdetection_2_from_a_config_names_the_one_of_today(folder: Path) -> None:
    cfg = load_config(folder / 'other.py')
    with pytest.raises(AttributeError, match=r"the config has no 'optimizer', which is MMDetection 2's form. Now: optim_wrapper = "):
        cfg.optimizer.lr = 0.01
    with pytest.raises(KeyError, match=r"no 'data', which is MMDetection 2's form. Now: train_dataloader"):
        cfg['data']['train']
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        cfg.colour
    assert (cfg.get('optimizer'), hasattr(cfg, 'data'), copy.deepcopy(cfg).model) == (None, False, cfg.model)
    assert pickle.loads(pickle.dumps(cfg)).max_epochs == 12


def test_a_section_of_mmdetection_2_that_is_set_in_python_is_refused(folder: Path) -> None:
    cfg = load_config(folder / 'other.py')
    cfg.model.backbone = dict(type='ResNet')
    cfg.model.pretrained = None
    with pytest.raises(ConfigError, match="'model.pretrained' is MMDetection 2's form"):
        check_keys(cfg)


@pytest.mark.parametrize('line', [
    'optim_wrapper = dict(optimizer=dict(lr=(z := 0.1) * z))', "rate = 0.1\noptim_wrapper = dict(optimizer=dict(lr=locals()['rate']))",
    "rate = 0.1\noptim_wrapper = dict(optimizer=dict(lr=eval('rate')))",
    "try:\n    import no_such_module\n    found = True\nexcept ImportError:\n    found = False\nload_from = 'a' if found else None"])
def test_a_name_that_is_read_in_an_unusual_way_is_not_refused(folder: Path, line: str) -> None:
    (folder / 'my.py').write_text(f'_base_ = {FOREIGN!r}\n{line}\n')
    check_keys(load_config(folder / 'my.py'))


def test_a_config_that_mmengine_has_read_is_checked_too(folder: Path) -> None:
    (folder / 'my.py').write_text(f'_base_ = {FOREIGN!r}\noptim_wraper = dict(optimizer=dict(lr=1))\n')
    with pytest.raises(ConfigError, match=r"my\.py:2: 'optim_wraper' is set, but nothing reads it"):
        load_config(Config.fromfile(str(folder / 'my.py')))
    folder = folder / 'recipes'
    (folder / '_base_').mkdir(parents=True)
    (folder / 'other.py').write_text(OTHER)
    (folder / '_base_' / 'default_runtime.py').write_text("default_scope = 'detkit'\n")
    (folder / 'my.py').write_text(f'_base_ = {FOREIGN!r}\nmax_epochs = 3\n')
    with pytest.raises(ConfigError, match=r"mmengine's Config\.fromfile does not pass max_epochs on to the bases\. Read the file"):
        load_config(Config.fromfile(str(folder / 'my.py')))
    assert load_config(folder / 'my.py').train_cfg.max_epochs == 3


@pytest.mark.parametrize('option, message', [
    ('train_cfg=3', 'train_cfg is 3; it should be a dict.'), ('compile=3', 'it should be True, False or a dict.'),
    ('train_dataloader=3', 'it should be a dict.'),
    ('custom_hooks=EMAHook', "custom_hooks is 'EMAHook'; it should be a list of dicts."),
    ('custom_hooks=[EMAHook]', "custom_hooks[0] is 'EMAHook'; it should be a dict with a type, such as dict(type='EMAHook')."),
    ('default_hooks.logger=3', "default_hooks.logger is 3; it should be a dict with a type, such as dict(type='EMAHook')."),
    ('param_scheduler=3', 'it should be a dict or a list of dicts.'), ('resume=maybe', "resume is 'maybe'; it should be True or False."),
    ('load_from=3', 'load_from is 3; it should be a text.'), ('load_from=', 'load_from is an empty text'),
    ('randomness.seed=-1', 'randomness.seed is -1; it should be a whole number from 0 to 4294967295'),
    ('randomness=3', 'randomness is 3; it should be a dict.'), ('env_cfg.mp_cfg=3', 'env_cfg.mp_cfg is 3; it should be a dict.'),
    ('log_level=LOUD', "log_level is 'LOUD'; it should be a level such as 'INFO'."), ('amp=maybe', "should be True, False or 'auto'.")])
def test_a_section_of_another_kind_is_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_keys(load_config(RECIPE, [option]))
    assert message in str(error.value)


def test_a_section_can_be_taken_away_by_an_option() -> None:
    cfg = load_config(RECIPE, ['val_dataloader=None', 'val_cfg=None', 'val_evaluator=None'])
    assert (cfg.val_dataloader, cfg.val_cfg, cfg.val_evaluator) == (None, None, None)
    check_sections(cfg)
