"""What the doctor finds, and what it leaves alone."""
from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pytest

import detkit.data
from detkit.cli import main
from detkit.data.formats.coco import read_coco
from detkit.data.formats.pictures import picture_size
from detkit.doctor import doctor


def config(root, splits=('train', 'val', 'test'), ann_file='annotations/{}.json', classes=None, images='images/', **options) -> dict:
    metainfo = dict(metainfo=dict(classes=classes)) if classes else {}
    return {f'{split}_dataloader': dict(dataset=dict(type='CocoDataset', data_root=str(root), ann_file=ann_file.format(split),
                                                     data_prefix=dict(img=images), pipeline=[], **metainfo, **options)) for split in splits}


# ------------------------------------------------------------------------------------------------------- no false alarm
@pytest.mark.parametrize('name,classes', [
    ('bccd', ('RBC', 'WBC', 'Platelets')), ('dsb2018_nuclei', ('nucleus',)),
    ('deeppcb', ('open', 'short', 'mousebite', 'spur', 'copper', 'pin-hole'))])
def test_nothing_is_found_in_sound_sets(shared, name, classes):
    report = doctor(config(shared / 'data' / name, classes=classes), model=False)
    assert report.kinds('fault', 'warning') == set(), report.text()
    assert report.facts['train']['mapped_annotations'] > 1000


def test_nothing_is_found_in_sound_photographs_with_masks(shared):
    report = doctor(config(shared / 'data/photos', ('val',), 'annotations.json'), model=False)
    assert report.kinds('fault', 'warning') == set() and report.facts['val']['mapped_annotations'] == 97


@pytest.mark.parametrize('name', ['control_ok', 'crowd', 'sparse_ids', 'image_with_no_annotations', 'utf8_bom', 'missing_key_info_licenses',
                                  'annotation_minimal', 'string_ids'])
def test_unusual_files_are_no_faults(shared, name):
    classes = tuple(c['name'] for c in read_coco(str(shared / f'data/bad/annotations/{name}.json'))['categories'])
    report = doctor(config(shared / 'data/bad', ('train',), f'annotations/{name}.json', classes), model=False)
    assert report.kinds('fault') == set(), report.text()


# ------------------------------------------------------------------------------------------------------- broken inputs
BROKEN = {
    'invalid_json_cut': 'not valid JSON', 'invalid_json_comma': 'not valid JSON at line', 'empty_file': 'not valid JSON',
    'latin1': 'not UTF-8', 'deep_nesting': 'nested too deeply', 'top_level_list': 'top level is a list',
    'missing_key_images': "'images'", 'missing_key_annotations': "'annotations'", 'missing_key_categories': "'categories'",
    'image_without_size': "'width'", 'image_without_file_name': "has no 'file_name'",
    'annotation_without_bbox': "annotation 2 has no 'bbox'",
    'annotation_without_category': "annotation 2 has no 'category_id'", 'unknown_image_id': 'annotation 2 has the image_id 99',
    'unknown_category_id': 'annotation 2 has the category_id 7', 'box_negative_size': 'annotation 2 .*negative size',
    'box_nan': 'annotation 2 has the bbox', 'box_infinite': 'annotation 2 has the bbox',
    'box_huge': 'annotation 2 has the bbox', 'box_strings': 'annotation 2 has the bbox', 'box_null': 'annotation 2 has the bbox',
    'box_three_numbers': 'annotation 2 has the bbox',
    'box_partly_outside': 'annotation 2 .*320x240',
    'duplicate_image_ids': 'the id 1 stands 2 times in images', 'duplicate_annotation_ids': 'the id 1 stands 2 times in annotations',
    'duplicate_category_ids': 'the id 1 stands 2 times in categories', 'duplicate_file_names': 'stands in 2 images',
    'empty_images_with_annotations': 'which is not in the file', 'rle_wrong_length': 'annotation 2 .*add up',
    'rle_wrong_size': 'annotation 2 .*size', 'polygon_two_points': 'annotation 2 .*three points', 'polygon_odd': 'annotation 2 ',
    'polygon_outside': 'annotation 2 ', 'wrong_image_size': '640x480, its file is 320x240', 'missing_file': 'no such file',
    'path_traversal': 'no path below',
    'path_traversal_backslash': 'no path below', 'path_absolute': 'no path below', 'path_url': 'no path below',
    'bad_images': 'truncated.jpg|zero_byte|text_named'}


@pytest.mark.parametrize('name', BROKEN)
def test_every_broken_annotation_file_is_named_with_place_and_remedy(shared, tmp_path, name):
    report = doctor(config(shared / 'data/bad', ('train',), f'annotations/{name}.json', ('cat', 'cell')), model=False, out=tmp_path)
    faults = [f for f in report.findings if f.level == 'fault']
    assert faults and all(f.remedy and f.places for f in faults)
    import re
    assert any(re.search(BROKEN[name], p) for f in faults for p in f.places), report.text()
    assert any(f'{name}.json' in p or '.jpg' in p for f in faults for p in f.places)
    assert (tmp_path / 'report.html').stat().st_size > 1000 and json.loads((tmp_path / 'report.json').read_text())['findings']


@pytest.mark.parametrize('name,kind', [('box_subpixel', 'box below a pixel'), ('duplicate_boxes', 'object twice'),
                                       ('duplicate_category_names', 'class name twice'), ('no_annotations', 'nothing to learn'),
                                       ('crowd_only', 'nothing to learn'), ('empty_images', 'no images'),
                                       ('empty_categories', 'no classes'), ('box_zero_size', 'box without area'),
                                       ('box_outside', 'box outside its image')])
def test_what_is_unusual_is_told(shared, name, kind):
    report = doctor(config(shared / 'data/bad', ('train',), f'annotations/{name}.json', ('cat', 'cell')), model=False)
    assert kind in report.kinds(), report.text()


def test_every_odd_picture_is_told_and_none_is_decoded_that_would_fill_the_memory(shared, tmp_path):
    folder = shared / 'data/bad/images'
    unreadable = ('zero_byte.jpg', 'text_named.jpg', 'truncated_header.jpg')
    sizes = {p.name: (9, 9) if p.name in unreadable else picture_size(p) for p in sorted(folder.iterdir())}
    images = [dict(id=i, file_name=name, width=w, height=h) for i, (name, (w, h)) in enumerate(sizes.items())]
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=images, annotations=[], categories=[dict(id=1, name='cat')])))
    report = doctor(config(folder, ('train',), str(tmp_path / 'a.json'), ('cat',), ''), model=False)
    told = {p.split(':')[0].rsplit('/', 1)[-1]: (f.level, f.kind) for f in report.findings for p in f.places
            if p.startswith(str(folder))}
    assert told['huge_20000x20000.png'] == ('fault', 'picture too large to decode')
    for name, kind in (('truncated.jpg', 'picture cut short'), ('truncated.png', 'picture cut short'),
                       ('zero_byte.jpg', 'picture unreadable'), ('text_named.jpg', 'picture unreadable'),
                       ('corrupt_idat.png', 'picture unreadable'),
                       ('truncated_header.jpg', 'picture unreadable')):
        assert told[name] == ('fault', kind), name
    assert told['truncated_no_eoi.jpg'][0] == 'warning' and told['grey16.png'] == ('warning', 'picture of 16 bits')
    for name, kind in (('rgba.png', 'picture with transparency'), ('cmyk.jpg', 'picture in CMYK'),
                       ('animated.gif', 'picture with several frames'), ('png_named.jpg', 'name does not tell the format'),
                       ('one_pixel.png', 'picture tiny'),
                       ('tall_10x8000.jpg', 'picture extremely long')):
        assert told[name][1] == kind, name
    twins = next(f for f in report.findings if f.kind == 'nearly the same picture twice')
    assert any('exif_orientation6' in p for p in twins.places)           # the same cat, stored turned
    assert not {'ok.jpg', 'ok2.jpg', 'exif_upright.jpg', 'grey8.png', 'palette.png'} & set(told)


# ------------------------------------------------------------------------------------------------------ injected faults
def first(content):
    return content['annotations'][0]


INJECTED = {
    'box leaves its image': lambda c: first(c).update(bbox=[600, 400, 90, 60]),
    'box without area': lambda c: first(c).update(bbox=[60, 40, 0, 20]),
    'box outside its image': lambda c: first(c).update(bbox=[700, 400, 20, 20]),
    'box below a pixel': lambda c: first(c).update(bbox=[60, 40, 0.5, 20]),
    'bbox is not four numbers': lambda c: first(c).update(bbox=[60, 40, float('nan'), 20]),
    'bbox of negative size': lambda c: first(c).update(bbox=[60, 40, -5, 20]),
    'unknown category_id': lambda c: first(c).update(category_id=77),
    'unknown image_id': lambda c: first(c).update(image_id=99999),
    'id not unique': lambda c: c['annotations'][1].update(id=first(c)['id']),
    'object twice': lambda c: c['annotations'].append({**first(c), 'id': 10**6}),
    'mask unusable': lambda c: first(c).update(segmentation=[[1, 2, 3, 4]]),
    'mask leaves its image': lambda c: first(c).update(segmentation=[[1, 2, 3000, 4, 50, 60]]),
    'class name twice': lambda c: c['categories'].append(dict(id=9, name='RBC')),
    'class names alike': lambda c: c['categories'].append(dict(id=9, name='rbc')),
    'size differs from the file': lambda c: c['images'][0].update(width=480, height=640),
    'picture missing': lambda c: c['images'][0].update(file_name='gone.jpg'),
    'path outside the image folder': lambda c: c['images'][0].update(file_name='../images/a.jpg'),
    'file listed twice': lambda c: c['images'].append({**c['images'][0], 'id': 10**6}),
    'class without training objects': lambda c: c.update(annotations=[a for a in c['annotations'] if a['category_id'] != 2]),
    'no annotation has a wanted class': lambda c: [x.update(name=x['name'].lower()) for x in c['categories']],
}


@pytest.mark.parametrize('bbox, area, kind', [
    ([60, 40, 0, 20], 0, 'box without area'), ([700, 400, 20, 20], 400, 'box outside its image'),
    ([60, 40, 0.5, 20], 10, 'box below a pixel'), ([60, 40, 20, 20], 0, 'area of 0')])
def test_what_training_leaves_out_and_counts_is_a_warning_and_a_fault_where_nothing_is_left(examine, bbox, area, kind):
    def change(content, count):
        for a in content['annotations'][:count]:
            a.update(bbox=bbox, area=area)
    report = examine(lambda content: change(content, 1))
    found, = [f for f in report.findings if f.kind == kind]
    assert (found.level, found.count) == ('warning', 1) and found.remedy.startswith('Training leaves it out.')
    assert report.kinds('fault') == set(), report.text()
    assert 'nothing to learn' in examine(lambda content: change(content, None)).kinds('fault')


def test_each_data_set_is_printed_once(shared):
    lines = []
    report = doctor(config(shared / 'data/bad', ('train',), 'annotations/control_ok.json', ('cat', 'cell')), model=False, say=lines.append)
    assert [line for line in [*lines, *report.text().splitlines()] if 'control_ok.json' in line and line.startswith('train: ')] == [
        report.text().splitlines()[0]]


@pytest.mark.parametrize('kind', INJECTED)
def test_an_injected_fault_is_caught(examine, kind):
    report = examine(INJECTED[kind])
    assert kind in report.kinds('fault', 'warning'), report.text()


def test_the_set_without_a_fault_gives_no_alarm(examine):
    report = examine()
    assert report.worst in (None, 'note'), report.text()


def test_the_same_picture_in_both_splits_is_a_leak(bccd, examine):
    train, val = (json.loads((bccd / f'{s}.json').read_text()) for s in ('train', 'val'))
    copied = val['images'][0]['file_name']
    shutil.copy(bccd / 'images' / train['images'][0]['file_name'], bccd / 'images' / copied)
    report = examine()
    found = next(f for f in report.findings if f.kind == 'same picture in two splits')
    assert found.level == 'warning' and copied in found.places[0] and train['images'][0]['file_name'] in found.places[0]


@pytest.mark.parametrize('change', [
    lambda i: cv2.resize(i, None, fx=0.5, fy=0.5), lambda i: np.clip(i.astype(int) + 12, 0, 255).astype(np.uint8),
    lambda i: cv2.resize(i[2:-2, 2:-2], i.shape[1::-1]), lambda i: cv2.cvtColor(cv2.cvtColor(i, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)])
def test_a_changed_copy_in_the_other_split_is_a_leak(bccd, examine, change):
    train, val = (json.loads((bccd / f'{s}.json').read_text()) for s in ('train', 'val'))
    name = train['images'][0]['file_name']
    copied = change(cv2.imread(str(bccd / 'images' / val['images'][0]['file_name'])))
    cv2.imwrite(str(bccd / 'images' / name), copied, [cv2.IMWRITE_JPEG_QUALITY, 70])
    train['images'][0].update(width=copied.shape[1], height=copied.shape[0])
    train['annotations'] = [a for a in train['annotations'] if a['image_id'] != train['images'][0]['id']]
    (bccd / 'train.json').write_text(json.dumps(train))
    report = examine()
    found = next(f for f in report.findings if f.kind == 'nearly the same picture in two splits')
    assert name in found.places[0] and val['images'][0]['file_name'] in found.places[0] and found.count == 1


def test_a_slip_of_the_hand_is_an_outlier(bccd, shared):
    content = json.loads((shared / 'data/bccd/annotations/train.json').read_text())
    cell = next(a for a in content['annotations'] if a['category_id'] == 1)
    cell.update(id=123456, bbox=[10, 10, 6, 7])
    (bccd / 'slip.json').write_text(json.dumps(content))
    report = doctor(config(shared / 'data/bccd', ('train',), str(bccd / 'slip.json'), ('RBC', 'WBC', 'Platelets')), model=False)
    assert any('annotation 123456' in p and 'size (6x7)' in p for f in report.findings if f.kind == 'label outlier' for p in f.places)


def test_a_pipe_in_place_of_a_picture_does_not_hang(bccd, examine):
    name = json.loads((bccd / 'train.json').read_text())['images'][0]['file_name']
    (bccd / 'images' / name).unlink()
    os.mkfifo(bccd / 'images' / name)
    assert any(name in p and 'no ordinary file' in p for f in examine().findings for p in f.places)


def test_exif_that_turns_a_picture_is_told_apart_from_a_wrong_size(shared, tmp_path):
    image = dict(id=1, file_name='exif_orientation6.jpg', width=150, height=226)
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=[image], annotations=[], categories=[dict(id=1, name='cat')])))
    report = doctor(config(shared / 'data/bad/images', ('train',), str(tmp_path / 'a.json'), ('cat',), ''), model=False)
    found = next(f for f in report.findings if f.kind == 'size differs from the file')
    assert 'once EXIF turns it' in found.places[0] and 'color_ignore_orientation' in found.remedy


# -------------------------------------------------------------------------------------------------------------- others
def test_wrapped_data_sets_and_other_formats_are_examined(bccd, shared):
    one = config(bccd, ('train',), '{}.json', ('RBC', 'WBC', 'Platelets'))['train_dataloader']['dataset']
    two = dict(type='CSVDataset', data_root=str(bccd), ann_file='t.csv', data_prefix=dict(img='images/'), pipeline=[])
    name = json.loads((bccd / 'train.json').read_text())['images'][0]['file_name']
    (bccd / 't.csv').write_text(f'nothing.jpg,1,2,3,4,cat\n{name},1,2,3,x,cat\n{name},1,2,30,40,cat\n')
    cfg = dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[one, two]))))
    report = doctor(cfg, model=False)
    found = next(f for f in report.findings if f.level == 'fault')
    assert report.kinds('fault') == {'annotation unusable'} and found.count == 2
    assert 't.csv' in found.places[0] and 't.csv: line 2' in found.places[1]
    assert report.facts['train']['mapped_annotations'] > 50
    lost = doctor(dict(train_dataloader=dict(dataset={**one, 'data_root': '/no/such'})), model=False)
    assert lost.kinds('fault') == {'data set cannot be built'}


def test_every_broken_voc_file_is_named(shared, tmp_path):
    folder = shared / 'data/bad'
    stems = sorted(p.stem for p in (folder / 'annotations_voc').iterdir())
    (tmp_path / 'all.txt').write_text('\n'.join(stems))
    report = doctor(dict(train_dataloader=dict(dataset=dict(
        type='XMLDataset', data_root=str(folder), ann_file=str(tmp_path / 'all.txt'), ann_subdir='annotations_voc', img_subdir='images',
        pipeline=[]))), model=False)
    named = {p.split('.xml')[0].rsplit('/', 1)[-1] for f in report.findings if f.kind == 'annotation unusable' for p in f.places}
    assert named == {'malformed', 'empty_file', 'no_size', 'zero_size', 'no_bndbox', 'no_name', 'box_swapped', 'box_outside',
                     'box_not_a_number', 'entity_bomb', 'entity_external', 'path_traversal'}
    assert 'box without area' in report.kinds('warning') and 'picture missing' in report.kinds('fault')   # no picture has these names


def test_every_broken_yolo_file_is_named(shared, tmp_path):
    folder = shared / 'data/bad'
    (tmp_path / 'images').mkdir()
    shutil.copytree(folder / 'labels_yolo', tmp_path / 'labels')
    for path in (tmp_path / 'labels').iterdir():
        shutil.copy(folder / 'images/ok.jpg', tmp_path / f'images/{path.stem}.jpg')
    (tmp_path / 'data.yaml').write_text('train: images\nnames: [cat, cell]')
    data = dict(type='YOLODataset', data_root=str(tmp_path), ann_file='data.yaml', pipeline=[])
    report = doctor(dict(train_dataloader=dict(dataset=data)), model=False)
    named = {p.split('.txt')[0].rsplit('/', 1)[-1] for f in report.findings if f.kind == 'annotation unusable' for p in f.places}
    assert named == {'class_out_of_range', 'class_negative', 'pixels_not_normalised', 'zero_size', 'negative_size', 'nan', 'four_columns',
                     'letters'}
    assert 'object twice' in report.kinds('warning')                                                        # duplicate_lines


def test_it_is_known_as_a_part_of_the_data_package():
    assert detkit.data.doctor is doctor


def test_the_tool_writes_its_report_and_says_by_its_status_whether_to_go_on(bccd, tmp_path, capsys):
    (tmp_path / 'c.py').write_text(f'data = {config(bccd, ("train", "val"), "{}.json", ("RBC", "WBC", "Platelets"))!r}\n'
                                   'train_dataloader = data["train_dataloader"]\nval_dataloader = data["val_dataloader"]\n')
    out = tmp_path / 'out'
    assert main(['doctor', str(tmp_path / 'c.py'), '--no-model', '--out', str(out)]) == 0
    assert 'Nothing found.' in capsys.readouterr().out
    os.remove(bccd / 'images' / json.loads((bccd / 'val.json').read_text())['images'][0]['file_name'])
    assert main(['doctor', str(tmp_path / 'c.py'), '--no-model', '--out', str(out), '--fix', str(tmp_path / 'fixed')]) == 1
    printed = capsys.readouterr().out
    assert 'FAULT   val: picture missing' in printed and 'report.html' in printed
    assert 'detkit doctor --fix does' in printed and f"detkit new-config --data {tmp_path / 'fixed'} --images" in printed
    assert len(json.loads((tmp_path / 'fixed/val.json').read_text())['images']) == 5
    assert json.loads((tmp_path / 'fixed/train_changes.json').read_text())['changes'] == []


# -------------------------------------------------------------------------------------------------- what was looked at
def test_the_report_says_which_files_folders_and_classes_it_looked_at(coco):
    (coco / 'annotations').mkdir()
    (coco / 'a.json').rename(coco / 'annotations/train.json')
    report = doctor(config(coco, ('train',), classes=('cat', 'dog')), model=False)
    file, folder = coco / 'annotations/train.json', coco / 'images'
    assert report.as_dict()['sources'] == [dict(split='train', annotations=str(file), images=str(folder), num_images=5, num_objects=6,
                                                classes=['cat', 'dog'])]
    assert report.text().startswith(f'train: {file} (images in {folder}): 5 images, 6 objects, 2 classes: cat, dog\n')
