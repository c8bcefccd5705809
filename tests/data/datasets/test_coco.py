from __future__ import annotations

import json
import os

import numpy as np
import pytest

from detkit.data.datasets.coco import BrokenAnnotations, CocoDataset
from detkit.registry import ConfigError

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
PLAIN = [*LOAD, dict(type='PackDetInputs')]
RANDOM = [*LOAD, dict(type='RandomFlip', prob=0.5), dict(type='YOLOXHSVRandomAug'), dict(type='RandomResize', scale=(64, 64), ratio_range=(.5, 1.5)),
          dict(type='PackDetInputs')]
CLASSES = dict(classes=('cat', 'dog'))


def dataset(folder, pipeline=PLAIN, metainfo=CLASSES, **options) -> CocoDataset:
    return CocoDataset(data_root=str(folder), ann_file='a.json', data_prefix=dict(img='images/'), metainfo=metainfo,
                       pipeline=pipeline, **options)


def rewrite(folder, change) -> None:
    content = json.loads((folder / 'a.json').read_text())
    change(content)
    (folder / 'a.json').write_text(json.dumps(content))


def test_boxes_become_xyxy_and_categories_labels_by_name(coco):
    sample = dataset(coco)[0]['data_samples']
    assert sample.gt_instances.bboxes.tolist() == [[4, 5, 14, 17], [20, 10, 35, 30]]
    assert sample.gt_instances.labels.tolist() == [0, 1]      # category 7 is the cat, the first class asked for
    assert dataset(coco, metainfo=dict(classes=('dog', 'cat')))[0]['data_samples'].gt_instances.labels.tolist() == [1, 0]


def test_objects_of_classes_not_asked_for_are_left_out(coco):
    assert dataset(coco, metainfo=dict(classes=('dog',)))[0]['data_samples'].gt_instances.bboxes.tolist() == [[20, 10, 35, 30]]


def test_crowds_are_ignored_not_learnt(coco):
    sample = dataset(coco)[3]['data_samples']
    assert sample.ignored_instances.bboxes.tolist() == [[1, 1, 31, 31]]
    assert sample.gt_instances.bboxes.tolist() == [[30, 20, 50, 30]]


def test_an_image_without_objects_is_a_sample_with_none(coco):
    sample = dataset(coco)[2]['data_samples']
    assert sample.gt_instances.bboxes.shape == (0, 4) and sample.gt_instances.labels.shape == (0,)


def test_filters_drop_empty_and_small_images_but_not_in_test_mode(coco):
    cfg = dict(filter_empty_gt=True, min_size=0)
    assert len(dataset(coco, filter_cfg=cfg)) == 4
    assert len(dataset(coco, filter_cfg=cfg, test_mode=True)) == 5
    with pytest.raises(ConfigError, match='none of its 5 images is left'):
        dataset(coco, filter_cfg=dict(min_size=60))
    with pytest.raises(ConfigError, match="filter_cfg has no 'min_sizes'"):
        dataset(coco, filter_cfg=dict(min_sizes=1))


def test_classes_that_the_file_does_not_have_are_an_error_with_the_nearest(coco):
    with pytest.raises(ConfigError, match=r"1 of 2 classes of metainfo.classes are not in this file: cats. Did you mean 'cat'\? It has: dog, cat"):
        dataset(coco, metainfo=dict(classes=('cats', 'dog')))
    with pytest.raises(ConfigError, match='the 80 COCO classes'):
        dataset(coco, metainfo=None)


def test_a_missing_root_names_both_places_and_the_environment_is_followed(coco, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r'nowhere does not exist.*DETKIT_DATA_ROOT'):
        CocoDataset(data_root='data/nowhere', ann_file='a.json', metainfo=CLASSES)
    monkeypatch.setenv('DETKIT_DATA_ROOT', str(coco.parent))
    found = CocoDataset(data_root=f'data/{coco.name}/', ann_file='a.json', data_prefix=dict(img='images/'), metainfo=CLASSES)
    assert len(found) == 5


def test_every_broken_annotation_file_gets_one_message_or_is_read(shared):
    """Nothing in there may crash with something else, nor lead to a file outside the image folder."""
    refused = []
    for file in sorted((shared / 'data/bad/annotations').glob('*.json')):
        try:
            data = CocoDataset(ann_file=str(file), data_prefix=dict(img=str(shared / 'data/bad/images')),
                               metainfo=dict(classes=names_of(file)))
        except (BrokenAnnotations, ConfigError) as error:
            assert file.name in str(error)
            refused.append(file.stem)
        else:
            root = os.path.realpath(shared / 'data/bad/images')
            assert all(os.path.realpath(d['img_path']).startswith(root) for d in map(data.get_data_info, range(len(data))))
    assert {'invalid_json_cut', 'empty_file', 'latin1', 'deep_nesting', 'top_level_list', 'missing_key_images', 'image_without_size',
            'annotation_without_bbox', 'unknown_image_id', 'unknown_category_id', 'box_negative_size', 'box_nan', 'box_infinite', 'box_huge',
            'box_strings', 'box_null', 'box_three_numbers', 'duplicate_image_ids', 'duplicate_annotation_ids', 'duplicate_category_ids',
            'path_traversal', 'path_traversal_backslash', 'path_absolute', 'path_url'} <= set(refused)
    assert not {'control_ok', 'crowd', 'sparse_ids', 'string_ids', 'utf8_bom', 'image_with_no_annotations', 'annotation_minimal',
                'missing_key_info_licenses'} & set(refused)


def names_of(file) -> tuple:
    try:
        return tuple(dict.fromkeys(c['name'] for c in json.loads(file.read_text('utf-8-sig'))['categories']))
    except Exception:   # the file is broken: any class will do
        return ('cat',)


def test_a_missing_annotation_file_and_a_missing_image_are_named(coco):
    with pytest.raises(BrokenAnnotations, match='b.json: there is no such annotation file'):
        CocoDataset(data_root=str(coco), ann_file='b.json', metainfo=CLASSES)
    (coco / 'images' / '1.png').unlink()
    with pytest.raises(ValueError, match='1.png: cannot read this image'):
        dataset(coco)[0]


def test_an_unreadable_image_can_be_skipped_and_another_takes_its_place(coco):
    (coco / 'images' / '1.png').write_bytes(b'')
    data = dataset(coco, on_error='skip')
    assert data[0]['data_samples'].img_id != 1
    assert data[0]['data_samples'].img_id == data[0]['data_samples'].img_id
    assert data.unreadable == {str(coco / 'images/1.png')}
    with pytest.raises(ValueError, match='1.png'):
        dataset(coco, on_error='skip', test_mode=True)[0]
    with pytest.raises(ConfigError, match='on_error'):
        dataset(coco, on_error='drop')


def test_boxes_outside_their_image_or_thinner_than_a_pixel_are_skipped(coco):
    rewrite(coco, lambda c: c['annotations'][0].update(bbox=[100, 5, 10, 12]))
    rewrite(coco, lambda c: c['annotations'][1].update(bbox=[20, 10, .5, 20]))
    assert len(dataset(coco)[0]['data_samples'].gt_instances) == 0


def test_a_sample_depends_on_seed_epoch_and_index_alone(coco):
    data = dataset(coco, RANDOM, seed=5)
    first = data[1]['inputs']
    data[3], data[0]
    np.random.seed(0)
    assert (data[1]['inputs'] == first).all()
    data.set_epoch(1)
    assert data[1]['inputs'].shape != first.shape or (data[1]['inputs'] != first).any()
    assert (data[0, 1]['inputs'] == first).all()              # the pair (epoch, index)
    assert (dataset(coco, RANDOM, seed=5)[1]['inputs'] == first).all()
    other = dataset(coco, RANDOM, seed=6)[1]['inputs']
    assert other.shape != first.shape or (other != first).any()


def test_a_pipeline_that_gives_nothing_is_named(coco):
    nothing = [*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(1000, 1000)), dict(type='PackDetInputs')]
    with pytest.raises(ValueError, match='Look at the pipeline'):
        dataset(coco, nothing, max_refetch=3, metainfo=dict(classes=('cat', 'dog')), indices=[0, 1])[0]


def test_mmengines_wrappers_work(coco):
    from detkit.registry import DATASETS
    inner = dict(type='CocoDataset', data_root=str(coco), ann_file='a.json', data_prefix=dict(img='images/'), metainfo=CLASSES, pipeline=PLAIN)
    assert len(DATASETS.build(dict(type='RepeatDataset', times=3, dataset=inner))) == 15
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[inner, inner]))
    assert len(both) == 10 and both[6]['data_samples'].img_id == 2
    assert len(DATASETS.build(dict(type='ClassBalancedDataset', dataset=inner, oversample_thr=0.9))) > 5
