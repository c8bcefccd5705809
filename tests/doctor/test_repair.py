from __future__ import annotations

import copy
import json

import pytest

from detkit.data.formats.coco import read_coco
from detkit.doctor import doctor
from detkit.doctor.repair import repair

IMAGE = dict(id=1, file_name='a.jpg', width=64, height=48)
SOUND = dict(id=1, image_id=1, category_id=1, bbox=[1, 2, 10, 12], area=120, iscrowd=0, segmentation=[])


def fixed(*annotations, images=(IMAGE,), categories=(dict(id=1, name='cat'),)) -> tuple[dict, list[str]]:
    content = dict(images=list(images), annotations=[{**SOUND, **a} for a in annotations], categories=list(categories))
    before = copy.deepcopy(content)
    out = repair(content, {})
    assert content == before                                   # what was given stays as it is
    return out


def test_a_sound_file_stays_as_it_is():
    content, said = fixed({})
    assert said == [] and content['annotations'] == [SOUND]


@pytest.mark.parametrize('change,word', [(dict(bbox=[1, 2, -5, 3]), 'negative'), (dict(bbox=[1, 2, 0, 3]), 'no area'),
                                         (dict(bbox=[90, 2, 5, 3]), 'no area'), (dict(category_id=7), 'category_id 7')])
def test_what_cannot_be_mended_is_removed_and_told(change, word):
    content, said = fixed({}, {'id': 2, **change})
    assert [a['id'] for a in content['annotations']] == [1] and len(said) == 1 and 'annotation 2' in said[0] and word in said[0]


def test_boxes_and_polygons_are_cut_at_the_border():
    polygon = [[60, 40, 80, 40, 80, 60, 60, 60], [1, 1, 2]]
    content, said = fixed(dict(bbox=[60, 40, 20, 20], segmentation=polygon))
    assert content['annotations'][0]['bbox'] == [60, 40, 4, 8]
    points = content['annotations'][0]['segmentation'][0]
    assert (min(points[0::2]), max(points[0::2]), max(points[1::2])) == (60, 64, 48) and len(content['annotations'][0]['segmentation']) == 1
    assert any('its box from [60, 40, 20, 20] to [60, 40, 4, 8]' in line for line in said) and any('mask' in line for line in said)


def test_repetitions_ids_classes_and_files_are_joined():
    content, said = fixed({}, dict(bbox=[3, 3, 9, 9]), dict(id=2), dict(id=3, category_id=2, bbox=[5, 5, 9, 9]),
                          dict(id=4, image_id=2, bbox=[7, 7, 9, 9]),
                          images=(IMAGE, {**IMAGE, 'id': 2}), categories=(dict(id=1, name='cat'), dict(id=2, name='cat')))
    assert len(content['categories']) == 1 and len(content['images']) == 1
    assert {a['category_id'] for a in content['annotations']} == {1} == {a['image_id'] for a in content['annotations']}
    assert sorted(a['bbox'] for a in content['annotations']) == [[1, 2, 10, 12], [3, 3, 9, 9], [5, 5, 9, 9], [7, 7, 9, 9]]
    assert len({a['id'] for a in content['annotations']}) == 4 and len(said) == 5


def test_what_may_be_left_out_is_added():
    content, said = repair(dict(images=[IMAGE], annotations=[dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 4, 5])],
                                categories=[dict(id=1, name='cat')]), {})
    assert content['annotations'][0]['area'] == 20 and content['annotations'][0]['iscrowd'] == 0 and len(said) == 1


@pytest.mark.parametrize('name', ['box_nan', 'box_partly_outside', 'duplicate_image_ids', 'duplicate_file_names', 'missing_file',
                                  'wrong_image_size', 'rle_wrong_length', 'polygon_odd', 'path_absolute', 'bad_images', 'unknown_image_id',
                                  'duplicate_annotation_ids', 'duplicate_category_names', 'box_infinite'])
def test_the_repaired_copy_of_a_broken_file_is_sound(shared, tmp_path, name):
    def config(ann_file):
        return dict(train_dataloader=dict(dataset=dict(type='CocoDataset', data_root=str(shared / 'data/bad'), ann_file=ann_file,
                                                       data_prefix=dict(img='images/'), pipeline=[], metainfo=dict(classes=('cat',)))))
    before = doctor(config(f'annotations/{name}.json'), model=False, fix=tmp_path)
    assert before.kinds('fault', 'warning')
    changes = json.loads((tmp_path / 'train_changes.json').read_text())
    assert changes['changes'] and changes['source'].endswith(f'{name}.json')
    assert read_coco(str(tmp_path / 'train.json'))['images']
    after = doctor(config(str(tmp_path / 'train.json')), model=False)
    assert after.kinds('fault') == set(), after.text()
