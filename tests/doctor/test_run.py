"""The config against its data: classes, evaluation, matching, learning."""
from __future__ import annotations

import json

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from detkit.config import load_config
from detkit.doctor import doctor
from detkit.doctor.findings import Report
from detkit.doctor.run import examine_matching, overfit, untrained
from detkit.structures import DetDataSample

SCALE = dict(type='Resize', scale=(320, 256))
PACK = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))


def evaluation(root, ann_file, classes, images='images/', metric=('bbox',), evaluated=None, **options) -> dict:
    """A config with a validation set and its evaluator alone."""
    pipeline = [dict(type='LoadImageFromFile'), SCALE, dict(type='LoadAnnotations'), PACK]
    return dict(val_dataloader=dict(dataset=dict(type='CocoDataset', data_root=str(root), ann_file=ann_file, test_mode=True,
                                                 pipeline=pipeline, data_prefix=dict(img=images), metainfo=dict(classes=classes))),
                val_evaluator=dict(type='CocoMetric', ann_file=str(evaluated or root / ann_file), metric=list(metric), **options))


def few(shared, tmp_path, name: str, count: int) -> str:
    """The first images of a set's validation split, as a file."""
    content = json.loads((shared / f'data/{name}/annotations/val.json').read_text())
    content['images'] = content['images'][:count]
    ids = {i['id'] for i in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
    return str(tmp_path / f'{name}.json')


def test_ground_truth_comes_back_with_an_ap_of_one(shared, tmp_path):
    report = doctor(evaluation(shared / 'data/bccd', few(shared, tmp_path, 'bccd', 10), ('RBC', 'WBC', 'Platelets')))
    assert report.facts['val']['round_trip'] == {'coco/bbox_mAP': 1.0} and report.worst in (None, 'note'), report.text()


def test_masks_come_back_too_and_crowded_images_are_named(shared, tmp_path):
    file = few(shared, tmp_path, 'dsb2018_nuclei', 8)
    report = doctor(evaluation(shared / 'data/dsb2018_nuclei', file, ('nucleus',), metric=('bbox', 'segm'), proposal_nums=(1, 10, 500)))
    assert report.facts['val']['round_trip'] == {'coco/bbox_mAP': 1.0, 'coco/segm_mAP': 1.0}, report.text()
    counted = doctor(evaluation(shared / 'data/dsb2018_nuclei', file, ('nucleus',), proposal_nums=(1, 2, 5)))
    found = next(f for f in counted.findings if f.kind == 'ground truth does not score 1.000')
    assert any('more objects than the 5 detections that count' in p for p in found.places)


def test_images_that_the_evaluator_has_and_the_data_set_lacks_are_named(shared, tmp_path):
    part, whole = few(shared, tmp_path, 'bccd', 5), shared / 'data/bccd/annotations/val.json'
    report = doctor(evaluation(shared / 'data/bccd', part, ('RBC', 'WBC', 'Platelets'), evaluated=whole))
    found = next(f for f in report.findings if f.kind == 'ground truth does not score 1.000')
    assert any("82 images of the evaluator's ann_file are not in the data set" in p for p in found.places)


def test_objects_that_the_data_set_leaves_out_are_named(shared, tmp_path):
    file = few(shared, tmp_path, 'bccd', 3)
    content = json.loads(open(file).read())
    content['annotations'][0]['bbox'][2] = 0.5
    (tmp_path / 'b.json').write_text(json.dumps(content))
    report = doctor(evaluation(shared / 'data/bccd', str(tmp_path / 'b.json'), ('RBC', 'WBC', 'Platelets')))
    found = next(f for f in report.findings if f.kind == 'ground truth does not score 1.000')
    assert any('leaves out objects of 1 images' in p for p in found.places)


def test_an_evaluator_of_other_classes_is_a_fault(shared, tmp_path):
    file = few(shared, tmp_path, 'bccd', 3)
    other = json.loads(open(file).read())
    for c in other['categories']:
        c['name'] = c['name'].lower()
    (tmp_path / 'other.json').write_text(json.dumps(other))
    report = doctor(evaluation(shared / 'data/bccd', file, ('RBC', 'WBC', 'Platelets'), evaluated=tmp_path / 'other.json'))
    assert 'evaluation fails' in report.kinds('fault')


# ------------------------------------------------------------------------------------------------------ config and model
def bccd(shared, **options):
    return load_config('rtmdet_nano_bccd', {'data_root': str(shared / 'data/bccd') + '/', **options})


def test_a_sound_config_gives_no_alarm_and_its_loss_falls(shared):
    report = doctor(bccd(shared))
    assert report.kinds('fault', 'warning') == set(), report.text()
    assert report.facts['val']['round_trip'] == {'coco/bbox_mAP': 1.0} == report.facts['test']['round_trip']
    losses = report.facts['probe']['loss']
    assert losses[-1] < 0.7 * max(losses)
    found = report.facts['matching']['bbox_head']
    assert found['objects'] > 100 and found['without_positive'] < 0.15 and found['strides'] == [8, 16, 32]


def test_two_examinations_agree_and_leave_the_generators_and_the_log_alone(shared, capsys):
    state, cfg = torch.get_rng_state(), bccd(shared, **{'train_dataloader.dataset.indices': 8})
    one, two = (doctor(cfg, splits=('train',)) for _ in range(2))
    assert one.facts['probe'] == two.facts['probe'] and one.facts['matching'] == two.facts['matching']
    assert (torch.get_rng_state() == state).all() and 'AP50' not in capsys.readouterr().out


def test_a_head_for_other_classes_is_a_fault(shared):
    report = doctor(bccd(shared, **{'model.bbox_head.num_classes': 80}), splits=('val',), probe=False)
    found = next(f for f in report.findings if f.kind == 'classes of head and data differ')
    assert found.level == 'fault' and 'model.bbox_head.num_classes=80' in found.places[0] and 'num_classes=3' in found.remedy


def test_classes_that_the_file_does_not_have_are_a_fault(shared):
    report = doctor(bccd(shared, **{'val_dataloader.dataset.metainfo.classes': ('RBC', 'WBC', 'Plates')}), splits=('val',), probe=False)
    assert any('Plates' in p and 'Platelets' in p for f in report.findings if f.level == 'fault' for p in f.places), report.text()


def test_a_model_that_cannot_be_built_is_a_fault(shared):
    report = doctor(bccd(shared, **{'model.backbone.type': 'CSPNext'}), splits=('val',), probe=False)
    assert any('CSPNext' in p for f in report.findings if f.kind == 'model cannot be built' for p in f.places)


@pytest.mark.parametrize('name,worst,kinds', [
    ('control_ok', 'note', set()), ('utf8_bom', 'note', set()), ('annotation_minimal', 'note', set()), ('crowd', 'note', set()),
    ('bad_images', 'fault', {'picture cut short', 'evaluation fails', 'loss cannot be computed'}),
    ('missing_file', 'fault', {'picture missing', 'evaluation fails', 'loss cannot be computed'}),
    ('polygon_odd', 'fault', {'mask unusable'}), ('rle_wrong_length', 'fault', {'mask unusable'}),
    ('crowd_only', 'fault', {'nothing to learn', 'no object reaches the head'}), ('box_nan', 'fault', {'data set cannot be used'}),
    ('empty_categories', 'fault', {'no classes', 'data set cannot be used'}), ('deep_nesting', 'fault', {'annotation file unusable'})])
def test_no_broken_input_crashes_it(shared, name, worst, kinds):
    folder = shared / 'data/bad'
    options = {'data_root': f'{folder}/', 'model.bbox_head.num_classes': 2,
               'val_evaluator.ann_file': str(folder / f'annotations/{name}.json')}
    for split in ('train', 'val'):
        options |= {f'{split}_dataloader.dataset.{k}': v for k, v in dict(
            ann_file=f'annotations/{name}.json', data_prefix=dict(img='images/'), metainfo=dict(classes=('cat', 'cell'))).items()}
    report = doctor(load_config('rtmdet_nano_bccd', options), splits=('train', 'val'))
    assert report.worst == worst and kinds <= report.kinds('fault', 'warning'), report.text()


class Stub(nn.Module):
    """A model whose loss does not depend on what it is given."""

    def __init__(self, level: float = 1.) -> None:
        super().__init__()
        self.weight, self.level = nn.Parameter(torch.ones(1)), level

    def forward(self, inputs, samples, mode):
        return dict(loss=self.level + 0 * self.weight.sum())


def batch(boxes) -> dict:
    sample = DetDataSample()
    sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.zeros(len(boxes), dtype=torch.long))
    return dict(inputs=torch.zeros(1, 3, 8, 8), data_samples=[sample])


def test_a_loss_that_stays_is_told():
    report = Report()
    overfit(Stub(), lambda count: iter([batch([[0, 0, 4, 4]])]), report)
    assert report.kinds('warning') == {'loss does not fall'}
    frozen = Stub()
    frozen.weight.requires_grad_(False)
    report = Report()
    overfit(frozen, lambda count: iter([batch([[0, 0, 4, 4]])]), report)
    assert report.kinds('warning') == {'nothing is trained'}


def test_a_loss_that_is_not_a_number_is_a_fault():
    report = Report()
    examine_matching(Stub(float('nan')), lambda count: iter([batch([[0, 0, 4, 4]])]), report)
    assert report.kinds('fault') == {'loss is not finite'}


def test_weights_that_would_be_fetched_are_left_out():
    backbone = dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'))
    cfg = dict(backbone=backbone, neck=[dict(init_cfg=dict(type='Xavier'))])
    assert untrained(cfg) == dict(backbone=dict(type='ResNet'), neck=[dict(init_cfg=dict(type='Xavier'))])


@pytest.mark.parametrize('name,heads', [
    ('retinanet_r18_fpn_1x_coco', {'bbox_head'}), ('faster-rcnn_r50_fpn_1x_coco', {'rpn_head'}), ('gfl_r50_fpn_1x_coco', {'bbox_head'}),
    ('fcos_r50-caffe_fpn_gn-head_1x_coco', {'bbox_head'})])
@pytest.mark.slow
def test_other_families_are_examined_as_well(shared, name, heads):
    classes = dict(metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
    options = {'data_root': str(shared / 'data/bccd') + '/'}
    for split in ('train', 'val', 'test'):
        options |= {f'{split}_dataloader.dataset.{k}': v for k, v in dict(
            data_root=str(shared / 'data/bccd') + '/', ann_file='annotations/val.json', data_prefix=dict(img='images/'), **classes).items()}
    options['train_dataloader.dataset.pipeline.2.scale'] = options['val_dataloader.dataset.pipeline.1.scale'] = (333, 200)
    for split in ('val', 'test'):
        options[f'{split}_evaluator.ann_file'] = str(shared / 'data/bccd/annotations/val.json')
    head = 'roi_head.bbox_head' if 'faster' in name else 'bbox_head'
    report = doctor(load_config(name, {**options, f'model.{head}.num_classes': 3}), splits=('train', 'val'), probe='faster' not in name)
    assert report.kinds('fault') == set(), report.text()
    assert report.facts['val']['round_trip'] == {'coco/bbox_mAP': 1.0}
    assert set(report.facts.get('matching', {})) == heads
    assert 'faster' in name or report.facts['probe']['loss'][-1] < 0.7 * max(report.facts['probe']['loss'])
