"""evaluate_coco against pycocotools, and what it says of bad input."""
from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.evaluation.coco import evaluate_coco


def reference(gt: dict, detections: list[dict], iou_type: str, **params) -> COCOeval:
    """pycocotools' own evaluation, silent, on copies."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(gt)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), iou_type)
        for key, value in params.items():
            setattr(evaluator.params, key, value)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def square_rle(box: list[float], height: int, width: int) -> dict:
    x, y, w, h = (int(round(v)) for v in box)
    mask = np.zeros((height, width), np.uint8, order='F')
    mask[y:y + max(h, 1), x:x + max(w, 1)] = 1
    code = rle.encode(mask)
    return dict(size=code['size'], counts=code['counts'].decode())


def random_case(seed: int, images: int = 12, classes: int = 4, side: int = 200) -> tuple[dict, list[dict]]:
    """Ground truth with crowds and an unused class, and detections: jittered truth, noise, doubles and equal scores."""
    rng = np.random.default_rng(seed)
    gt = dict(images=[dict(id=int(i) * 7 + 3, width=side, height=side) for i in rng.permutation(images)],
              categories=[dict(id=c * 2 + 1, name=f'c{c}') for c in range(classes)], annotations=[])
    detections = []
    for image in gt['images']:
        for _ in range(rng.integers(0, 8)):
            w, h = rng.uniform(4, 150, 2)
            box = [float(rng.uniform(0, side - w)), float(rng.uniform(0, side - h)), float(w), float(h)]
            category = int(rng.integers(0, classes - 1)) * 2 + 1
            gt['annotations'].append(dict(id=len(gt['annotations']) + 1, image_id=image['id'], category_id=category,
                                          bbox=box, area=box[2] * box[3], iscrowd=int(rng.random() < 0.15),
                                          segmentation=square_rle(box, side, side)))
            for _ in range(rng.integers(0, 3)):
                near = [min(max(v + float(rng.normal(0, 6)), 1), side / 2) for v in box]
                detections.append(dict(image_id=image['id'], category_id=category, bbox=near,
                                       score=float(np.round(rng.random(), 1))))
        for _ in range(rng.integers(0, 5)):
            noise = [float(v) for v in rng.uniform(1, side / 2, 4)]
            detections.append(dict(image_id=image['id'], category_id=int(rng.integers(0, classes)) * 2 + 1, bbox=noise,
                                   score=float(np.round(rng.random(), 1))))
    return gt, detections


def as_masks(detections: list[dict], side: int = 200) -> list[dict]:
    return [dict(image_id=d['image_id'], category_id=d['category_id'], score=d['score'],
                 segmentation=square_rle(d['bbox'], side, side)) for d in detections]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_box_numbers_equal_pycocotools(seed):
    gt, detections = random_case(seed)
    if not detections:
        return
    expected = reference(gt, detections, 'bbox')
    result = evaluate_coco(gt, detections)
    np.testing.assert_allclose(list(result.stats.values()), expected.stats, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.precision, expected.eval['precision'], rtol=0, atol=1e-12)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_mask_numbers_equal_pycocotools(seed):
    gt, detections = random_case(seed)
    masks = as_masks(detections)
    if not masks:
        return
    expected = reference(gt, masks, 'segm')
    masks = [dict(m, bbox=[0, 0, 1, 1]) for m in masks]   # a box that 'segm' must not look at
    result = evaluate_coco(gt, masks, 'segm')
    np.testing.assert_allclose(list(result.stats.values()), expected.stats, rtol=0, atol=1e-12)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_proposal_recall_equals_pycocotools(seed):
    gt, detections = random_case(seed)
    if not detections:
        return
    expected = reference(gt, detections, 'bbox', useCats=0, maxDets=[2, 4, 1000])
    result = evaluate_coco(gt, detections, max_dets=(2, 4, 1000), class_agnostic=True)
    np.testing.assert_allclose(list(result.stats.values())[6:], expected.stats[6:], rtol=0, atol=1e-12)


def test_numbers_on_real_boxes_equal_pycocotools(shared):
    path = shared / 'data' / 'bccd' / 'annotations' / 'val.json'
    gt = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    detections = [dict(image_id=a['image_id'], category_id=a['category_id'], score=float(rng.random()),
                       bbox=[float(v) + float(rng.normal(0, 4)) for v in a['bbox']])
                  for a in gt['annotations'] for _ in range(2)]
    for det in detections:
        det['bbox'][2:] = [max(v, 1.) for v in det['bbox'][2:]]
    expected = reference(gt, detections, 'bbox')
    result = evaluate_coco(path, detections)
    np.testing.assert_allclose(list(result.stats.values()), expected.stats, rtol=0, atol=1e-12)
    assert set(result.per_class) == {'RBC', 'WBC', 'Platelets'}
    for k, name in enumerate(result.classes):
        of_class = expected.eval['precision'][:, :, k, 0, -1]
        assert result.per_class[name]['AP'] == pytest.approx(of_class.mean(), abs=1e-12)


def test_numbers_on_real_masks_with_a_crowd_equal_pycocotools(shared):
    path = shared / 'data' / 'photos' / 'annotations.json'
    gt = json.loads(path.read_text())
    assert any(a['iscrowd'] for a in gt['annotations'])
    sizes = {i['id']: (i['height'], i['width']) for i in gt['images']}
    detections = []
    for n, ann in enumerate(gt['annotations']):
        height, width = sizes[ann['image_id']]
        truth = COCO()
        truth.imgs = {i['id']: i for i in gt['images']}
        code = truth.annToRLE(ann)
        mask = np.roll(rle.decode(code), n % 5, axis=0)
        code = rle.encode(np.asfortranarray(mask))
        detections.append(dict(image_id=ann['image_id'], category_id=ann['category_id'], score=1 / (1 + n % 7),
                               segmentation=dict(size=[height, width], counts=code['counts'].decode())))
    expected = reference(gt, detections, 'segm')
    assert 0 < expected.stats[0] < 1
    result = evaluate_coco(path, detections, 'segm')
    np.testing.assert_allclose(list(result.stats.values()), expected.stats, rtol=0, atol=1e-12)


def one_box(image_id=1, **more) -> dict:
    return dict(images=[dict(id=image_id, width=100, height=100)],
                categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
                annotations=[dict(id=1, image_id=image_id, category_id=1, bbox=[10, 10, 40, 40], **more)])


def test_half_overlap_by_hand():
    """IoU 0.6 is a match at 0.50, 0.55 and 0.60 alone: AP = 3 / 10."""
    found = [dict(image_id=1, category_id=1, bbox=[10, 10, 40, 24], score=0.9)]
    result = evaluate_coco(one_box(area=1600), found)
    assert result.ap() == pytest.approx(0.3)
    assert (result.ap(0.5), result.ap(0.75)) == (1, 0)
    assert math.isnan(result.per_class['dog']['AP'])
    assert result.table().splitlines()[0].split() == ['bbox', 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl']
    assert result.table().splitlines()[-1].split() == ['dog', *'------']


def test_no_detections_is_zero_and_not_an_error():
    stats = evaluate_coco(one_box(area=1600), []).stats
    assert stats['AP'] == 0 and stats['APm'] == 0 and stats['APs'] == -1


def test_annotation_id_0_counts_like_any_other():
    gt = one_box(area=1600)
    gt['annotations'][0]['id'] = 0
    found = [dict(image_id=1, category_id=1, bbox=[10, 10, 40, 40], score=0.5)]
    assert evaluate_coco(gt, found).ap() == pytest.approx(1)


def test_image_ids_may_be_text():
    found = [dict(image_id='a/b.jpg', category_id=1, bbox=[10, 10, 40, 40], score=0.5)]
    assert evaluate_coco(one_box('a/b.jpg'), found).ap() == pytest.approx(1)


def test_classes_are_taken_by_name_in_the_given_order():
    gt = one_box(area=1600)
    found = [dict(image_id=1, category_id=1, bbox=[10, 10, 40, 40], score=0.5)]
    result = evaluate_coco(gt, found, classes=('dog', 'fish', 'cat'))
    assert list(result.per_class) == ['dog', 'fish', 'cat']
    assert result.per_class['cat']['AP'] == pytest.approx(1) and math.isnan(result.per_class['fish']['AP'])


def test_ground_truth_and_detections_are_left_as_they_were():
    gt, detections = random_case(3)
    before = copy.deepcopy((gt, detections))
    evaluate_coco(gt, detections)
    assert (gt, detections) == before


@pytest.mark.parametrize(('change', 'words'), [
    (dict(image_id=9), 'image_id 9'),
    (dict(category_id=9), 'category_id 9'),
    (dict(score=math.nan), 'score nan'),
    (dict(bbox=[0, 0, math.inf, 1]), 'four numbers'),
])
def test_a_detection_that_cannot_be_counted_is_named(change, words):
    found = dict(image_id=1, category_id=1, bbox=[10, 10, 40, 40], score=0.5)
    with pytest.raises(ValueError, match=words):
        evaluate_coco(one_box(), [{**found, **change}])


def test_no_common_class_is_an_error_that_shows_both_lists():
    with pytest.raises(ValueError, match="'cat', 'dog'.*'person'"):
        evaluate_coco(one_box(), [], classes=('person',))


def test_a_broken_annotation_file_is_named(tmp_path):
    path = tmp_path / 'val.json'
    with pytest.raises(ValueError, match='no file .*val.json'):
        evaluate_coco(path, [])
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match='val.json. is not valid JSON'):
        evaluate_coco(path, [])
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match="no list 'annotations'"):
        evaluate_coco(path, [])
    twice = one_box()
    twice['categories'][1]['name'] = 'cat'
    with pytest.raises(ValueError, match="two categories named 'cat'"):
        evaluate_coco(twice, [])


@pytest.mark.parametrize('name', ['box_null', 'box_infinite'])
def test_a_box_that_is_no_box_is_named(shared, name):
    with pytest.raises(ValueError, match=f'annotation .*{name}.json.* must be four numbers'):
        evaluate_coco(shared / 'data' / 'bad' / 'annotations' / f'{name}.json', [])


def test_numbers_written_as_text_count(shared):
    path = shared / 'data' / 'bad' / 'annotations' / 'box_strings.json'
    gt = json.loads(path.read_text())
    found = [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=[float(v) for v in a['bbox']], score=0.5)
             for a in gt['annotations']]
    assert evaluate_coco(path, found).ap() == pytest.approx(1)


@pytest.mark.parametrize(('mask', 'words'), [
    (dict(counts=[0, 50], size=[10, 10]), r'run lengths for 50 pixels and the size \[10, 10\], in an image of \[10, 10\]'),
    (dict(counts=[0, 50], size=[5, 10]), r'in an image of \[10, 10\]'),
    (dict(counts='~~~', size=[10, 10]), 'run lengths that cannot be read'),
    (dict(counts=[0, 100]), 'run lengths that cannot be read'),
])
def test_run_lengths_that_do_not_fill_the_image_are_named(mask, words):
    dataset = dict(images=[dict(id=1, height=10, width=10)], categories=[dict(id=1, name='a')],
                   annotations=[dict(id=9, image_id=1, category_id=1, bbox=[0, 0, 5, 10], area=50, iscrowd=1, segmentation=mask)])
    with pytest.raises(ValueError, match=f'annotation 9 .* has {words}' if words.startswith('run') else words):
        evaluate_coco(dataset, [], 'segm')
