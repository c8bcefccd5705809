"""Names become objects, and what cannot be built is refused with the config's own key."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mmengine.registry as root_registries
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub

from detkit.registry import (
    DATA_SAMPLERS,
    HOOKS,
    MODELS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    REGISTRIES,
    TASK_UTILS,
    ConfigError,
    Registry,
    did_you_mean,
    find_keys,
    join_keys,
    plain_name,
    register_all_modules,
)


class Part:

    def __init__(self, size: int, colour: str = 'red') -> None:
        if size < 0:
            raise ConfigError(f'Part size={size} must not be negative.')
        self.size, self.colour = size, colour


class Whole:
    """Holds parts and hands ``colour`` down to the first."""

    parts: Registry

    def __init__(self, first: dict, others: list[dict] = ()) -> None:
        self.first = self.parts.build(first, colour='blue')
        self.others = [self.parts.build(other) for other in others]


@pytest.fixture
def parts() -> Registry:
    registry = Registry('part', root_registries.Registry('parts of a test'))
    registry.register_module(module=Part)
    registry.register_module(module=Whole)
    Whole.parts = registry
    return registry


def refusal(registry: Registry, cfg: object, **context: object) -> str:
    with pytest.raises(ConfigError) as caught:
        registry.build(cfg, **context)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ finding
@pytest.mark.parametrize('prefix', ['', 'detkit.', 'mmdet.', 'mmcv.', 'mmengine.'])
def test_a_name_with_any_of_our_prefixes_is_our_class(prefix: str):
    from detkit.models.necks.fpn import FPN
    assert MODELS.get(f'{prefix}FPN') is FPN
    assert f'{prefix}FPN' in MODELS


def test_a_full_dotted_path_is_the_object_there():
    from detkit.tasks.coders import DeltaXYWHBBoxCoder
    assert TASK_UTILS.get('detkit.tasks.coders.DeltaXYWHBBoxCoder') is DeltaXYWHBBoxCoder


def test_a_class_in_place_of_a_name_is_built():
    coder = TASK_UTILS.build(dict(type=TASK_UTILS.get('DistancePointBBoxCoder'), clip_border=False))
    assert coder.clip_border is False


@pytest.mark.parametrize(('registry', 'name', 'module'), [
    (PARAM_SCHEDULERS, 'LinearLR', 'mmengine.optim.scheduler'), (HOOKS, 'IterTimerHook', 'mmengine.hooks'),
    (DATA_SAMPLERS, 'DefaultSampler', 'mmengine.dataset'), (OPTIMIZERS, 'SGD', 'torch.optim')])
def test_names_that_mmengine_registers_still_resolve(registry: Registry, name: str, module: str):
    assert registry.get(name).__module__.startswith(module)
    assert registry.get(f'mmengine.{name}') is registry.get(name)


def test_our_class_hides_mmengines_of_the_same_name():
    assert HOOKS.get('CheckpointHook').__module__.startswith('detkit.')
    assert root_registries.HOOKS.get('mmengine.CheckpointHook').__module__.startswith('mmengine.')


def test_a_scope_that_is_not_installed_is_an_unknown_name():
    assert refusal(MODELS, dict(type='mmseg.ConvNeXt')).startswith("type: no 'mmseg.ConvNeXt' in the registry 'model'.")


def test_mmpretrains_names_mean_ours_only_where_arguments_and_defaults_agree():
    assert MODELS.get('mmpretrain.TIMMBackbone') is MODELS.get('mmcls.TIMMBackbone') is MODELS.get('TIMMBackbone')
    assert refusal(MODELS, dict(type='mmpretrain.ResNet')) == (
        "type: no 'mmpretrain.ResNet': of mmpretrain's classes detkit has TIMMBackbone, and mmpretrain itself is not installed, "
        'or not named in custom_imports.')


@pytest.mark.parametrize(('key', 'plain'), [
    ('FPN', 'FPN'), ('mmdet.FPN', 'FPN'), ('detkit.FPN', 'FPN'), ('mmpretrain.FPN', 'mmpretrain.FPN'),
    ('mmpretrain.TIMMBackbone', 'TIMMBackbone'), ('mmpretrain.models.TIMMBackbone', 'mmpretrain.models.TIMMBackbone'),
    ('mmdet.models.FPN', 'mmdet.models.FPN'), ('mmdet.', 'mmdet.')])
def test_only_a_single_known_scope_is_taken_off_a_name(key: str, plain: str):
    assert plain_name(key) == plain


def test_naming_what_there_is_imports_neither_torch_nor_our_modules(root: Path):
    program = ('import sys\n'
               'from detkit.registry import MODELS, REGISTRIES\n'
               'assert "FPN" in MODELS and len(REGISTRIES) > 20\n'
               'print(sorted(n for n in sys.modules if n.split(".")[0] == "torch" or n.startswith("detkit.models")))')
    done = subprocess.run([sys.executable, '-c', program], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')


def test_every_registry_is_a_child_of_mmengines_own_in_our_scope():
    assert {r.scope for r in REGISTRIES.values()} == {'detkit'}
    assert all(r.parent is not None and r.parent.scope == 'mmengine' for r in REGISTRIES.values())


# ----------------------------------------------------------------------------------------------------------- building
def test_an_object_and_none_pass_through(parts: Registry):
    part = Part(1)
    assert parts.build(part) is part
    assert parts.build(None) is None


def test_the_context_is_handed_in_and_defaults_fill_the_config(parts: Registry):
    assert parts.build(dict(type='Part', size=2), default_args=dict(size=3, colour='green')).__dict__ == dict(size=2, colour='green')
    assert parts.build(dict(type='Part', size=2), colour='blue').colour == 'blue'
    assert parts.build(dict(type='Part', size=2, colour='blue'), colour='blue').colour == 'blue'
    whole = parts.build(dict(type='Whole', first=dict(type='Part', size=1)))
    assert whole.first.colour == 'blue'


def test_building_leaves_the_config_as_it_was(parts: Registry):
    cfg = dict(type='Part', size=2, _scope_='mmdet')
    assert parts.build(cfg).size == 2
    assert cfg == dict(type='Part', size=2, _scope_='mmdet')


def test_a_manager_is_built_once_a_name():
    from mmengine.registry import LOG_PROCESSORS
    from mmengine.registry import Registry as Root
    managers = Registry('manager', Root('managers of a test'))
    managers.register_module(module=MessageHub)
    assert LOG_PROCESSORS.scope == 'mmengine'
    first = managers.build(dict(type='MessageHub', name='test_registry'))
    assert first is MessageHub.get_instance('test_registry')


# ------------------------------------------------------------------------------------------------------------ refusing
def test_an_unknown_type_names_the_key_and_the_nearest_name(parts: Registry):
    assert refusal(parts, dict(type='Prat', size=1)).startswith(
        "type: no 'Prat' in the registry 'part'. Did you mean 'Part'? Registered by your own code?")
    assert 'Did you mean' not in refusal(parts, dict(type='Zebra'))


def test_no_type_lists_the_keys(parts: Registry):
    assert refusal(parts, dict(size=1)) == \
        "has no 'type' (keys: size); the registry 'part' needs one to know what to build."
    assert '(keys: none)' in refusal(parts, {})


def test_an_unknown_argument_names_the_nearest_and_all(parts: Registry):
    assert refusal(parts, dict(type='Part', size=1, color='red')) == \
        "Part takes no argument 'color'. Did you mean 'colour'? It takes: size, colour."


def test_a_missing_argument_is_named(parts: Registry):
    assert refusal(parts, dict(type='Part')) == "Part needs 'size'."


def test_the_path_grows_through_nested_builds(parts: Registry):
    inner = dict(type='Part', size=-1)
    cfg = dict(type='Whole', first=dict(type='Part', size=1), others=[dict(type='Part', size=2), inner])
    assert refusal(parts, cfg) == 'others[1]: Part size=-1 must not be negative.'
    inner.update(type='Prt')
    assert refusal(parts, cfg).startswith("others[1].type: no 'Prt' in the registry 'part'. Did you mean 'Part'?")


@pytest.mark.parametrize('kind', [dict, ConfigDict])
def test_a_detectors_config_is_followed_to_the_fault(kind: type):
    cfg = kind(type='RetinaNet', backbone=dict(type='ResNet', depth=18), neck=dict(
        type='FPN', in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8, loss_cls=dict(type='FocallLoss')))
    assert refusal(MODELS, cfg).startswith("bbox_head.loss_cls.type: no 'FocallLoss' in the registry 'model'. Did you mean 'FocalLoss'")
    cfg['bbox_head']['loss_cls'] = kind(type='FocalLoss', gama=2)
    assert refusal(MODELS, cfg).startswith("bbox_head.loss_cls: FocalLoss takes no argument 'gama'. Did you mean 'gamma'")


def test_the_path_leads_into_a_config_that_was_handed_down():
    cfg = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=18), neck=dict(
        type='FPN', in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8), train_cfg=dict(assigner=dict(type='MaxIoUAssigner')))
    assert refusal(MODELS, cfg) == "train_cfg.assigner: MaxIoUAssigner needs 'pos_iou_thr', 'neg_iou_thr'."


def test_other_errors_keep_their_kind(parts: Registry):
    parts.register_module(name='broken', module=lambda size: torch.zeros(size)[5])
    with pytest.raises(IndexError):
        parts.build(dict(type='broken', size=2))


def test_a_dotted_path_to_a_module_that_fails_inside_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / 'needs_something.py').write_text('import no_such_package_anywhere\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='no_such_package_anywhere'):
        MODELS.get('needs_something.Thing')


def test_a_key_that_the_context_sets_to_another_value_is_refused(parts: Registry):
    assert refusal(parts, dict(type='Part', size=2, colour='green'), colour='blue') == \
        "colour: is set by the part that contains this one to 'blue', and it is 'green' here. Leave it out."
    whole = dict(type='Whole', first=dict(type='Part', size=1, colour='green'))
    assert refusal(parts, whole).startswith("first.colour: is set by the part that contains this one to 'blue'")


def test_a_type_where_only_one_class_can_stand_is_that_class_or_refused(parts: Registry):
    assert parts.build(dict(size=2), type=Part).size == 2
    assert parts.build(dict(type='mmdet.Part', size=2), type=Part).size == 2
    assert parts.build(dict(type=Part, size=2), type=Part).size == 2
    assert refusal(parts, dict(type='Whole', size=2), type=Part) == "type: is 'Whole'; here it is always 'Part'. Leave it out."


@pytest.mark.parametrize('change, text', [
    (dict(bbox_head=dict(num_classes='80')), "bbox_head.num_classes: is '80'; it should be a whole number."),
    (dict(bbox_head=dict(feat_channels=2.5)), 'bbox_head.feat_channels: is 2.5; it should be a whole number.'),
    (dict(bbox_head=dict(num_classes=-3)), 'bbox_head.num_classes: is -3; it should be at least 1.'),
    (dict(bbox_head=dict(loss_cls=dict(type='FocalLoss', gamma=True))), 'bbox_head.loss_cls.gamma: is True; it should be a number.'),
    (dict(bbox_head=dict(loss_cls='FocalLoss')), "bbox_head.loss_cls: is 'FocalLoss'; it should be a dict."),
    (dict(bbox_head=dict(train_cfg=dict(asigner=1))),
     "bbox_head.train_cfg: is set by the part that contains this one, and it is {'asigner': 1} here. Leave it out."),
    (dict(neck=dict(in_channels=[64, 128, '256', 512])), "neck.in_channels[2]: is '256'; it should be a whole number."),
    (dict(neck=dict(upsample_cfg=dict(mode='nearst'))), "neck.upsample_cfg.mode: is 'nearst'; it should be 'nearest', "),
    (dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=1))), 'backbone.norm_cfg.requires_grad: is 1; it should be True or False.'),
    (dict(backbone=dict(init_cfg=dict(type='Pretraind', checkpoint='x'))), "backbone.init_cfg.type: no 'Pretraind' in the registry"),
    (dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=3))), 'backbone.init_cfg.checkpoint: is 3; it should be text.'),
    (dict(backbone=dict(init_cfg=[dict(type='Normal', layer='Conv2d', stdd=1)])), 'backbone.init_cfg[0]: NormalInit takes no argument'),
    (dict(test_cfg=dict(score_thr='0.3')), "test_cfg.score_thr: is '0.3'; it should be a number."),
    (dict(test_cfg=dict(nms=dict(type='nms', iou_threshold=5))), 'test_cfg.nms.iou_threshold: is 5; it should be in [0, 1].')])
def test_a_value_of_a_wrong_type_or_out_of_range_is_refused_with_its_key(change: dict, text: str):
    cfg = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=18), neck=dict(
        type='FPN', in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8), test_cfg=dict(nms=dict(type='nms', iou_threshold=.5)))
    for key, values in change.items():
        cfg[key] = {**cfg[key], **values}
    with torch.device('meta'):
        assert refusal(MODELS, cfg).startswith(text)


def test_an_error_in_a_dict_that_a_class_made_is_one_of_the_dict_it_was_made_from(parts: Registry):
    class Maker:
        def __init__(self, part: dict) -> None:
            parts.build(dict(part, size=-1))
    parts.register_module(module=Maker)
    assert refusal(parts, dict(type='Maker', part=dict(type='Part'))) == 'part: Part size=-1 must not be negative.'


def test_the_values_of_a_users_class_are_its_own_affair(parts: Registry):
    class Loose:
        def __init__(self, num_classes: int) -> None:
            self.num_classes = num_classes
    parts.register_module(module=Loose)
    Loose.__module__ = 'my_package'
    assert parts.build(dict(type='Loose', num_classes='many')).num_classes == 'many'


# ------------------------------------------------------------------------------------------------------------ the parts
def test_the_same_dict_is_found_before_an_equal_one():
    inner = dict(type='BN')
    assert find_keys(dict(a=dict(type='BN'), b=inner), inner) == ('b',)


def test_keys_to_a_dict_inside_a_config():
    inner = dict(a=1)
    assert find_keys(dict(x=[0, dict(y=inner)]), inner) == ('x', '[1]', 'y')
    assert find_keys(inner, inner) == ()
    assert find_keys(dict(x=1), inner) is None


def test_keys_read_as_they_are_written_in_python():
    assert join_keys(('pipeline', '[2]', 'type')) == 'pipeline[2].type'
    assert join_keys(('[0]', '[1]')) == '[0][1]'


def test_did_you_mean_offers_the_close_ones_only():
    assert did_you_mean('nsm', ['nms', 'soft_nms']) == " Did you mean 'nms'?"
    assert did_you_mean('xyz', ['nms']) == ''


# ------------------------------------------------------------------------------------------------------------ the scope
def test_register_all_modules_makes_our_scope_the_default():
    from mmengine.registry import DefaultScope
    register_all_modules(init_default_scope=True)
    assert DefaultScope.get_current_instance().scope_name == 'detkit'
    count = len(DefaultScope._instance_dict)
    register_all_modules()
    assert len(DefaultScope._instance_dict) == count   # already set


def test_mmengine_builds_our_class_in_our_scope():
    register_all_modules()
    assert root_registries.MODELS.build(dict(type='L1Loss')).__module__ == 'detkit.losses.regression'


def test_a_value_that_a_class_cannot_have_ends_in_one_line_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r'^backbone: ResNet cannot be built from depth=50, .*ValueError: .*') as error:
        MODELS.build(dict(type='SingleStageDetector', backbone=dict(type='ResNet', depth=50, out_indices=()),
                          bbox_head=dict(type='RTMDetSepBNHead', num_classes=1, in_channels=96)))
    assert '\n' not in str(error.value)
    with pytest.raises(ConfigError, match='LoggerHook cannot be built from interval=0: ValueError: interval must be greater than 0'):
        HOOKS.build(dict(type='LoggerHook', interval=0))
    with pytest.raises(ConfigError, match=r"3 stands where a dict with a type should describe what to build \(registry 'model'\)"):
        MODELS.build(3)


def test_a_class_of_the_users_shows_where_it_fails() -> None:
    class OfTheirs:
        def __init__(self) -> None:
            raise TypeError('a mistake in it')

    with pytest.raises(TypeError, match='a mistake in it'):
        MODELS.build(dict(type=OfTheirs))
