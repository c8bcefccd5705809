from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from panoptic_set import CLASSES, write_panoptic

from detkit.evaluation.panoptic import panoptic_quality
from detkit.evaluation.panoptic_metric import CocoPanopticMetric
from detkit.registry import ConfigError
from detkit.structures import DetDataSample
from detkit.structures.panoptic import read_segment_ids

META = dict(classes=CLASSES['classes'], thing_classes=('red', 'blue'), stuff_classes=('sky', 'grass'))
IDS = np.array([[70_000] * 4, [70_000, 1001, 1001, 8], [300, 1001, 1001, 8], [300, 300, 300, 0]])
SEGMENTS = {70_000: dict(category_id=200), 300: dict(category_id=90), 1001: dict(category_id=9), 8: dict(category_id=5)}
PERFECT = [[2, 2, 2, 2], [2, 1001, 1001, 2000], [3, 1001, 1001, 2000], [3, 3, 3, 4]]   # label + 1000 * n; 4: void


@pytest.fixture
def folder(tmp_path):
    write_panoptic(tmp_path, [(IDS, SEGMENTS)])
    return tmp_path


def metric(folder, meta=META, **options) -> CocoPanopticMetric:
    made = CocoPanopticMetric(**dict(ann_file=str(folder / 'panoptic.json'), seg_prefix=str(folder / 'panoptic')) | options)
    made.dataset_meta = meta
    return made


def sample(rows=PERFECT, **metainfo) -> dict:
    made = DetDataSample(metainfo=dict(img_id=1, img_path='images/1.jpg') | metainfo)
    made.pred_panoptic_seg = PixelData(sem_seg=torch.tensor(rows, dtype=torch.int32)[None])
    return made.to_dict()


def measured(made: CocoPanopticMetric, *samples: dict) -> dict[str, float]:
    made.process({}, samples or [sample()])
    return made.evaluate(len(samples) or 1)


def test_a_perfect_map_has_all_of_100(folder):
    assert measured(metric(folder)) == {f'coco_panoptic/{key}{part}': 100. for part in ('', '_th', '_st') for key in ('PQ', 'SQ', 'RQ')}


def test_numbers_by_hand(folder):
    rows = np.array(PERFECT)
    rows[1:3, 3] = 2                       # red is missed: sky has 7 pixels, of which 5 are right: IoU 5 / 7
    got = measured(metric(folder), sample(rows.tolist()))
    assert got['coco_panoptic/PQ'] == pytest.approx(100 * (0 + 1 + 5 / 7 + 1) / 4)
    assert got['coco_panoptic/PQ_th'] == 50 and got['coco_panoptic/RQ_st'] == 100
    assert got['coco_panoptic/SQ_st'] == pytest.approx(100 * (5 / 7 + 1) / 2)


def test_truth_of_the_samples_gives_the_same(folder):
    listed = [dict(id=70_000, category=2, is_thing=False), dict(id=300, category=3, is_thing=False),
              dict(id=1001, category=1, is_thing=True), dict(id=8, category=0, is_thing=False)]           # a crowd: no class 0 at all
    made = sample(segments_info=listed, seg_map_path=str(folder / 'panoptic/1.png'))
    got = measured(metric(folder, ann_file=None, seg_prefix=None), made)
    assert got['coco_panoptic/PQ'] == got['coco_panoptic/PQ_th'] == 100
    listed[3] = dict(id=8, category=255, is_thing=False)
    got = measured(metric(folder, ann_file=None, seg_prefix=None), made)
    assert got['coco_panoptic/PQ'] == 100


def test_classes_that_the_data_set_leaves_out_are_void(folder):
    rows = np.array([[1, 1, 1, 1], [1, 1000, 1000, 1], [2, 1000, 1000, 1], [2, 2, 2, 2]])     # blue, sky, void at grass
    got = measured(metric(folder, dict(classes=('blue', 'sky'), thing_classes=('blue',))), sample(rows.tolist()))
    assert got['coco_panoptic/PQ'] == 100


def test_each_class_has_a_line_in_the_table_when_asked_for(folder):
    counts = np.array([[1, 0, 0, 0.75], [0, 0, 1, 0], [0, 0, 0, 0], [2, 0, 0, 2.]])
    found = {'': panoptic_quality(counts), '_th': panoptic_quality(counts, np.array([0, 1])), '_st': panoptic_quality(counts, [2, 3])}
    lines = metric(folder, classwise=True).table(counts, found).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ['All', '58.333', '58.333', '66.667', '3'], ['Things', '37.500', '37.500', '50.000', '2'],
        ['Stuff', '100.000', '100.000', '100.000', '1'], ['red', '75.000', '75.000', '100.000', '1'],
        ['blue', '0.000', '0.000', '0.000', '1'], ['sky', '0.000', '0.000', '0.000', '0'], ['grass', '100.000', '100.000', '100.000', '2']]
    assert len(metric(folder).table(counts, found).splitlines()) == 4


def test_predictions_are_written_in_cocos_format_and_measure_as_themselves(folder, tmp_path):
    rows = np.array(PERFECT)
    rows[0, 0] = 4
    assert measured(metric(folder, outfile_prefix=str(tmp_path / 'out/a'), format_only=True), sample(rows.tolist())) == {}
    written = json.loads((tmp_path / 'out/a.panoptic.json').read_text())['annotations']
    ids = read_segment_ids(tmp_path / 'out/a.panoptic/1.png')
    assert [(s['category_id'], s['isthing'], s['area']) for s in written[0]['segments_info']] == [
        (200, 0, 4), (90, 0, 4), (9, 1, 4), (5, 1, 2)]
    for segment in written[0]['segments_info']:
        assert (ids == segment['id']).sum() == segment['area']
    assert written[0]['image_id'] == 1 and ids[0, 0] == 0


def test_a_file_of_test_images_serves_to_write_results_and_nothing_else(folder, tmp_path):
    content = json.loads((folder / 'panoptic.json').read_text())
    del content['annotations']
    (folder / 'panoptic.json').write_text(json.dumps(content))
    assert measured(metric(folder, outfile_prefix=str(tmp_path / 'out/a'), format_only=True), sample(PERFECT)) == {}
    assert len(json.loads((tmp_path / 'out/a.panoptic.json').read_text())['annotations'][0]['segments_info']) == 4
    with pytest.raises(ConfigError, match="KeyError: 'annotations'"):
        metric(folder)


def test_a_model_with_more_classes_than_the_data_is_refused(folder):
    with pytest.raises(ConfigError, match='predicted label 7 in image 1, but the data set has 4 classes'):
        measured(metric(folder), sample([[7] * 4] * 4))


def test_a_model_that_predicts_no_maps_is_refused(folder):
    with pytest.raises(ConfigError, match='panoptic_on'):
        metric(folder).process({}, [DetDataSample(metainfo=dict(img_id=1)).to_dict()])


@pytest.mark.parametrize('change, words', [
    (lambda c: c['annotations'][0]['segments_info'][1].update(category_id=6), 'segment 300 of image 1 has the category_id 6'),
    (lambda c: c['categories'][0].pop('isthing'), "not in COCO's panoptic format .*isthing"),
    (lambda c: [k.update(name=k['name'] + '_') for k in c['categories']], 'none of the classes to evaluate')])
def test_an_unusable_annotation_file_is_refused_before_training(folder, change, words):
    content = json.loads((folder / 'panoptic.json').read_text())
    change(content)
    (folder / 'panoptic.json').write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=words):
        metric(folder)


@pytest.mark.parametrize('options, words', [
    (dict(seg_prefix=None), 'needs seg_prefix'), (dict(format_only=True), 'set outfile_prefix'),
    (dict(ann_file='missing.json'), "'missing.json' cannot be read")])
def test_arguments_that_do_not_go_together_are_refused(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        metric(folder, **options)


def test_a_picture_that_contradicts_the_file_is_named(folder):
    path = str(folder / 'panoptic/1.png')
    picture = cv2.imread(path)
    picture[3, 3] = 0, 0, 77
    cv2.imwrite(path, picture)
    with pytest.raises(ValueError, match=r'1\.png: unusable as the truth of image 1 \(it shows the segments 77'):
        measured(metric(folder))
    cv2.imwrite(path, picture[:2])
    with pytest.raises(ValueError, match=r'its size is \(2, 4\)'):
        measured(metric(folder))


def test_an_image_that_the_file_does_not_have_is_named(folder):
    with pytest.raises(ConfigError, match='no segments of image 5'):
        measured(metric(folder), sample(img_id=5))
    with pytest.raises(ConfigError, match="'segments_info' and 'seg_map_path' in meta_keys"):
        measured(metric(folder, ann_file=None, seg_prefix=None))
