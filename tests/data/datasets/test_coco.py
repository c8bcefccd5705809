from __future__ import annotations

import json
import os
import pickle
import unicodedata

import cv2
import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from detkit.data.datasets.coco import CocoDataset
from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.transforms.loading import UnreadableImage
from detkit.registry import ConfigError

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
PLAIN = [*LOAD, dict(type='PackDetInputs')]
MASKS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True), dict(type='PackDetInputs')]
RANDOM = [*LOAD, dict(type='RandomFlip', prob=0.5), dict(type='YOLOXHSVRandomAug'),
          dict(type='RandomResize', scale=(64, 64), ratio_range=(.5, 1.5)), dict(type='PackDetInputs')]
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


def test_an_image_of_crowds_alone_is_kept_as_mmdetection_does(coco):
    def crowds(content):
        for a in content['annotations']:
            a['iscrowd'] = 1
    rewrite(coco, crowds)
    assert len(dataset(coco, filter_cfg=dict(filter_empty_gt=True))) == 4


def test_filters_drop_empty_and_small_images_but_not_in_test_mode(coco):
    cfg = dict(filter_empty_gt=True, min_size=0)
    assert len(dataset(coco, filter_cfg=cfg)) == 4
    assert len(dataset(coco, filter_cfg=cfg, test_mode=True)) == 5
    with pytest.raises(ConfigError, match='none of its 5 images is left'):
        dataset(coco, filter_cfg=dict(min_size=60))
    with pytest.raises(ConfigError, match="filter_cfg has no 'min_sizes'"):
        dataset(coco, filter_cfg=dict(min_sizes=1))


def test_classes_that_the_file_does_not_have_are_an_error_with_the_nearest(coco):
    said = r"1 of 2 classes of metainfo.classes are not in this file: cats. Did you mean 'cat'\? It has: dog, cat"
    with pytest.raises(ConfigError, match=said):
        dataset(coco, metainfo=dict(classes=('cats', 'dog')))
    with pytest.raises(ConfigError, match='the 80 classes of CocoDataset'):
        dataset(coco, metainfo=None)


def test_a_missing_root_names_both_places_and_the_environment_is_followed(coco, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r'nowhere does not exist.*DETKIT_DATA_ROOT'):
        CocoDataset(data_root='data/nowhere', ann_file='a.json', metainfo=CLASSES)
    with pytest.raises(ConfigError, match=r'tools/download_dataset.py bccd fetches it'):
        CocoDataset(data_root='data/bccd/', ann_file='a.json', metainfo=CLASSES)
    monkeypatch.setenv('DETKIT_DATA_ROOT', str(coco.parent))
    with pytest.raises(ConfigError, match=rf'data/nowhere and {coco.parent}/nowhere do not exist'):
        CocoDataset(data_root='data/nowhere', ann_file='a.json', metainfo=CLASSES)
    found = CocoDataset(data_root=f'data/{coco.name}/', ann_file='a.json', data_prefix=dict(img='images/'), metainfo=CLASSES)
    assert len(found) == 5


def rename(folder, old, new) -> None:
    (folder / 'images' / old).rename(folder / 'images' / new)


@pytest.mark.parametrize(('on_disk', 'written'), [('NFD', 'NFC'), ('NFC', 'NFD'), ('NFC', 'NFC')])
def test_names_are_found_in_either_unicode_form(coco, on_disk, written):
    """macOS writes names decomposed; the folder may come from elsewhere."""
    disk = unicodedata.normalize(on_disk, 'Ünït')
    (coco / 'images' / 'öd').mkdir()
    rename(coco, '1.png', f'öd/{disk}.png')
    rewrite(coco, lambda c: c['images'][0].update(file_name=unicodedata.normalize(written, 'öd/Ünït.png')))
    data = dataset(coco)
    assert data.get_data_info(0)['img_path'] == f'{coco}/images/öd/{disk}.png' and data[0]['inputs'].shape == (3, 48, 64)


def test_a_missing_name_that_is_not_ascii_is_named_as_written(coco):
    rewrite(coco, lambda c: c['images'][0].update(file_name='fehlt/ü.png'))
    with pytest.raises(UnreadableImage, match='images/fehlt/ü.png: cannot read'):
        dataset(coco)[0]


def test_backslashes_in_names_are_slashes(coco):
    (coco / 'images' / 'train').mkdir()
    rename(coco, '1.png', 'train/1.png')
    rewrite(coco, lambda c: c['images'][0].update(file_name='train\\1.png'))
    assert dataset(coco)[0]['inputs'].shape == (3, 48, 64)


@pytest.mark.parametrize('name', ['..\\..\\1.png', 'C:\\data\\1.png', '\\1.png', 'file:///data/1.png', '/data/1.png'])
def test_names_that_lead_out_of_the_folder_are_refused(coco, name):
    rewrite(coco, lambda c: c['images'][0].update(file_name=name))
    with pytest.raises(BrokenAnnotations, match='no path below the image folder. Use a path relative to data_prefix.img'):
        dataset(coco)


@pytest.mark.parametrize(('on_disk', 'said'), [('1.PNG', '1.PNG'), ('1.jpg', '1.jpg')])
def test_a_missing_picture_names_the_one_that_is_there(coco, on_disk, said):
    rename(coco, '1.png', on_disk)
    with pytest.raises(UnreadableImage, match=f"1.png: cannot read .*No such file or directory; there is '{said}' in that folder"):
        dataset(coco)[0]


def test_paths_of_the_config_may_begin_at_home_and_have_backslashes(coco, monkeypatch):
    monkeypatch.setenv('HOME', str(coco.parent))
    for root, ann_file, images in ((f'~/{coco.name}', 'a.json', 'images/'), ('', f'~/{coco.name}/a.json', f'~/{coco.name}/images'),
                                   (f'{coco.parent}\\{coco.name}\\', '.\\a.json', '.\\images\\')):
        data = CocoDataset(data_root=root, ann_file=ann_file, data_prefix=dict(img=images), metainfo=CLASSES, pipeline=PLAIN)
        assert data[0]['inputs'].shape == (3, 48, 64)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(ann_file=['a.json', 'b.json']), r"ann_file: \['a.json', 'b.json'\] is a list; .*ConcatDataset"),
    (dict(data_root=('a', 'b')), 'data_root: .* is a list'), (dict(data_prefix=dict(img=['a', 'b'])), 'data_prefix.img: .*is a list'),
    (dict(data_prefix=['a', 'b']), r"is written data_prefix=dict\(img='images/'\)"),
    (dict(data_prefix='images/'), 'is a str; it is written'),
    (dict(data_prefix=dict(img_path='images/')), "data_prefix has no 'img_path'.*It has: img, seg, sub_data_root"),
    (dict(ann_file=5), 'ann_file: 5 is a int, not a path'), (dict(ann_file=None), 'ann_file is empty. Name the annotation file')])
def test_paths_that_are_none_are_one_line(coco, options, message):
    with pytest.raises((ConfigError, BrokenAnnotations), match=message):
        CocoDataset(**{**dict(data_root=str(coco), ann_file='a.json', metainfo=CLASSES), **options})


@pytest.mark.parametrize(('key', 'change', 'message'), [
    ('image_id', lambda c: [i.update(id=f'00{i["id"]}') for i in c['images']],
     "annotation 1 has the image_id 1, and the image has the id '001'"),
    ('image_id', lambda c: [a.update(image_id=f'{a["image_id"]:06d}') for a in c['annotations']],
     "annotation 1 has the image_id '000001', and the image has the id 1"),
    ('category_id', lambda c: [a.update(category_id=str(a['category_id'])) for a in c['annotations']],
     "has the category_id '7', and the category has the id 7"),
    ('image_id', lambda c: c['annotations'][0].update(image_id='x'), 'has the image_id x, which is not in the file')])
def test_ids_of_text_and_of_numbers_in_one_file_are_named(coco, key, change, message):
    rewrite(coco, change)
    with pytest.raises(BrokenAnnotations, match=f'a.json: .*{message}') as caught:
        dataset(coco)
    assert caught.value.kind in (f'{key} of another type', f'unknown {key}')


def test_test_images_need_no_annotations_and_training_does(coco):
    rewrite(coco, lambda c: c.pop('annotations'))
    data = dataset(coco, test_mode=True)
    assert len(data) == 5 and len(data[0]['data_samples'].gt_instances) == 0
    with pytest.raises(BrokenAnnotations, match="a.json: it has images and no list 'annotations'.*format_only=True"):
        dataset(coco)


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
            'annotation_without_bbox', 'unknown_image_id', 'unknown_category_id', 'box_negative_size', 'box_nan', 'box_infinite',
            'box_huge', 'box_strings', 'box_null', 'box_three_numbers', 'duplicate_image_ids', 'duplicate_annotation_ids',
            'duplicate_category_ids', 'path_traversal', 'path_traversal_backslash', 'path_absolute', 'path_url'} <= set(refused)
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


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr('detkit.data.datasets.entries.print_log', lambda text, *_: lines.append(text))
    return lines


def test_boxes_outside_their_image_or_thinner_than_a_pixel_are_left_out_and_counted(coco, said):
    rewrite(coco, lambda c: c['annotations'][0].update(bbox=[100, 5, 10, 12]))
    rewrite(coco, lambda c: c['annotations'][1].update(bbox=[20, 10, .5, 20]))
    assert len(dataset(coco)[0]['data_samples'].gt_instances) == 0
    assert said == [f'{coco}/a.json: 1 boxes are left out: they lie outside their image (first: annotation 1).',
                    f'{coco}/a.json: 1 boxes are left out: a side is shorter than a pixel, or the area is 0 (first: annotation 2).']


@pytest.mark.parametrize(('mask', 'fault'), [
    (dict(size=[64, 48], counts=[0, 3072]), "not the image's"), (dict(size=[48, 64], counts=[0, 5]), 'do not add up'),
    (dict(size=[48, 64], counts=[-1, 3073]), 'do not add up'), (dict(size=[48, 64], counts='~~'), 'cannot be read'),
    (dict(size=[48, 64], counts=['a']), 'cannot be read'), (dict(size=[48, 64]), 'neither polygons nor run lengths'), (5, 'neither'),
    ([[.1, .1, .5, .1, .5, .5]], 'shares of the image'), ([[1, 2, 3, 4]], 'three points'),
    ([[1, 2, 3, 4, 5, 6, 7]], 'three points'), ([[[1, 2], [3, 4], [5, 6]]], 'not a list of numbers'),
    (['abc'], 'not a list of numbers'), ([[1, 2, 'x', 4, 5, 6]], 'not a list of numbers')])
def test_masks_that_cannot_be_drawn_are_counted_and_their_objects_ignored(coco, said, mask, fault):
    rewrite(coco, lambda c: c['annotations'][0].update(segmentation=mask))
    assert len(dataset(coco)[0]['data_samples'].gt_instances) == 2           # boxes do not need it
    sample = dataset(coco, MASKS)[0]['data_samples']
    assert len(sample.gt_instances) == len(sample.ignored_instances) == 1
    assert len(said) == 2 and fault in said[0] and said[0].endswith('(first: annotation 1).')


JUNK = [None, True, 'x', '', [], {}, -1, 0, 1.5, float('inf'), float('nan'), 10**30, 'a\0b', [1], [['a'] * 6], [[float('nan')] * 6],
        [[1e9] * 6], dict(size=None, counts=None), dict(size=[48, 64], counts='~~')]


@pytest.mark.parametrize('kind', ['images', 'annotations', 'categories'])
def test_junk_in_any_place_of_the_file_is_a_message_or_is_read(coco, said, kind):
    """No other exception, whatever stands there; what is accepted can also be loaded, or the image is named."""
    sound = json.loads((coco / 'a.json').read_text())
    for key, junk in [(k, j) for k in (*sound[kind][0], 'ignore') for j in JUNK]:
        content = json.loads(json.dumps(sound))
        content[kind][0][key] = junk
        (coco / 'a.json').write_text(json.dumps(content))
        try:
            dataset(coco, MASKS, serialize_data=False)[0]
        except (BrokenAnnotations, ConfigError) as error:
            assert 'a.json' in str(error)
        except UnreadableImage as error:
            assert kind == 'images' and key == 'file_name' and str(coco / 'images') in str(error)


def test_semantic_maps_lie_where_the_prefix_says(coco):
    (coco / 'maps').mkdir()
    cv2.imwrite(str(coco / 'maps' / '1_s.png'), np.full((48, 64), 7, np.uint8))
    data = CocoDataset(data_root=str(coco), ann_file='a.json', data_prefix=dict(img='images/', seg='maps/'), metainfo=CLASSES,
                       seg_map_suffix='_s.png', pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_seg=True),
                                                          dict(type='PackDetInputs')])
    assert (data[0]['data_samples'].gt_sem_seg.sem_seg == 7).all()


@pytest.mark.parametrize(('metainfo', 'message'), [
    (dict(classes='cat'), r"classes=\('cat',\), with a comma"), (dict(classes=('cat', 'dog', 'cat')), "'cat' 2 times"),
    (dict(CLASSES=('cat',)), "it is written 'classes' now")])
def test_class_lists_that_mean_something_else_are_refused(coco, metainfo, message):
    with pytest.raises(ConfigError, match=message):
        dataset(coco, metainfo=metainfo)


def test_classes_may_be_a_list_or_a_file_and_are_a_tuple(coco):
    (coco / 'names.txt').write_text('dog\ncat\n')
    assert dataset(coco, metainfo=dict(classes=['cat'])).metainfo['classes'] == ('cat',)
    assert dataset(coco, metainfo=dict(classes=str(coco / 'names.txt'))).metainfo['classes'] == ('dog', 'cat')


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


def test_samples_are_counted_as_in_a_list(coco):
    data = dataset(coco)
    assert [s['data_samples'].img_id for s in data] == [1, 2, 3, 4, 5] and data[-1]['data_samples'].img_id == 5
    for index in (5, -6):
        with pytest.raises(IndexError, match=f'no sample {index}, there are 5'):
            data[index]


def test_a_pipeline_that_gives_nothing_is_named(coco):
    nothing = [*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(1000, 1000)), dict(type='PackDetInputs')]
    with pytest.raises(ValueError, match='Look at the pipeline'):
        dataset(coco, nothing, max_refetch=3, metainfo=dict(classes=('cat', 'dog')), indices=[0, 1])[0]


def test_when_no_image_can_be_read_skipping_ends_and_says_how_many(coco):
    for path in (coco / 'images').iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r'nor from 60 others\. 5 of the images could not be read'):
        dataset(coco, on_error='skip', max_refetch=60)[0]


def test_a_file_that_lists_no_images_is_named(coco):
    rewrite(coco, lambda c: c.update(images=[], annotations=[]))
    for test_mode in (False, True):
        with pytest.raises(ConfigError, match=r'a.json: it lists no images'):
            dataset(coco, test_mode=test_mode)


def test_a_data_set_can_be_sent_to_a_worker_that_starts_from_nothing(coco):
    """Where processes are not forked (macOS, Windows) the data set is pickled."""
    data = dataset(coco, RANDOM, seed=5)
    assert (pickle.loads(pickle.dumps(data))[1]['inputs'] == data[1]['inputs']).all()


def test_workers_that_stay_see_the_epoch_change(coco):
    data = dataset(coco, RANDOM, seed=5)
    part = data.get_subset([0, 1, 2])
    for chosen in (data, part):
        loader = DataLoader(chosen, num_workers=1, persistent_workers=True, collate_fn=pseudo_collate)
        for epoch in (0, 1):
            chosen.set_epoch(epoch)
            got = [batch['inputs'][0] for batch in loader]
            assert all((g == chosen[epoch, i]['inputs']).all() for i, g in enumerate(got))
    assert len(part) == 3 and part.pipeline.num_samples() == 3 and data.pipeline.num_samples() == 5


def test_spaces_around_a_name_are_seen_in_the_message(coco):
    content = json.loads((coco / 'a.json').read_text())
    for c in content['categories']:
        c['name'] += ' '
    (coco / 'a.json').write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="It has: 'dog ', 'cat '. .*or correct the names there"):
        dataset(coco)
