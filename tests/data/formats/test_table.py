from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from detkit.data.formats.crowd_human import odgt_to_coco
from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.formats.table import csv_to_coco, open_images_to_coco


@pytest.fixture
def pictures(tmp_path):
    for name, size in (('a', (20, 40)), ('b', (30, 10))):
        cv2.imwrite(str(tmp_path / f'{name}.jpg'), np.zeros((*size, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize('text', [
    'a.jpg,1,2,11.5,8,cat\na.jpg,0,0,5,5,dog\nb.jpg,,,,,\n',
    'filename,xmin,ymin,xmax,ymax,label\na.jpg,1,2,11.5,8,cat\na.jpg,0,0,5,5,dog\nb.jpg\n',
    'Label;Path;x1;y1;x2;y2\ncat;a.jpg;1;2;11.5;8\ndog;a.jpg;0;0;5;5\n;b.jpg;;;;\n'])
def test_tables_with_and_without_header(pictures, text):
    (pictures / 't.csv').write_text(text)
    content = csv_to_coco(pictures / 't.csv', pictures)
    assert content['images'] == [dict(id=1, file_name='a.jpg', width=40, height=20), dict(id=2, file_name='b.jpg', width=10, height=30)]
    assert [(a['image_id'], a['category_id'], a['bbox']) for a in content['annotations']] == [(1, 1, [1, 2, 10.5, 6]), (1, 2, [0, 0, 5, 5])]
    assert [c['name'] for c in content['categories']] == ['cat', 'dog']


def test_stated_sizes_need_no_picture_and_the_order_of_classes_is_kept(tmp_path):
    (tmp_path / 't.csv').write_text('file,width,height,x1,y1,x2,y2,class\nnone.jpg,64,48,0,0,5,5,dog\n')
    content = csv_to_coco(tmp_path / 't.csv', tmp_path, ['pig', 'cat'])
    assert content['images'][0]['width'] == 64 and [c['name'] for c in content['categories']] == ['pig', 'cat', 'dog']


@pytest.mark.parametrize('text,message', [
    ('', 'empty'), ('a.jpg,5,2,1,8,cat', 'line 1 has the box'), ('a.jpg,x,2,1,8,cat', "line 1 has x1='x'"), ('a.jpg,nan,2,1,8,cat', 'x1='),
    ('a.jpg,1,2,3,4,', 'no class'), ('../a.jpg,1,2,3,4,cat', 'below the image folder'),
    ('/etc/passwd,1,2,3,4,cat', 'below the image folder'),
    ('c.jpg,1,2,3,4,cat', 'no such file'), ('file,x1,y1,x2,class\n', "no column 'y2'"), ('a.jpg,1,2,3,4,cat,dog,pig', 'quoted')])
def test_lines_that_cannot_be_used_are_named(pictures, text, message):
    (pictures / 't.csv').write_text(text)
    with pytest.raises(BrokenAnnotations, match=f't.csv: .*{message}'):
        csv_to_coco(pictures / 't.csv', pictures)


def test_open_images_shares_become_pixels_and_groups_crowds(pictures):
    (pictures / 'classes.csv').write_text('/m/1,Cat\n/m/2,Dog\n')
    head = 'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n'
    (pictures / 'boxes.csv').write_text(head + 'a,x,/m/2,1,0.25,0.5,0,0.5,0,0,1,0,0\na,x,/m/1,1,0,1,0,1,0,0,0,0,0\n')
    content = open_images_to_coco(pictures / 'boxes.csv', pictures / 'classes.csv', pictures)
    assert content['images'] == [dict(id='a', file_name='a.jpg', width=40, height=20)]
    found = [(a['category_id'], a['bbox'], a['iscrowd']) for a in content['annotations']]
    assert found == [(2, [10, 0, 10, 10], 1), (1, [0, 0, 40, 20], 0)]
    (pictures / 'sizes.csv').write_text('ImageID,Width,Height\na,400,200\n')
    sized = open_images_to_coco(pictures / 'boxes.csv', pictures / 'classes.csv', pictures, pictures / 'sizes.csv')
    assert sized['annotations'][0]['bbox'] == [100, 0, 100, 100]
    (pictures / 'boxes.csv').write_text(head + 'a,x,/m/9,1,0.25,0.5,0,0.5,0,0,1,0,0\n')
    with pytest.raises(BrokenAnnotations, match="boxes.csv: line 2 has the class '/m/9'"):
        open_images_to_coco(pictures / 'boxes.csv', pictures / 'classes.csv', pictures)


def test_crowd_human_ignores_what_is_marked(pictures):
    boxes = dict(fbox=[1, 2, 10, 12], vbox=[1, 2, 8, 12], hbox=[2, 2, 3, 3])
    people = [dict(tag='person', **boxes), dict(tag='mask', **boxes), dict(tag='person', extra=dict(ignore=1), **boxes)]
    rows = [dict(ID='a', gtboxes=people), dict(ID='b', gtboxes=[])]
    (pictures / 't.odgt').write_text('\n'.join(map(json.dumps, rows)))
    content = odgt_to_coco(pictures / 't.odgt', pictures)
    assert [a['iscrowd'] for a in content['annotations']] == [0, 1, 1] and content['annotations'][0]['vbox'] == [1, 2, 8, 12]
    assert [i['width'] for i in content['images']] == [40, 10]
    assert odgt_to_coco(pictures / 't.odgt', pictures, {'a': [7, 9], 'b': [7, 9]}, 'vbox')['annotations'][0]['bbox'] == [1, 2, 8, 12]
    (pictures / 't.odgt').write_text('{"ID": "a"}\n{"gtboxes": []}\n')
    with pytest.raises(BrokenAnnotations, match=r't.odgt: line 2 .*ID'):
        odgt_to_coco(pictures / 't.odgt', pictures)
