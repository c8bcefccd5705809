"""Which objects the heads of every kind of detector can learn, or why the doctor cannot say."""
from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from kinds import DETECTORS, make_batch, make_images, make_sample, small_config, small_detector
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detkit.doctor.findings import Report
from detkit.doctor.matching import REMEDIES, MatchedObjects, judge_matching
from detkit.doctor.run import examine_matching
from detkit.structures import DetDataSample

BOXES = [[[4., 6., 40., 44.], [30., 30., 60., 58.]], [[20., 10., 60., 30.], [2., 30., 30., 62.]]]
TINY = [33., 33., 35., 35.]              # between the points of all strides from 8 on
NOT_EXAMINED = 'objects that can be learnt not examined'


def examine(model: nn.Module, boxes: list) -> Report:
    report = Report()

    def batch_of(count: int) -> Iterator[dict]:
        yield copy.deepcopy(make_batch(model, make_images(len(boxes)), [make_sample(b) for b in boxes]))
    examine_matching(model, batch_of, report, ('cat', 'dog', 'bird'))
    return report


def places(report: Report, kind: str) -> list[str]:
    return [p for f in report.findings if f.kind == kind for p in f.places]


@pytest.mark.parametrize('name', DETECTORS)
def test_every_kind_is_examined(name: str):
    report = examine(small_detector(name), BOXES)
    assert report.kinds('fault') == set(), report.text()
    (head, found), = report.facts['matching'].items()
    assert found['assigned_by'] in REMEDIES and head in ('bbox_head', 'rpn_head', 'panoptic_head') and found['objects'] == 4
    if found['assigned_by'] != 'predictions':
        assert found['without_positive'] == 0 and 'objects without positive sample' not in report.kinds()
    second_stage = ['roi_head: it learns from proposals, which an untrained first stage does not make']
    assert places(report, NOT_EXAMINED) == (second_stage if 'roi_head' in DETECTORS[name] else [])


@pytest.mark.parametrize(('name', 'assigned_by'), [
    ('retinanet', 'geometry'), ('fcos', 'geometry'), ('centernet', 'geometry'), ('faster_rcnn', 'geometry'), ('yolox', 'predictions'),
    ('rtmdet', 'predictions'), ('tood', 'predictions'), ('dino', 'queries'), ('maskformer', 'queries')])
def test_what_decides_is_known(name: str, assigned_by: str):
    (found,) = examine(small_detector(name), BOXES).facts['matching'].values()
    assert found['assigned_by'] == assigned_by


def test_the_first_epochs_of_tood_are_examined():
    training = small_config('tood')['train_cfg'] | dict(initial_epoch=4)
    found = examine(small_detector('tood', train_cfg=training), BOXES).facts['matching']['bbox_head']
    assert found['assigned_by'] == 'geometry' and found['without_positive'] == 0


@pytest.mark.parametrize('name', ['fcos', 'yolox'])
def test_an_object_between_all_points_is_told_with_its_size_and_class(name: str):
    report = examine(small_detector(name), [[*BOXES[0], TINY]])
    if name == 'fcos':                   # YOLOX also takes the points around an object's centre
        found = report.facts['matching']['bbox_head']
        assert found['without_positive_by_size'] == dict(small=(1, 2), medium=(0, 1), large=(0, 0)), report.text()
        assert found['without_positive_by_class'] == dict(cat=(0, 1), dog=(0, 1), bird=(1, 1))
        text, = places(report, 'objects without positive sample')
        assert text == ('bbox_head: 33.3% of 3 objects; in the network input their sides are 2 to 2 pixels (median 2); small 1 of 2; '
                        'bird 1 of 1')
    text, = places(report, 'objects smaller than the finest stride')
    assert text == 'bbox_head: 33.3% of 3 objects have a side below 8 pixels in the network input'


def test_more_objects_than_queries_are_told():
    many = [[float(x), 4., x + 20., 40.] for x in range(24)]
    report = examine(small_detector('dino'), [many])
    finding = next(f for f in report.findings if f.kind == 'objects without positive sample')
    assert finding.level == 'warning' and 'raise num_queries' in finding.remedy
    assert '16.7% of 24 objects' in finding.places[0]          # 20 queries


def sample(boxes: list) -> DetDataSample:
    made = DetDataSample()
    made.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                                     labels=torch.zeros(len(boxes), dtype=torch.long))
    return made


def judged(matched: list[int], boxes: list, assigned_by: str = 'geometry') -> Report:
    objects, report = MatchedObjects(assigned_by), Report()
    objects.add([torch.tensor(matched, dtype=torch.long)], [sample(boxes)])
    judge_matching('head', (32,), objects, ('cell',), report)
    return report


def test_numbers_by_hand():
    report = judged([0, 2], [[0, 0, 60, 60], [3, 3, 9, 9], [30, 30, 130, 130]])
    found = report.facts['matching']['head']
    assert found['objects'] == 3 and found['without_positive'] == 0.3333 and found['side_in_network_pixels'] == [6, 33, 60, 80, 100]
    assert found['without_positive_by_size'] == dict(small=(1, 1), medium=(0, 1), large=(0, 1))
    assert report.kinds('warning') == {'objects without positive sample', 'objects smaller than the finest stride'}
    assert judged([0], [[0, 0, 60, 60]]).findings == []


def test_predictions_of_an_untrained_model_raise_an_alarm_later():
    boxes = [[0, 0, 60, 60]] * 5
    assert judged([0, 1, 2, 3], boxes).kinds('warning') == {'objects without positive sample'}
    assert judged([0, 1, 2, 3], boxes, 'predictions').kinds('note') == {'objects without positive sample'}


def test_the_segments_of_stuff_are_no_objects():
    assert judged([0, 1, 7], [[0, 0, 60, 60]] * 2).facts['matching']['head']['without_positive'] == 0


def test_no_object_at_all_is_told():
    assert judged([], []).kinds('warning') == {'no object reaches the head'}


class Other(nn.Module):
    """A model of another library."""

    def forward(self, inputs: Tensor, samples: list, mode: str) -> dict[str, Tensor]:
        return dict(loss=inputs.sum() * 0)


def test_what_cannot_be_examined_has_its_reason():
    report = Report()
    examine_matching(Other(), lambda count: iter([dict(inputs=torch.zeros(1, 3, 8, 8), data_samples=[sample([[0, 0, 4, 4]])])]), report)
    assert places(report, NOT_EXAMINED) == ['model: Other is not a Detector of detkit, so it has no targets(outputs, samples)']
    model = small_detector('retinanet')
    model.bbox_head.no_targets = 'every anchor of a bag may learn an object'
    assert places(examine(model, BOXES), NOT_EXAMINED) == ['bbox_head: every anchor of a bag may learn an object']
    model = small_detector('fcos')
    model.targets = lambda outputs: None
    assert 'of SingleStageDetector ends with TypeError' in places(examine(model, BOXES), NOT_EXAMINED)[0]
