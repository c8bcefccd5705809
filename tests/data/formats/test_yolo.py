from __future__ import annotations

import unicodedata

import cv2
import numpy as np
import pytest

from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.formats.yolo import label_file, read_labels, read_names, read_yolo, yolo_to_coco


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
    ('names: [cat, cat]', 'stands twice'), ('names: {1: cat}', 'no class of the number 0'), ('train: x', "'names' is missing"),
    ('[', 'as YAML'), ('names: [cat]', "names no 'train'"), ('names: [cat]\ntrain: nowhere', 'nowhere.*does not exist')])
def test_a_yaml_that_cannot_be_used_is_named(tmp_path, given, message):
    (tmp_path / 'data.yaml').write_text(given)
    with pytest.raises(BrokenAnnotations, match=f'data.yaml: .*{message}'):
        yolo_to_coco(tmp_path / 'data.yaml', 'train')


def test_names_are_a_list_or_numbered_and_images_a_folder_or_a_list(yolo):
    assert read_names(yolo / 'data.yaml')[1] == ['cat', 'dog']
    (yolo / 'some.txt').write_text('images/train/b.png\n')
    (yolo / 'data.yaml').write_text(f'path: {yolo}\nval: [some.txt, images/train]\nnames: [cat, dog]')
    images = yolo_to_coco(yolo / 'data.yaml', 'val')['images']      # b.png is listed, and lies in the folder: it counts once
    assert [i['file_name'] for i in images] == ['images/train/b.png', 'images/train/a.png']


@pytest.mark.parametrize(('names', 'expected'), [
    ('[yes, no]', ['yes', 'no']), ('[on, off, y, n]', ['on', 'off', 'y', 'n']),
    ('[01, 2, 1e3, 0x1f, 1_000]', ['01', '2', '1e3', '0x1f', '1_000']),
    ('[null, ~, true]', ['null', '~', 'true']), ('[2026-11-27, 12:30:00, .5]', ['2026-11-27', '12:30:00', '.5']),
    ('{0: yes, 1: "no"}', ['yes', 'no']), ('{"1": b, "0": a}', ['a', 'b']), ("['cat ', \"it's\"]", ['cat', "it's"]),
    ('\n- ja\n- nein', ['ja', 'nein'])])
def test_class_names_are_read_as_text(tmp_path, names, expected):
    (tmp_path / 'data.yaml').write_bytes(f'\ufefftrain: images\r\nnc: {len(expected)}\r\nnames: {names}\r\n'.encode())
    assert read_names(tmp_path / 'data.yaml')[1] == expected


@pytest.mark.parametrize(('text', 'message'), [
    ('names: {0: cat, 2: dog}', 'no class of the number 1. Number the 2 classes'),
    ('names: {0: cat, 0: dog}', "the key '0' stands 2 times"),
    ('nc: 3\nnames: [cat, dog]', "nc is 3 and 'names' has 2: cat, dog"), ('nc: 1\nnames: {0: cat, 1: dog}', "nc is 1 and 'names' has 2"),
    ('names: [cat, [dog]]', "'names' is missing, or neither"), ('names: [cat, ]\ntrain: {a: b}', "'train' is"),
    ('names: cat', 'neither a list'),
    ('- a', 'it holds no keys'), ('a: !!python/object/apply:os.system [ls]', "'names' is missing"), ('a: b: c', 'as YAML .line 1'),
    ('train: "images\\train"\nnames: [a]', r"'train' is 'images\\train'. In double quotes a backslash begins"),
    ('path: "D:\\data"\nnames: [a]', 'as YAML .line 1: .*escape.*In double quotes')])
def test_a_yaml_with_other_names_is_refused(tmp_path, text, message):
    (tmp_path / 'data.yaml').write_text(text)
    with pytest.raises(BrokenAnnotations, match=f'data.yaml: .*{message}'):
        yolo_to_coco(tmp_path / 'data.yaml', 'train')


@pytest.mark.parametrize('text', [
    'path: {set}\ntrain: images/train', 'path: .\ntrain: images\\train', 'path: /nowhere/else\ntrain: images/train',
    'path: ~\ntrain: images/train', 'path: null\ntrain: ../images/train', 'path: ~/set\ntrain: images/train',
    'path: set\ntrain: images/train', 'path: ../set\ntrain: [images/train]', 'train: {set}/images/train', 'train: ./lists/all.txt',
    'train: lists\\windows.txt', 'path: images\ntrain: train', 'train: [images/train/a.png, images/train/b.png]',
    'train: IMAGES/../images/train'])
def test_the_pictures_are_found_wherever_the_yaml_says_they_are(yolo, monkeypatch, text):
    root = yolo.parent / f'{yolo.name}_home/set'
    root.parent.mkdir()
    yolo.rename(root)
    monkeypatch.setenv('HOME', str(root.parent))
    monkeypatch.chdir(root.parent)
    (root / 'lists').mkdir()
    (root / 'IMAGES').mkdir()
    (root / 'lists/all.txt').write_text('\ufeff./../images/train/a.png\n' + f'{root}/images/train/b.png\n\n._b.png\n', encoding='utf-8')
    (root / 'lists/windows.txt').write_bytes(b'images\\train\\a.png\r\n.\\images\\train\\b.png\r\n')
    (root / 'data.yaml').write_text(text.replace('{set}', str(root)) + '\nnames: [cat, dog]\n')
    content, folder = read_yolo(root / 'data.yaml', 'train')
    assert [(folder / i['file_name']).resolve() for i in content['images']] == [root / f'images/train/{n}.png' for n in 'ab']
    assert len(content['annotations']) == 2


def test_roboflows_folders_lie_beside_its_yaml_although_it_says_above(yolo):
    (yolo / 'data.yaml').write_text('train: ../images/train\nval: ../valid/images\nnames: [cat, dog]')
    assert [i['file_name'] for i in yolo_to_coco(yolo / 'data.yaml', 'train')['images']] == ['images/train/a.png', 'images/train/b.png']
    with pytest.raises(BrokenAnnotations, match="'../valid/images', named by 'val', does not exist: there is no"):
        yolo_to_coco(yolo / 'data.yaml', 'val')
    with pytest.raises(BrokenAnnotations, match="names no 'test'. It has: train, val"):
        yolo_to_coco(yolo / 'data.yaml', 'test')
    (yolo / 'data.yaml').write_text('train: ../images/train\nvalid: images/train\nnames: [cat, dog]')
    assert len(yolo_to_coco(yolo / 'data.yaml', 'val')['images']) == 2


def test_names_of_files_are_relative_also_where_the_yaml_lies_elsewhere(yolo):
    """A name that begins with '/' or '..' would lead a conversion to write over the labels of the set."""
    (yolo / 'cfg').mkdir()
    for text, name in ((f'path: {yolo}\ntrain: images/train', 'images/train/a.png'), ('train: ../images/train', 'images/train/a.png')):
        (yolo / 'cfg/data.yaml').write_text(text + '\nnames: [cat, dog]')
        content, folder = read_yolo(yolo / 'cfg/data.yaml', 'train')
        assert content['images'][0]['file_name'] == name and folder == yolo


def test_a_folder_without_pictures_is_named(yolo):
    (yolo / 'empty').mkdir()
    (yolo / 'data.yaml').write_text('train: empty\nnames: [cat]')
    with pytest.raises(BrokenAnnotations, match="empty, named by 'train', has no picture"):
        yolo_to_coco(yolo / 'data.yaml', 'train')


def test_what_systems_leave_behind_is_no_picture(yolo):
    for name in ('._a.png', '.DS_Store', 'Thumbs.db', '.ipynb_checkpoints/a-checkpoint.png', 'notes.txt'):
        (yolo / 'images/train' / name).parent.mkdir(exist_ok=True)
        (yolo / 'images/train' / name).write_bytes(b'\0\5\26\7')
    assert len(yolo_to_coco(yolo / 'data.yaml', 'train')['images']) == 2


@pytest.mark.parametrize('text', ['\ufeff1 .5 .5 .25 .5\n', '1 .5 .5 .25 .5\r\n\r\n', '1\t.5 .5  .25 .5', '1 .5 .5 .25 .5\r'])
def test_label_files_of_other_systems(yolo, text):
    (yolo / 'labels/train/a.txt').write_bytes(text.encode())
    assert [a['bbox'] for a in yolo_to_coco(yolo / 'data.yaml', 'train')['annotations']] == [[15, 5, 10, 10]]
    (yolo / 'labels/train/a.txt').write_bytes(text.encode('utf-16'))
    assert len(yolo_to_coco(yolo / 'data.yaml', 'train')['annotations']) == 1


def test_folders_that_are_links_are_followed_and_labels_found_by_the_path_as_written(yolo, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'pictures'
    (yolo / 'images').rename(elsewhere)
    (yolo / 'images').symlink_to(elsewhere)
    assert len(yolo_to_coco(yolo / 'data.yaml', 'train')['annotations']) == 2
    (yolo / 'images').unlink()
    (yolo / 'images').mkdir()
    (yolo / 'images/train').symlink_to(elsewhere / 'train')
    (elsewhere / 'train/again').symlink_to(elsewhere / 'train')               # a circle
    (yolo / 'data.yaml').write_text('train: images\nnames: [cat, dog]')
    content = yolo_to_coco(yolo / 'data.yaml', 'train')
    assert [i['file_name'] for i in content['images']] == ['images/train/a.png', 'images/train/b.png'] and len(content['annotations']) == 2


@pytest.mark.parametrize(('images', 'labels', 'suffix'), [('Images', 'Labels', '.txt'), ('IMAGES', 'LABELS', '.TXT'),
                                                          ('Images', 'labels', '.txt'), ('images', 'labels', '.TXT')])
def test_folders_and_suffixes_in_capital_letters(yolo, images, labels, suffix):
    (yolo / 'images').rename(yolo / 'x').rename(yolo / images)
    (yolo / 'labels').rename(yolo / 'y').rename(yolo / labels)
    file = yolo / labels / 'train/a.txt'
    file.rename(file.with_suffix(suffix))
    (yolo / 'data.yaml').write_text(f'train: {images}/train\nnames: [cat, dog]')
    assert len(yolo_to_coco(yolo / 'data.yaml', 'train')['annotations']) == 2


@pytest.mark.parametrize(('on_disk', 'listed'), [('NFD', 'NFC'), ('NFC', 'NFD')])
def test_names_are_found_in_either_unicode_form(yolo, on_disk, listed):
    name = 'Gerät_ü'
    for path in (yolo / 'images/train/a.png', yolo / 'labels/train/a.txt'):
        path.rename(path.with_name(unicodedata.normalize(listed if path.suffix == '.txt' else on_disk, name) + path.suffix))
    (yolo / 'list.txt').write_text('images/train/' + unicodedata.normalize(listed, name) + '.png\n', encoding='utf-8')
    (yolo / 'data.yaml').write_text('train: list.txt\nnames: [cat, dog]')
    assert len(yolo_to_coco(yolo / 'data.yaml', 'train')['annotations']) == 2


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
