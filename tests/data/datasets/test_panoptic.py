from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from panoptic_set import CLASSES, write_panoptic

from detkit.data.datasets.panoptic import CocoPanopticDataset
from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.transforms.loading import UnreadableImage
from detkit.registry import ConfigError
from detkit.structures.panoptic import VOID_LABEL

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadPanopticAnnotations'), dict(type='PackDetInputs')]
IDS = np.array([[70_000, 70_000, 70_000, 70_000], [70_000, 1001, 1001, 8], [300, 1001, 1001, 8], [300, 1002, 1002, 0]])
SEGMENTS = {70_000: dict(category_id=200), 300: dict(category_id=90), 1001: dict(category_id=9), 1002: dict(category_id=5, iscrowd=1),
            8: dict(category_id=5)}


@pytest.fixture
def folder(tmp_path):
    write_panoptic(tmp_path, [(IDS, SEGMENTS), (np.full((4, 4), 300), {300: dict(category_id=90)})])
    return tmp_path


def dataset(folder, pipeline=LOAD, metainfo=CLASSES, **options) -> CocoPanopticDataset:
    return CocoPanopticDataset(data_root=str(folder), ann_file='panoptic.json', data_prefix=dict(img='images/', seg='panoptic/'),
                               metainfo=metainfo, pipeline=pipeline, **options)


def rewrite(folder, change) -> None:
    content = json.loads((folder / 'panoptic.json').read_text())
    change(content)
    (folder / 'panoptic.json').write_text(json.dumps(content))


def test_test_images_need_no_segments_and_training_does(folder):
    rewrite(folder, lambda c: c.pop('annotations'))
    data = dataset(folder, [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')], test_mode=True)
    assert len(data) == 2 and data[0]['inputs'].shape == (3, 4, 4)
    with pytest.raises(BrokenAnnotations, match="panoptic.json: it has images and no list 'annotations'"):
        dataset(folder)


def test_things_become_instances_with_masks_and_everything_a_map_of_labels(folder):
    sample = dataset(folder)[0]['data_samples']
    assert sample.gt_instances.labels.tolist() == [1, 0]                       # blue 1001, red 8; the crowd is no instance
    assert sample.gt_instances.bboxes.tolist() == [[1, 1, 3, 3], [3, 1, 4, 3]]
    assert sample.gt_instances.masks.masks[1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert sample.gt_sem_seg.sem_seg.tolist() == [[[2, 2, 2, 2], [2, 1, 1, 0], [3, 1, 1, 0], [3, 0, 0, VOID_LABEL]]]


def test_an_image_of_stuff_alone_has_no_instances_and_is_filtered_as_one_without_objects(folder):
    sample = dataset(folder)[1]['data_samples']
    assert len(sample.gt_instances.masks) == 0 and sample.gt_instances.masks.masks.shape == (0, 4, 4)
    assert sample.gt_sem_seg.sem_seg.unique().tolist() == [3]
    assert len(dataset(folder, filter_cfg=dict(filter_empty_gt=True))) == 1


def test_segments_of_classes_not_asked_for_are_void_but_known(folder):
    data = dataset(folder, metainfo=dict(classes=('blue', 'grass')))
    assert data.metainfo['thing_classes'] == ('blue',) and data.metainfo['stuff_classes'] == ('grass',)
    assert data[0]['data_samples'].gt_sem_seg.sem_seg.tolist() == [[[255] * 4, [255, 0, 0, 255], [1, 0, 0, 255], [1, 255, 255, 255]]]
    assert data.get_data_info(0)['segments_info'][0] == dict(id=70_000, category=VOID_LABEL, is_thing=False)


def test_resize_flip_and_crop_move_the_map_as_they_move_masks(folder):
    sample = dataset(folder, [*LOAD[:2], dict(type='Resize', scale=(8, 8)), dict(type='RandomFlip', prob=1.0),
                              dict(type='RandomCrop', crop_size=(6, 8), allow_negative_crop=True), dict(type='Pad', size=(10, 8)),
                              LOAD[2]])[0]['data_samples']
    labels, masks = sample.gt_sem_seg.sem_seg[0].numpy(), sample.gt_instances.masks.masks
    assert labels.shape == masks.shape[1:] == (8, 10) and (labels[:, 6:] == VOID_LABEL).all()
    for label, mask in zip(sample.gt_instances.labels.tolist(), masks):
        assert mask.any() and (labels[mask > 0] == label).all()


def test_without_pictures_boxes_alone_are_loaded(folder):
    data = CocoPanopticDataset(data_root=str(folder), ann_file='panoptic.json', data_prefix=dict(img='images/'), metainfo=CLASSES,
                               pipeline=LOAD)
    sample = data[0]['data_samples']
    assert 'masks' not in sample.gt_instances and 'gt_sem_seg' not in sample and len(sample.gt_instances) == 2


def test_the_pictures_name_is_that_of_the_annotation_file(folder):
    def renamed(content):
        content['annotations'][0]['file_name'] = 'other_panoptic.png'
    rewrite(folder, renamed)
    (folder / 'panoptic/1.png').rename(folder / 'panoptic/other_panoptic.png')
    assert dataset(folder)[0]['data_samples'].gt_sem_seg.sem_seg.shape == (1, 4, 4)


def picture(change):
    def apply(folder):
        path = str(folder / 'panoptic/1.png')
        cv2.imwrite(path, change(cv2.imread(path)))
    return apply


def painted(image):
    image[0, 0] = 0, 0, 77
    return image


@pytest.mark.parametrize('spoil, words', [
    (picture(painted), r'1\.png.*shows the segments 77'), (picture(lambda p: p[:, :3]), r'1\.png.*size is \(4, 3\).*\(4, 4\)'),
    (picture(lambda p: np.zeros_like(p)), r'1\.png.*no pixel of it belongs to the segments 70000, 300, 1001'),
    (lambda folder: (folder / 'panoptic/1.png').unlink(), r'1\.png.*no such file')])
def test_a_picture_that_contradicts_the_file_is_named_with_its_segments(folder, spoil, words):
    spoil(folder)
    with pytest.raises(UnreadableImage, match=words):
        dataset(folder)[0]
    assert dataset(folder, on_error='skip')[0]['data_samples'].img_id == 2


def segment(**values):
    return lambda content: content['annotations'][0]['segments_info'][2].update(values)


@pytest.mark.parametrize('change, words', [
    (segment(category_id=6), r'segment 1001 of image 1 has the category_id 6, which is not in the file'),
    (segment(id=300), 'segment 300 of image 1 stands twice'), (segment(id=2**24), 'segment 16777216 of image 1 has the id 16777216'),
    (segment(bbox=[1, 1, -2, 2]), 'segment 1001 of image 1 has the bbox .* of negative size'),
    (lambda c: c['annotations'][0].pop('segments_info'), r"annotations\[0\] has no 'segments_info'.*CocoDataset"),
    (lambda c: c['categories'][0].pop('isthing'), r'categories\[0\] \(id 5\) has isthing None')])
def test_broken_annotations_are_told_by_image_and_segment(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(BrokenAnnotations, match=r'panoptic\.json: ' + words):
        dataset(folder)


def test_all_faults_can_be_listed_and_the_sound_segments_are_kept(folder):
    rewrite(folder, lambda c: (segment(category_id=6)(c), c['annotations'][1]['segments_info'][0].pop('bbox')))
    faults = []
    sound = dataset(folder, lazy_init=True).read(faults.append)
    assert [f.kind for f in faults] == ['unknown category_id', 'key missing']
    assert [a['id'] for a in sound['annotations']] == [70_000, 300, 1002, 8]


def test_things_come_first(folder):
    with pytest.raises(ConfigError, match="the thing 'blue' after stuff"):
        dataset(folder, metainfo=dict(classes=('red', 'sky', 'blue')))


def test_more_classes_than_a_map_of_bytes_can_hold_are_refused(folder):
    rewrite(folder, lambda c: c['categories'].extend(dict(id=1000 + i, name=f'c{i}', isthing=0) for i in range(256)))
    with pytest.raises(ConfigError, match='260 classes are more than the 255'):
        dataset(folder, metainfo=dict(classes=('red', 'blue', 'sky', 'grass', *(f'c{i}' for i in range(256)))))


def test_segments_smaller_than_a_pixel_are_void_as_in_mmdetection(folder, caplog):
    rewrite(folder, segment(area=0))
    data = dataset(folder)
    assert [i['bbox_label'] for i in data.get_data_info(0)['instances']] == [0]
    assert data[0]['data_samples'].gt_sem_seg.sem_seg[0, 1].tolist() == [2, VOID_LABEL, VOID_LABEL, 0]
