from __future__ import annotations

import cv2
import numpy as np
import pytest

from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.formats.yolo import label_file, read_labels, read_names, yolo_to_coco


@pytest.fixture
def yolo(tmp_path):
    """Two pictures of 40x20 pixels, the second without a label file."""
    (tmp_path / 'images/train').mkdir(parents=True)
    (tmp_path / 'labels/train').mkdir(parents=True)
    for name in ('a', 'b'):
        cv2.imwrite(str(tmp_path / f'images/train/{name}.png'), np.zeros((20, 40, 3), np.uint8))
    (tmp_path / 'labels/train/a.txt').write_text('1 0.5 0.5 0.25 0.5\n0 0 0 0.5 0 0.5 0.5\n')
    (tmp_path / 'data.yaml').write_text('train: images/train\nnames: {0: cat, 1: dog}\n')
    return tmp_path


def test_boxes_and_polygons_become_pixels(yolo):
    content = yolo_to_coco(yolo / 'data.yaml', 'train')
    assert [(i['file_name'], i['width'], i['height']) for i in content['images']] == [('images/train/a.png', 40, 20),
                                                                                    ('images/train/b.png', 40, 20)]
    box, polygon = content['annotations']
    assert (box['category_id'], box['bbox'], box['segmentation']) == (2, [15, 5, 10, 10], [])
    assert (polygon['category_id'], polygon['bbox'], polygon['segmentation']) == (1, [0, 0, 20, 10], [[0, 0, 20, 0, 20, 10]])
    assert [c['name'] for c in content['categories']] == ['cat', 'dog']


@pytest.mark.parametrize('given,message', [
    ('names: [cat, cat]', 'stands twice'), ('names: {1: cat}', 'by number from 0'), ('train: x', "'names' is missing"), ('[', 'as YAML'),
    ('names: [cat]', "names no 'train'"), ('names: [cat]\ntrain: nowhere', 'nowhere.*does not exist')])
def test_a_yaml_that_cannot_be_used_is_named(tmp_path, given, message):
    (tmp_path / 'data.yaml').write_text(given)
    with pytest.raises(BrokenAnnotations, match=f'data.yaml: .*{message}'):
        yolo_to_coco(tmp_path / 'data.yaml', 'train')


def test_names_are_a_list_or_numbered_and_images_a_folder_or_a_list(yolo):
    assert read_names(yolo / 'data.yaml')[1] == ['cat', 'dog']
    (yolo / 'some.txt').write_text('images/train/b.png\n')
    (yolo / 'data.yaml').write_text(f'path: {yolo}\nval: [some.txt, images/train]\nnames: [cat, dog]')
    assert len(yolo_to_coco(yolo / 'data.yaml', 'val')['images']) == 3


def test_labels_lie_beside_the_last_folder_of_images(tmp_path):
    assert str(label_file(tmp_path / 'images/x/images/a.b.jpg'))[len(str(tmp_path)):] == '/images/x/labels/a.b.txt'
    assert label_file(tmp_path / 'pictures/a.jpg').name == 'a.txt'


@pytest.mark.parametrize('name,message', [
    ('class_out_of_range', 'has the class 42'), ('class_negative', 'has the class -1'),
    ('pixels_not_normalised', 'not pixels'),
    ('zero_size', 'without width'), ('negative_size', 'shares|without'), ('nan', 'shares'), ('four_columns', 'has 4 numbers'),
    ('letters', 'numbers')])
def test_broken_labels_are_named(shared, name, message):
    with pytest.raises(BrokenAnnotations, match=rf'{name}\.txt: line \d.*{message}'):
        read_labels(shared / 'data/bad/labels_yolo' / f'{name}.txt', 2, 451, 300)


@pytest.mark.parametrize('name,count', [('control_ok', 1), ('empty', 0), ('class_float', 1), ('slightly_above_one', 1), ('polygon_line', 1),
                                        ('crlf_blank_lines', 1), ('duplicate_lines', 2)])
def test_unusual_labels_are_read(shared, name, count):
    assert len(read_labels(shared / 'data/bad/labels_yolo' / f'{name}.txt', 2, 451, 300)) == count
