"""The doctor on sets that give nothing to learn, and on lists of classes that differ."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from detkit.doctor import doctor
from detkit.doctor.findings import Report
from detkit.engine.checkpoint import write_checkpoint


def examined(root: Path, train: dict | None = None, val: dict | None = None, **more) -> Report:
    def loader(changes: dict | None) -> dict:
        return dict(dataset={**dict(type='CocoDataset', data_root=str(root), ann_file='a.json', data_prefix=dict(img='images'),
                                    metainfo=dict(classes=('cat', 'dog')), pipeline=[]), **(changes or {})})
    return doctor(dict(train_dataloader=loader(train), val_dataloader=loader(val), **more), model=False)


def places(report: Report, kind: str) -> list[str]:
    return [p for f in report.findings if f.kind == kind for p in f.places]


def level(report: Report, kind: str) -> str | None:
    return next((f.level for f in report.findings if f.kind == kind), None)


@pytest.mark.parametrize('change, words', [
    (lambda a: a.update(bbox=[v / 64 for v in a['bbox']]), '6 have a box between 0 and 1'),
    (lambda a: a.update(iscrowd=1), '6 are regions to ignore'), (lambda a: a.update(ignore=1), "6 are marked 'ignore'")])
def test_a_training_set_that_gives_nothing_is_a_fault_with_the_reasons(coco, change, words):
    content = json.loads((coco / 'a.json').read_text())
    for a in content['annotations']:
        change(a)
    (coco / 'b.json').write_text(json.dumps(content))
    report = examined(coco, dict(ann_file='b.json'))
    assert level(report, 'nothing to learn') == 'fault' and words in places(report, 'nothing to learn')[0]
    filtered = examined(coco, dict(ann_file='b.json', filter_cfg=dict(filter_empty_gt=True)))
    assert level(filtered, 'nothing to learn') == 'fault'


def test_a_val_set_without_objects_is_a_fault_where_it_is_measured(coco):
    content = json.loads((coco / 'a.json').read_text())
    (coco / 'none.json').write_text(json.dumps(dict(content, annotations=[])))
    metric = dict(type='CocoMetric', format_only=False)
    for evaluator, expected in ((metric, 'fault'), (None, 'note'), (dict(metric, format_only=True), 'note')):
        report = examined(coco, val=dict(ann_file='none.json'), val_evaluator=evaluator)
        assert level(report, 'nothing to measure') == expected


def test_many_objects_left_out_are_a_warning(coco):
    content = json.loads((coco / 'a.json').read_text())
    for a in content['annotations'][:3]:
        a['ignore'] = True
    (coco / 'b.json').write_text(json.dumps(content))
    report = examined(coco, dict(ann_file='b.json'))
    assert level(report, 'many objects left out') == 'warning'
    assert "of 6 objects 2 are left: 3 are marked 'ignore'" in places(report, 'many objects left out')[0]
    assert level(examined(coco), 'many objects left out') is None


def test_classes_of_two_splits_are_compared_by_name(coco):
    other = examined(coco, val=dict(metainfo=dict(classes=('dog', 'cat'))))
    assert level(other, 'classes of two splits in another order') == 'warning'
    assert "label 0 is 'cat' in train and 'dog' in val" in places(other, 'classes of two splits in another order')[0]
    names = examined(coco, val=dict(metainfo=dict(classes=('dog',))))
    assert level(names, 'classes of two splits differ') == 'fault'
    assert places(names, 'classes of two splits differ')[0].endswith("only train has 'cat'")
    assert not {k for k in examined(coco).kinds() if k.startswith('classes')}


def test_a_split_whose_file_lists_its_classes_by_itself_is_a_note(coco):
    (coco / 't.csv').write_text('1.png,2,3,20,30,ant\n2.png,2,3,20,30,bee\n')
    (coco / 'v.csv').write_text('3.png,2,3,20,30,bee\n')
    table = dict(type='CSVDataset', metainfo=None)
    report = examined(coco, dict(table, ann_file='t.csv'), dict(table, ann_file='v.csv'))
    kind = 'classes that a split lists by itself'
    assert level(report, kind) == 'note' and "only train has 'ant'" in places(report, kind)[0]


def test_weights_for_other_classes_are_a_warning(coco):
    write_checkpoint(dict(state_dict={}, meta=dict(dataset_meta=dict(CLASSES=('dog', 'cat')))), coco / 'c.pth')
    report = examined(coco, load_from=str(coco / 'c.pth'))
    assert level(report, 'classes of checkpoint and data differ') == 'warning'
    assert level(examined(coco, load_from=str(coco / 'd.pth')), 'checkpoint missing') == 'fault'
