from __future__ import annotations

import json
import os
import shutil
import unicodedata

import cv2
import numpy as np
import pytest

from detkit.data.exchange import read_annotations, write_annotations
from detkit.data.formats.faults import BrokenAnnotations
from detkit.registry import DATASETS, ConfigError

XML = """<annotation><size><width>64</width><height>48</height></size>{}</annotation>"""
OBJECT = ('<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>'
          '</object>')
PLAIN = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackDetInputs')]


@pytest.fixture
def voc(tmp_path):
    """Two pictures of VOC2007, one of them a PNG."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (tmp_path / 'VOC2007' / folder).mkdir(parents=True)
    for name in ('1.jpg', '2.png'):
        cv2.imwrite(str(tmp_path / 'VOC2007/JPEGImages' / name), np.zeros((48, 64, 3), np.uint8))
    objects = OBJECT.format('dog', 0, 1, 1, 11.9, 11) + OBJECT.format('person', 1, 5, 5, 60, 40) + OBJECT.format('horse', 0, 5, 5, 9, 40)
    (tmp_path / 'VOC2007/Annotations/1.xml').write_text(XML.format(objects))
    (tmp_path / 'VOC2007/Annotations/2.xml').write_text(XML.format(''))
    (tmp_path / 'VOC2007/ImageSets/Main/trainval.txt').write_text('1\n2\n')
    return tmp_path


def dataset(root, kind='VOCDataset', **options):
    return DATASETS.build(dict(type=kind, data_root=str(root), ann_file='VOC2007/ImageSets/Main/trainval.txt', pipeline=PLAIN,
                               data_prefix=dict(sub_data_root='VOC2007/'), **options))


def test_voc_gives_mmdetections_boxes_labels_and_flags(voc):
    data = dataset(voc, filter_cfg=dict(filter_empty_gt=False, bbox_min_size=8))
    info = data.get_data_info(0)
    assert [i['bbox'] for i in info['instances']] == [[0, 0, 10, 10], [4, 4, 59, 39], [4, 4, 8, 39]]
    assert [i['bbox_label'] for i in info['instances']] == [11, 14, 12]
    assert [i['ignore_flag'] for i in info['instances']] == [0, 1, 1]           # difficult; smaller than bbox_min_size
    assert data.metainfo['dataset_type'] == 'VOC2007' and len(data.metainfo['classes']) == 20 and info['img_id'] == '1'
    assert data[1]['inputs'].shape == (3, 48, 64)                               # the PNG is found
    assert dataset(voc, offset=0).get_data_info(0)['instances'][0]['bbox'] == [1, 1, 11, 11]


def test_other_classes_are_counted_and_none_at_all_is_an_error(voc, monkeypatch):
    lines = []
    monkeypatch.setattr('detkit.data.datasets.entries.print_log', lambda text, *_: lines.append(text))
    data = dataset(voc, 'XMLDataset', metainfo=dict(classes=('dog', 'unicorn')))
    assert [i['bbox_label'] for i in data.get_data_info(0)['instances']] == [0]
    assert "2 objects of other classes are left out: 'person' (1), 'horse' (1)" in lines[0]
    assert dataset(voc, 'XMLDataset').metainfo['classes'] == ('dog', 'horse', 'person')
    with pytest.raises(ConfigError, match='1 of 1 classes of metainfo.classes are not in this file: hors.*horse'):
        dataset(voc, 'XMLDataset', metainfo=dict(classes=('hors',)))


def test_two_spellings_of_a_class_are_refused(voc, tmp_path):
    with pytest.raises(ConfigError, match="it has the class 'dog', and the data set's classes have 'Dog': two spellings of one name"):
        dataset(voc, 'XMLDataset', metainfo=dict(classes=('Dog', 'person')))
    (tmp_path / 'v.csv').write_text('file,x1,y1,x2,y2,class,width,height\na.jpg,1,2,11,22,traffic_light,64,48\na.jpg,1,2,11,22,car,64,48\n')
    with pytest.raises(ConfigError, match="v.csv: it has the class 'traffic_light', and .* have 'traffic light'"):
        DATASETS.build(dict(type='CSVDataset', ann_file=str(tmp_path / 'v.csv'), metainfo=dict(classes=('traffic light', 'car')),
                            pipeline=[]))


def test_a_list_or_a_file_that_is_not_there_is_named(voc):
    (voc / 'VOC2007/ImageSets/Main/trainval.txt').write_text('1\n7\n')
    with pytest.raises(BrokenAnnotations, match='7.xml: there is no such file'):
        dataset(voc)
    (voc / 'VOC2007/ImageSets/Main/trainval.txt').unlink()
    with pytest.raises(BrokenAnnotations, match='trainval.txt: cannot be read as a list of names'):
        dataset(voc)


def voc_folder(root, files, lines):
    """A data set of Pascal VOC: name -> its XML, and a list of names; a picture of 64x48 pixels for each name."""
    for name, text in files.items():
        for place, suffix in (('Annotations', '.xml'), ('JPEGImages', '.jpg')):
            path = root / place / f'{name}{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == '.xml':
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
            else:
                cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    (root / 'list.txt').write_bytes(lines if isinstance(lines, bytes) else lines.encode())


def listed(root, **options):
    """Image id -> (picture, names of its objects) of an XMLDataset."""
    data = DATASETS.build(dict(type='XMLDataset', data_root=str(root), ann_file='list.txt', pipeline=PLAIN, **options))
    infos = map(data.get_data_info, range(len(data)))
    assert all(data[i]['inputs'].shape == (3, 48, 64) for i in range(len(data)))
    names = data.metainfo['classes']
    return {info['img_id']: (os.path.relpath(info['img_path'], root), [names[i['bbox_label']] for i in info['instances']])
            for info in infos}


def one(name='cat'):
    return XML.format(OBJECT.format(name, 0, 1, 1, 11, 11))


def test_the_same_name_in_two_folders_is_two_images(tmp_path):
    voc_folder(tmp_path, {'s1/a': one('cat'), 's2/a': one('dog')}, 's1/a\ns2/a\n')
    assert listed(tmp_path) == {'s1/a': ('JPEGImages/s1/a.jpg', ['cat']), 's2/a': ('JPEGImages/s2/a.jpg', ['dog'])}
    content = read_annotations(tmp_path)
    assert [(i['id'], i['file_name']) for i in content['images']] == [(1, 's1/a.jpg'), (2, 's2/a.jpg')]
    assert [(a['image_id'], a['category_id']) for a in content['annotations']] == [(1, 1), (2, 2)]


def test_a_name_that_is_listed_twice_counts_once_and_is_told(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr('detkit.data.formats.voc.print_log', lambda text, *_: messages.append(text))
    voc_folder(tmp_path, {'a': one(), 'b': one()}, 'a\nb\na\n')
    assert list(listed(tmp_path)) == ['a', 'b']
    assert messages == [f"{tmp_path}/list.txt: 1 lines repeat a name and count once (first: 'a' in lines 1 and 3)."]


@pytest.mark.parametrize('lines', [
    'my img 1\nmy img 2\n', '\ufeffmy img 1\r\nmy img 2\r\n', 'my img 1 -1\nmy img 2  1\n', 'JPEGImages/my img 1.jpg\nmy img 2.jpg',
    'C:\\data\\JPEGImages\\my img 1.JPG\nAnnotations\\my img 2.xml', './my img 1\n._my img 1\n\nmy img 2',
    'my img 1\nmy img 2\n'.encode('utf-16')])
def test_lists_in_every_form_name_the_same_images(tmp_path, lines):
    voc_folder(tmp_path, {'my img 1': one(), 'my img 2': one('dog')}, lines)
    assert listed(tmp_path) == {'my img 1': ('JPEGImages/my img 1.jpg', ['cat']), 'my img 2': ('JPEGImages/my img 2.jpg', ['dog'])}


def test_the_list_of_one_class_has_a_column_of_flags(tmp_path):
    voc_folder(tmp_path, {'000012': one(), '000017': one()}, '000012 -1\n000017  1\n')
    assert list(listed(tmp_path)) == ['000012', '000017']


@pytest.mark.parametrize(('lines', 'message'), [
    ('a\n../a\n', r"list.txt: line 2 has '\.\./a', which is no name below"), ('/tmp/a\n', "line 1 has '/tmp/a'"),
    ('D:\\a\n', "line 1 has 'D:"), ('ä\n'.encode('latin-1'), 'list.txt: .*byte 0 is not UTF-8'),
    ('A\n', "A.xml: .*there is 'a.xml' in that folder"),
    ('my a\n', 'my a.xml: there is no such file')])
def test_a_line_that_names_nothing_is_told(tmp_path, lines, message):
    voc_folder(tmp_path, {'a': one()}, lines)
    with pytest.raises(BrokenAnnotations, match=message):
        listed(tmp_path)


@pytest.mark.parametrize('suffix', ['.JPG', '.Png', '.JPEG', '.bmp'])
def test_the_picture_may_have_any_suffix_in_any_case(tmp_path, suffix):
    voc_folder(tmp_path, {'s/a': one()}, 's/a\n')
    image = cv2.imencode(suffix, np.zeros((48, 64, 3), np.uint8))[1]
    (tmp_path / 'JPEGImages/s/a.jpg').unlink()
    (tmp_path / f'JPEGImages/s/a{suffix}').write_bytes(image.tobytes())
    assert listed(tmp_path) == {'s/a': (f'JPEGImages/s/a{suffix}', ['cat'])}


@pytest.mark.parametrize(('text', 'name'), [
    ('<?xml version="1.0" encoding="GB2312"?>' + one('猫'), '猫'), ('<?xml version="1.0" encoding="Shift_JIS"?>' + one('ネコ'), 'ネコ'),
    ('<?xml version="1.0" encoding="windows-1251"?>' + one('кот'), 'кот'), ('<?xml version="1.0" encoding="utf8"?>' + one('猫'), '猫')])
def test_xml_in_other_encodings(tmp_path, text, name):
    encoding = text.split('"')[3]
    voc_folder(tmp_path, {'a': text.encode(encoding)}, 'a\n')
    assert listed(tmp_path)['a'][1] == [name]


@pytest.mark.parametrize('text', [
    '\ufeff' + one(), '\n  ' + one(), '<?xml version="1.0" encoding="utf-16"?>' + one(), one().encode('utf-16'),
    one().replace('<annotation>', '<annotation xmlns="http://example.org/voc">'), one().replace('annotation>', 'Annotation>'),
    one().replace('<size><width>64</width><height>48</height></size>', ''), one().replace('64<', '64.0<'),
    one().replace('<size>', '<folder>x</folder><filename>C:\\Users\\me\\a.jpg</filename><size>'),
    one().replace('<size>', '<filename>/data/me/a.jpg</filename><size>')])
def test_xml_as_other_tools_write_it(tmp_path, text):
    voc_folder(tmp_path, {'a': text}, 'a\n')
    assert listed(tmp_path) == {'a': ('JPEGImages/a.jpg', ['cat'])}


@pytest.mark.parametrize(('on_disk', 'written'), [('NFD', 'NFC'), ('NFC', 'NFD')])
def test_xml_files_are_found_in_either_unicode_form_and_in_capital_letters(tmp_path, on_disk, written):
    voc_folder(tmp_path, {unicodedata.normalize(on_disk, 'ü'): one()}, unicodedata.normalize(written, 'ü\n'))
    (file,) = (tmp_path / 'Annotations').iterdir()
    assert [picture for picture, _ in listed(tmp_path).values()] == [unicodedata.normalize(on_disk, 'JPEGImages/ü.jpg')]
    voc_folder(tmp_path, {'a': one()}, 'a\n')
    (tmp_path / 'Annotations/a.xml').rename(tmp_path / 'Annotations/a.XML')
    assert list(listed(tmp_path)) == ['a'] and file.is_file()


@pytest.mark.parametrize(('text', 'message'), [
    (one('狗').encode('gbk'), 'a.xml: not valid XML .*UTF-8 if it names none'),
    ('<?xml version="1.0" encoding="martian"?>' + one(), 'a.xml: not valid XML .*martian'),
    (b'<?xml version="1.0" encoding="Shift_JIS"?>' + one('кот').encode('koi8-r') + b'\xff', 'a.xml: not valid XML'),
    ('<annotations><image id="0"/></annotations>', 'a.xml: its outermost element is <annotations>, not <annotation>')])
def test_xml_that_cannot_be_read_is_named(tmp_path, text, message):
    voc_folder(tmp_path, {'a': text}, 'a\n')
    with pytest.raises(BrokenAnnotations, match=message):
        listed(tmp_path)


def test_without_a_size_the_picture_is_needed(tmp_path):
    voc_folder(tmp_path, {'a': one().replace('<size><width>64</width><height>48</height></size>', '')}, 'a\n')
    (tmp_path / 'JPEGImages/a.jpg').unlink()
    with pytest.raises(BrokenAnnotations, match=r'a.xml: the size of .*JPEGImages/a.jpg is needed and cannot be read \(no such file'):
        listed(tmp_path)


@pytest.mark.parametrize('prefix', [{}, dict(img=''), dict(sub_data_root=''), dict(sub_data_root='', img='JPEGImages'), dict(img='other')])
def test_a_relative_root_is_joined_once(tmp_path, monkeypatch, prefix):
    voc_folder(tmp_path / 'set', {'a': one()}, 'a\n')
    shutil.copytree(tmp_path / 'set/JPEGImages', tmp_path / 'set/other')
    monkeypatch.chdir(tmp_path)
    options = dict(data_prefix=prefix) if prefix else {}
    folder = prefix.get('img') or 'JPEGImages'
    assert listed('set', **options) == {'a': (f'{folder}/a.jpg', ['cat'])}


def test_the_pictures_of_a_year_may_be_named_and_a_prefix_that_leads_nowhere_is_ignored_as_in_mmdetection(voc):
    for prefix in ('JPEGImages', 'VOC2007/JPEGImages', 'train2017/'):
        data = DATASETS.build(dict(type='VOCDataset', data_root=str(voc), ann_file='VOC2007/ImageSets/Main/trainval.txt',
                                   data_prefix=dict(sub_data_root='VOC2007/', img=prefix)))
        assert data.get_data_info(0)['img_path'] == str(voc / 'VOC2007/JPEGImages/1.jpg')


def test_two_years_join_as_in_mmdetections_config(voc):
    part = dict(type='VOCDataset', data_root=str(voc), ann_file='VOC2007/ImageSets/Main/trainval.txt', pipeline=PLAIN,
                data_prefix=dict(sub_data_root='VOC2007/'))
    (voc / 'VOC2012').symlink_to(voc / 'VOC2007')
    other = {**part, 'ann_file': 'VOC2012/ImageSets/Main/trainval.txt', 'data_prefix': dict(sub_data_root='VOC2012/')}
    data = DATASETS.build(dict(type='RepeatDataset', times=3, dataset=dict(type='ConcatDataset', ignore_keys=['dataset_type'],
                                                                           datasets=[part, other])))
    assert len(data) == 12 and data[9]['data_samples'].img_id == '2'


def test_faces_lie_in_the_folder_that_each_file_names(tmp_path):
    (tmp_path / 'w/Annotations').mkdir(parents=True)
    (tmp_path / 'w/Annotations/7.xml').write_text(XML.format('<folder>0--Parade</folder>' + OBJECT.format('face', 0, 1, 1, 11, 11)))
    (tmp_path / 'val.txt').write_text('7\n')
    data = DATASETS.build(dict(type='WIDERFaceDataset', data_root=str(tmp_path), ann_file='val.txt', data_prefix=dict(img='w')))
    assert data.get_data_info(0)['img_path'].endswith('w/0--Parade/7.jpg') and data.get_data_info(0)['instances'][0]['bbox_label'] == 0


def test_yolo_csv_and_crowd_human_sets_give_samples(voc):
    images = voc / 'VOC2007/JPEGImages'
    content = dict(images=[dict(id=1, file_name='1.jpg', width=64, height=48)], categories=[dict(id=1, name='b'), dict(id=2, name='a')],
                   annotations=[dict(id=1, image_id=1, category_id=2, bbox=[0, 0, 10, 10], area=100, iscrowd=0)])
    write_annotations({'val': content}, voc / 'yolo', 'yolo', images, 'copy')
    data = DATASETS.build(dict(type='YOLODataset', data_root=str(voc), ann_file='yolo/data.yaml', split='val', pipeline=PLAIN))
    assert data.metainfo['classes'] == ('b', 'a') and data[0]['data_samples'].gt_instances.labels.tolist() == [1]
    (voc / 't.csv').write_text('1.jpg,0,0,10,10,a\n')
    data = DATASETS.build(dict(type='CSVDataset', data_root=str(voc), ann_file='t.csv', data_prefix=dict(img='VOC2007/JPEGImages'),
                               pipeline=PLAIN))
    assert data.metainfo['classes'] == ('a',) and data[0]['data_samples'].gt_instances.bboxes.tolist() == [[0, 0, 10, 10]]
    (voc / 't.odgt').write_text(json.dumps(dict(ID='1', gtboxes=[dict(tag='person', fbox=[1, 2, 10, 12])])))
    data = DATASETS.build(dict(type='CrowdHumanDataset', data_root=str(voc), ann_file='t.odgt', pipeline=PLAIN,
                               data_prefix=dict(img='VOC2007/JPEGImages')))
    assert data[0]['data_samples'].gt_instances.bboxes.tolist() == [[1, 2, 11, 14]]
    with pytest.raises(ConfigError, match="split='tst'"):
        DATASETS.build(dict(type='YOLODataset', ann_file='data.yaml', split='tst'))


def test_what_a_data_set_reads_can_be_written_as_coco_and_read_again(tmp_path):
    """The doctor's --fix does so: names are relative to data_prefix['img'], which is where the pictures lie."""
    voc_folder(tmp_path / 'v', {'s1/a': one(), 's2/a': one()}, 's1/a\ns2/a\n')
    for place in ('images', 'labels'):
        (tmp_path / 'y/train' / place).mkdir(parents=True)
    shutil.copy(tmp_path / 'v/JPEGImages/s1/a.jpg', tmp_path / 'y/train/images/a.jpg')
    (tmp_path / 'y/train/labels/a.txt').write_text('0 .5 .5 .5 .5')
    (tmp_path / 'y/data.yaml').write_text('train: ../train/images\nnames: [yes]')
    for options in (dict(type='XMLDataset', data_root=str(tmp_path / 'v'), ann_file='list.txt'),
                    dict(type='YOLODataset', data_root=str(tmp_path / 'y'), ann_file='data.yaml')):
        data = DATASETS.build(dict(options, lazy_init=True))
        (tmp_path / 'a.json').write_text(json.dumps(data.read()))
        again = DATASETS.build(dict(type='CocoDataset', ann_file=str(tmp_path / 'a.json'), data_prefix=data.data_prefix, pipeline=PLAIN,
                                    metainfo=dict(classes=('cat',) if options['type'] == 'XMLDataset' else ('yes',))))
        assert all(again[i]['inputs'].shape == (3, 48, 64) for i in range(len(again)))


def test_lvis_and_objects365_find_their_files_and_take_the_classes_of_the_file(tmp_path):
    images = [dict(id=1, width=9, height=9, coco_url='http://images.cocodataset.org/val2017/000000000001.jpg'),
              dict(id=2, width=9, height=9, file_name='COCO_val2014_000000000002.jpg')]
    content = dict(images=images, annotations=[], categories=[dict(id=2, name='b'), dict(id=1, name='a')])
    (tmp_path / 'l.json').write_text(json.dumps(content))
    data = DATASETS.build(dict(type='LVISV1Dataset', data_root=str(tmp_path), ann_file='l.json', test_mode=True))
    assert [data.get_data_info(i)['img_path'][len(str(tmp_path)):] for i in range(2)] == ['/val2017/000000000001.jpg', '/000000000002.jpg']
    assert data.metainfo['classes'] == ('a', 'b')
    content['images'] = [dict(id=1, width=9, height=9, file_name='images/v2/patch7/o_1.jpg')]
    (tmp_path / 'o.json').write_text(json.dumps(content))
    data = DATASETS.build(dict(type='Objects365V2Dataset', data_root=str(tmp_path), ann_file='o.json', test_mode=True))
    assert data.get_data_info(0)['img_path'].endswith('/patch7/o_1.jpg')


def test_open_images_refuses_a_pickle(tmp_path):
    with pytest.raises(ConfigError, match='pickle'):
        DATASETS.build(dict(type='OpenImagesDataset', label_file='a.csv', meta_file='m.pkl', ann_file='b.csv', data_root=str(tmp_path)))
