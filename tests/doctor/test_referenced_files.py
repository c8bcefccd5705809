"""Every file that a config names is looked for, with the model and without it."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from detkit.cli import main
from detkit.doctor import doctor
from detkit.doctor.referenced_files import weights_named


def config(bccd: Path, **options: object) -> dict:
    """A sound config: data, evaluator, weights of the backbone and of the whole."""
    for name in ('backbone', 'whole'):
        torch.save(dict(meta=dict(), state_dict=dict(w=torch.zeros(1))), bccd / f'{name}.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(bccd / 'backbone.pth'))
    data = {f'{split}_dataloader': dict(dataset=dict(
        type='CocoDataset', data_root=str(bccd), ann_file=f'{split}.json', data_prefix=dict(img='images/'), pipeline=[],
        metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))) for split in ('train', 'val')}
    return data | dict(
        val_evaluator=[dict(type='CocoMetric', ann_file=str(bccd / 'val.json'))], load_from=str(bccd / 'whole.pth'),
        model=dict(type='RetinaNet', backbone=dict(type='ResNet', depth=18, init_cfg=init_cfg))) | options


def faults(cfg: dict) -> dict[str, list[str]]:
    return {f.kind: f.places for f in doctor(cfg, model=False).findings if f.level == 'fault'}


def test_a_sound_config_has_no_fault_without_its_model(bccd):
    assert faults(config(bccd)) == {}


@pytest.mark.parametrize(('name', 'kind', 'place'), [
    ('whole.pth', 'checkpoint missing', "load_from: there is no file '{}/whole.pth'."),
    ('backbone.pth', 'checkpoint missing', "model.backbone.init_cfg.checkpoint: there is no file '{}/backbone.pth'."),
    ('val.json', 'file of the evaluator missing', 'val_evaluator[0].ann_file: {}/val.json does not exist.')])
def test_a_missing_file_is_told_with_its_key(bccd, name, kind, place):
    cfg = config(bccd)
    (bccd / name).unlink()
    found = faults(cfg)[kind]
    assert len(found) == 1 and found[0].startswith(place.format(bccd))


@pytest.mark.parametrize('name', ['whole.pth', 'backbone.pth'])
def test_weights_that_cannot_be_read_are_told_once(bccd, name):
    cfg = config(bccd)
    (bccd / name).write_bytes((bccd / name).read_bytes()[:200])
    found = faults(cfg)
    assert list(found) == ['checkpoint cannot be read'] and len(found['checkpoint cannot be read']) == 1
    assert 'cannot be read as a checkpoint' in found['checkpoint cannot be read'][0]


def test_missing_annotations_and_images_are_told(bccd):
    cfg = config(bccd)
    gone = json.loads((bccd / 'val.json').read_text())['images'][0]['file_name']
    (bccd / 'images' / gone).unlink()
    (bccd / 'train.json').unlink()
    found = faults(cfg)
    assert gone in found['picture missing'][0]
    assert any(str(bccd / 'train.json') in p for places in found.values() for p in places)


def test_names_of_published_weights_are_not_fetched():
    cfg = dict(neck=[dict(), dict(type='mmdet.FPN', init_cfg=[dict(type='mmengine.Pretrained', checkpoint='a.pth')])],
               backbone=dict(type='SwinTransformer', pretrained='b.pth', init_cfg=dict(type='Kaiming', checkpoint='no weights')),
               other=dict(pretrained=True))
    assert dict(weights_named(cfg, ('model',))) == {
        ('model', 'neck', '[1]', 'init_cfg', '[0]', 'checkpoint'): 'a.pth', ('model', 'backbone', 'pretrained'): 'b.pth'}
    published = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')))
    assert doctor(dict(model=published), model=False).findings == []


def test_the_command_ends_with_status_1(bccd, tmp_path, capsys):
    cfg = config(bccd)
    (bccd / 'backbone.pth').unlink()
    Config(cfg).dump(tmp_path / 'c.py')
    assert main(['doctor', str(tmp_path / 'c.py'), '--no-model', '--out', str(tmp_path / 'out')]) == 1
    assert 'model.backbone.init_cfg.checkpoint: there is no file' in capsys.readouterr().out
