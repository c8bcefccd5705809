from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detkit.data.synthetic import CLASSES, describe, draw, generate


def digest(folder) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return generate(tmp_path_factory.mktemp('shapes') / 'a', num_train=40, num_val=5, progress=False)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(made, tmp_path):
    again = generate(tmp_path / 'b', num_train=40, num_val=5, progress=False)
    assert digest(made['root']) == digest(again['root'])
    other = generate(tmp_path / 'c', num_train=40, num_val=5, seed=1, progress=False)
    assert digest(other['root'])['images/train_00000.jpg'] != digest(made['root'])['images/train_00000.jpg']


def test_annotations_fit_their_images(made):
    content = json.loads(made['train'].read_text())
    assert [c['name'] for c in content['categories']] == list(CLASSES)
    assert len(content['images']) == 40 and len({a['id'] for a in content['annotations']}) == len(content['annotations']) > 80
    assert {a['category_id'] for a in content['annotations']} == {1, 2, 3, 4}
    for image in content['images']:
        picture = cv2.imread(str(made['images'] / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
    for a in content['annotations']:
        x, y, w, h = a['bbox']
        assert 0 <= x and 0 <= y and x + w <= 128 and y + h <= 128 and w > 0 and h > 0


def drawn(segmentation, size=128) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, size, size))).astype(bool)


def test_polygons_cover_what_boxes_and_areas_say(made):
    for a in json.loads(made['val'].read_text())['annotations']:
        mask = drawn(a['segmentation'])
        assert mask.sum() == a['area']
        xs, ys = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
        assert a['bbox'] == [xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]]


def test_an_object_that_another_pierces_keeps_its_holes():
    mask = np.zeros((128, 128), bool)
    mask[20:100, 10:90] = True
    mask[40:60, 30:50] = mask[50:80, 60:61] = mask[90:94, 12:80] = False
    assert (drawn(describe(mask)['segmentation']) == mask).all()


def test_masks_are_those_that_were_drawn():
    objects = [o for n in range(20) for o in draw(np.random.default_rng([1, 0, n]), 128, 7)[1]]
    assert len(objects) > 40
    for _, mask in objects:
        assert (drawn(describe(mask)['segmentation']) == mask).all()


def test_a_complete_set_is_reused_and_another_is_not_overwritten(made):
    before = digest(made['root'])
    assert generate(made['root'], num_train=40, num_val=5, progress=False) == made
    with pytest.raises(ValueError, match=r'num_train=40 \(asked: 41\)'):
        generate(made['root'], num_train=41, num_val=5, progress=False)
    assert digest(made['root']) == before


def test_a_killed_run_leaves_no_half_set(tmp_path, monkeypatch):
    monkeypatch.setattr('detkit.data.synthetic.describe', lambda mask: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(tmp_path / 'a', num_train=5, num_val=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('x')
    with pytest.raises(ValueError, match='holds no set that detkit made'):
        generate(tmp_path)


@pytest.mark.parametrize('bad', [dict(num_train=0), dict(size=10), dict(max_objects=0)])
def test_counts_that_make_no_set_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match='must be at least'):
        generate(tmp_path / 'a', **bad)
