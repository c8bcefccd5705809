"""Configs of other people: each gets one line, whatever is wrong with it, and none a traceback."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from detkit import compat
from detkit.cli import main
from detkit.config import load_config
from detkit.registry import MODELS, ConfigError

BASE = "_base_ = ['detkit::_base_/models/retinanet_r50_fpn.py']\n"
CONFIGS = {
    'retinanet/retinanet_r50_fpn_1x_coco.py': BASE,                                           # a name of MMDetection's, and its keys
    'retinanet/retinanet_r101_fpn_1x_coco.py': BASE,                                          # a name of MMDetection's, other keys
    'mine/own.py': BASE + 'model = dict(bbox_head=dict(num_classes=3))',
    'mine/deeper/own.py': BASE + 'model = dict(backbone=dict(depth=18), neck=dict(in_channels=[64, 128, 256, 512]))',
    'mine/schedule.py': 'lr = 1',
    'broken/syntax.py': 'model = dict(type=',
    'broken/base.py': "_base_ = 'nowhere.py'",
    'broken/raises.py': '1 / 0',
    'broken/leaves.py': 'raise SystemExit(3)',
    'broken/text.py': "model = 'RetinaNet'",
    'broken/name.py': BASE + "model = dict(bbox_head=dict(type='RetinaHaed'))",
    'broken/name_again.py': BASE + "model = dict(bbox_head=dict(type='RetinaHaed'))",
    'broken/argument.py': BASE + 'model = dict(backbone=dict(deep=50))',
    'broken/placeholder.py': BASE + "model = dict(bbox_head=dict(num_classes='NUM_CLASSES'))",
    'broken/none.py': BASE + 'model = dict(bbox_head=dict(num_classes=None))',
    'broken/scope.py': BASE + "default_scope = 'mmseg'",
    'lazy/new.py': 'from mmengine.config import read_base\n'
                   'from mmdet.models.detectors import RetinaNet\n'
                   'with read_base():\n    from .base import model\n'
                   'model.update(dict(type=RetinaNet))',
    'lazy/base.py': Path(compat.find_config('detkit::_base_/models/retinanet_r50_fpn.py')).read_text(),
    '_base_/part.py': 'model = dict(',
}
REASONS = {
    'broken/syntax.py': "syntax.py:1: '(' was never closed: model = dict(type=",
    'broken/base.py': "base.py:1: _base_ 'nowhere.py' does not exist",
    'broken/raises.py': 'raises.py:1: ZeroDivisionError: division by zero',
    'broken/leaves.py': 'SystemExit: 3',
    'broken/text.py': "model is 'RetinaNet'; it should be a dict.",
    'broken/name.py': "model.bbox_head.type: no 'RetinaHaed' in the registry 'model'. Did you mean 'RetinaHead'",
    'broken/argument.py': "model.backbone: ResNet takes no argument 'deep'. Did you mean 'depth'",
    'broken/placeholder.py': "model.bbox_head.num_classes: is 'NUM_CLASSES'; it should be a whole number.",
    'broken/none.py': 'model.bbox_head.num_classes: is None; it should be a whole number.',
    'broken/scope.py': "default_scope: 'mmseg' is unknown.",
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('configs')
    for name, text in CONFIGS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(scope='module')
def outcomes(folder: Path) -> dict[str, compat.Outcome]:
    return {outcome.config: outcome for outcome in compat.compare([folder])}


def test_every_config_has_one_status(outcomes: dict[str, compat.Outcome]):
    assert {name: outcome.status for name, outcome in outcomes.items() if outcome.status != compat.FAILS} == {
        'retinanet/retinanet_r50_fpn_1x_coco.py': compat.EQUAL, 'retinanet/retinanet_r101_fpn_1x_coco.py': compat.DIFFERS,
        'mine/own.py': compat.UNKNOWN, 'mine/deeper/own.py': compat.UNKNOWN, 'lazy/new.py': compat.UNKNOWN, 'lazy/base.py': compat.UNKNOWN,
        'mine/schedule.py': compat.NO_MODEL}
    assert {name for name, outcome in outcomes.items() if outcome.status == compat.FAILS} == {n for n in CONFIGS if n.startswith('broken')}
    assert outcomes['mine/deeper/own.py'].family == 'mine'


@pytest.mark.parametrize('name', REASONS)
def test_a_failure_has_one_line(name: str, outcomes: dict[str, compat.Outcome]):
    assert REASONS[name] in outcomes[name].reason
    assert '\n' not in outcomes[name].reason
    assert 'Traceback' in outcomes[name].trace


def test_other_keys_are_counted(outcomes: dict[str, compat.Outcome]):
    assert outcomes['retinanet/retinanet_r101_fpn_1x_coco.py'].reason == \
        "354 entries and 37968692 parameters, MMDetection's: 660 and 56960820"
    same = dict(n=2, params=5, sha='a')
    assert compat.difference(same, dict(same, sha='b')) == \
        "as many entries and parameters as MMDetection's (2, 5), other names or shapes"
    assert compat.difference(same, dict(same, type='X')) == compat.difference(same, None) == ''


def test_the_table_counts_by_family_and_reasons_stand_once(folder: Path):
    lines = []
    compat.compare([folder], say=lines.append)
    table = {line.split()[0]: line.split()[1:] for line in lines[1:6]}
    assert lines[0].split('  ')[0] == 'family'
    #                              configs builds equal other unknown no model fails
    assert table == {'broken': ['11', '-', '-', '-', '-', '-', '11'], 'lazy': ['2', '2', '-', '-', '2', '-', '-'],
                     'mine': ['3', '2', '-', '-', '2', '1', '-'], 'retinanet': ['2', '2', '1', '1', '-', '-', '-'],
                     'total': ['18', '6', '1', '1', '4', '1', '11']}
    text = '\n'.join(lines)
    assert text.count('RetinaHaed') == 1
    assert "    2 x  model.bbox_head.type: no 'RetinaHaed' in the registry 'model'\n         broken/name.py, broken/name_again.py" in text
    assert 'Traceback' not in text


def test_families_are_picked_and_a_wrong_one_is_named(folder: Path):
    assert {outcome.family for outcome in compat.compare([folder], ['mine', 'lazy'])} == {'mine', 'lazy'}
    with pytest.raises(ConfigError, match="no family 'yours' in .*There: broken, lazy, mine, retinanet"):
        compat.compare([folder], ['yours'])


def test_a_file_a_folder_of_one_family_and_a_name_are_sources(folder: Path):
    files = ['retinanet/retinanet_r50_fpn_1x_coco.py', 'retinanet/retinanet_r101_fpn_1x_coco.py']
    for source in ([folder / name for name in files], [folder / 'retinanet']):
        assert sorted((o.family, o.status) for o in compat.compare(source)) == [('retinanet', compat.EQUAL), ('retinanet', compat.DIFFERS)]
    assert [(o.config, o.status) for o in compat.compare(['detkit::retinanet/retinanet_r18_fpn_1x_coco.py'])] == \
        [('retinanet/retinanet_r18_fpn_1x_coco.py', compat.EQUAL)]
    assert {o.status for o in compat.compare(['detkit::retinanet'])} <= {compat.EQUAL, compat.UNKNOWN}


@pytest.mark.parametrize(('source', 'said'), [
    ('no/such/folder', "there is no config 'no/such/folder'"), ('nopackage::retinanet', "the package 'nopackage' is not installed"),
    ('{empty}', 'holds no config')])
def test_a_wrong_source_is_named(source: str, said: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        compat.compare([source.format(empty=tmp_path)])


def test_the_command_tells_its_outcome_by_status_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(['compat', str(folder), '--family', 'mine', '--json', str(tmp_path / 'out.json')]) == 0
    found = {entry['config']: entry for entry in json.loads((tmp_path / 'out.json').read_text())}
    assert found['mine/own.py']['status'] == 'not known' and found['mine/own.py']['n'] == 354
    assert main(['compat', str(folder), '--family', 'broken']) == 1
    assert 'Traceback' not in capsys.readouterr().out
    assert main(['compat', str(folder / 'broken/raises.py'), '--verbose']) == 1
    assert 'Traceback' in capsys.readouterr().out
    assert main(['compat', 'no/such/folder']) == 2
    assert capsys.readouterr().err.startswith("detkit: error: there is no config 'no/such/folder'")


def test_building_touches_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither memory nor files nor the network: everything stays on the meta device, and nothing is initialised or loaded."""
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError('weights were touched')
    from mmengine.model import BaseModule
    from mmengine.runner.checkpoint import CheckpointLoader
    for owner, name in ((BaseModule, 'init_weights'), (CheckpointLoader, 'load_checkpoint'), (torch, 'load'),
                        (torch.hub, 'load_state_dict_from_url'), (torch.hub, 'download_url_to_file')):
        monkeypatch.setattr(owner, name, forbidden)
    cfg = load_config('retinanet_r50_fpn_1x_coco')
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert {t.device.type for t in model.state_dict().values()} == {'meta'}
    assert [o.status for o in compat.compare(['retinanet_r50_fpn_1x_coco'])] == [compat.EQUAL]


def test_a_digest_is_of_names_and_shapes():
    model = nn.Linear(2, 3)
    # sha256 of "[('bias', (3,)), ('weight', (3, 2))]"
    assert compat.digest(model) == dict(n=2, params=9, sha='110f9777b82558a1')
    assert compat.digest(nn.Linear(3, 2))['sha'] != compat.digest(model)['sha']


def test_the_keys_are_the_recorded_ones(shared: Path):
    assert compat.known_keys() == json.loads((shared / 'parity/keys.json').read_text())
