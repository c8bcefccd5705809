from __future__ import annotations

import json
import unicodedata

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


@pytest.mark.parametrize('text', [
    '\ufefffile,x1,y1,x2,y2,class\r\n"b, c.jpg",1,2,5,8,"cat, big"\r\n',
    'Image Path\tXMin\tYMin\tXMax\tYMax\tLabel\nb, c.jpg\t1\t2\t5\t8\tcat, big\n',
    '"a, b";x1;y1;x2;y2;class;filename\n0;1;2;5;8;cat, big;.\\b, c.jpg',
    '\n\nimage_id,filename,x1,y1,x2,y2,class\n7,"b, c.jpg",1,2,5,8,"cat, big"',
    'path,x-min,y-min,x-max,y-max,class name\n"b, c.jpg",1,2,5,8,"cat, big"\r'])
def test_tables_as_other_programs_write_them(pictures, text):
    (pictures / 'a.jpg').rename(pictures / 'b, c.jpg')
    for encoding in ('utf-8', 'utf-16'):                               # the second: "Unicode text" of Excel, and PowerShell
        (pictures / 't.csv').write_bytes(text.encode(encoding))
        content = csv_to_coco(pictures / 't.csv', pictures)
        assert [i['file_name'] for i in content['images']] == ['b, c.jpg'] and content['annotations'][0]['bbox'] == [1, 2, 4, 6]
        assert [c['name'] for c in content['categories']] == ['cat, big']


def test_pictures_of_a_table_are_found_with_backslashes_and_in_either_unicode_form(pictures):
    name, other = (unicodedata.normalize(form, 'ü.jpg') for form in ('NFD', 'NFC'))
    (pictures / 'train').mkdir()
    (pictures / 'a.jpg').rename(pictures / 'train' / name)
    (pictures / 't.csv').write_text(f'train\\{other},1,2,5,8,cat\n', encoding='utf-8')
    assert csv_to_coco(pictures / 't.csv', pictures)['images'] == [dict(id=1, file_name=f'train/{other}', width=40, height=20)]


def test_stated_sizes_need_no_picture_and_the_order_of_classes_is_kept(tmp_path):
    (tmp_path / 't.csv').write_text('file,width,height,x1,y1,x2,y2,class\nnone.jpg,64,48,0,0,5,5,dog\n')
    content = csv_to_coco(tmp_path / 't.csv', tmp_path, ['pig', 'cat'])
    assert content['images'][0]['width'] == 64 and [c['name'] for c in content['categories']] == ['pig', 'cat', 'dog']


@pytest.mark.parametrize('text,message', [
    ('', 'empty'), ('a.jpg,5,2,1,8,cat', 'line 1 has the box'), ('a.jpg,x,2,1,8,cat', "line 1 has x1='x'"), ('a.jpg,nan,2,1,8,cat', 'x1='),
    ('a.jpg,1,2,3,4,', 'no class'), ('../a.jpg,1,2,3,4,cat', 'below the image folder'),
    ('/etc/passwd,1,2,3,4,cat', 'below the image folder'),
    ('c.jpg,1,2,3,4,cat', 'no such file'), ('file,x1,y1,x2,class\n', "no column 'y2'"), ('a.jpg,1,2,3,4,cat,dog,pig', 'quoted'),
    ('a.jpg;1,5;2;3;4;cat', "line 1 has x1='1,5'. Write decimals with a point"),
    ('file,x1,y1,x2,y2,class\n"a.jpg,1,2,3,4,cat\n', 'line . cannot be read .unexpected end'),
    ('file,x1,y1,x2,y2,label,class_name\n', "line 1 has several columns for 'class': label, class_name"),
    ('file,x,y,width,height,class\n', "names no column 'x1'.*It has: file, x, y"), ('file:///a.jpg,1,2,3,4,cat', 'below the image folder')])
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


@pytest.mark.parametrize(('file', 'text', 'message'), [
    ('boxes.csv', 'ImageID,LabelName\na,/m/1\n', "boxes.csv: line 1 names no column 'XMin'. It has: ImageID, LabelName"),
    ('sizes.csv', 'ImageID,Width\na,4\n', "sizes.csv: line 1 names no column 'Height'"),
    ('sizes.csv', 'ImageID,Width,Height\na,4,x\n', "sizes.csv: line 2 has Height='x'"),
    ('classes.csv', '/m/1,K\xe4fer\n'.encode('latin-1'), 'classes.csv: line 1 cannot be read .*utf-8')])
def test_tables_of_open_images_that_cannot_be_read_are_named(pictures, file, text, message):
    files = {'classes.csv': '/m/1,Cat\n', 'sizes.csv': 'ImageID,Width,Height\na,400,200\n',
             'boxes.csv': 'ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,0,1,0,1\n', file: text}
    for name, content in files.items():
        (pictures / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BrokenAnnotations, match=message):
        open_images_to_coco(pictures / 'boxes.csv', pictures / 'classes.csv', pictures, pictures / 'sizes.csv')


def test_the_suffix_of_pictures_is_that_on_disk_where_the_format_names_none(pictures):
    (pictures / 'a.jpg').rename(pictures / 'a.JPG')
    row = json.dumps(dict(ID='a', gtboxes=[dict(tag='person', fbox=[1, 2, 10, 12])]))
    (pictures / 't.odgt').write_text('\ufeff' + row + '\r\n', encoding='utf-8')
    assert odgt_to_coco(pictures / 't.odgt', pictures)['images'][0]['file_name'] == 'a.JPG'
    (pictures / 't.odgt').write_text(f'{row}\n{row}\n')
    with pytest.raises(BrokenAnnotations, match="t.odgt: line 2 has the ID 'a' of line 1 again"):
        odgt_to_coco(pictures / 't.odgt', pictures)


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
