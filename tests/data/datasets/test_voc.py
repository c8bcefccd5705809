from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from detkit.data.exchange import write_annotations
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


def test_a_list_or_a_file_that_is_not_there_is_named(voc):
    (voc / 'VOC2007/ImageSets/Main/trainval.txt').write_text('1\n7\n')
    with pytest.raises(BrokenAnnotations, match='7.xml: there is no such file'):
        dataset(voc)
    (voc / 'VOC2007/ImageSets/Main/trainval.txt').unlink()
    with pytest.raises(BrokenAnnotations, match='trainval.txt: cannot be read as a list of names'):
        dataset(voc)


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
