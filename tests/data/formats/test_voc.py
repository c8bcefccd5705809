from __future__ import annotations

import pytest

from detkit.data.formats.voc import read_voc, voc_to_coco, voc_xml, without_copies


def test_boxes_of_no_size_and_shifted_copies_are_dropped():
    a, copy, flat, other = (dict(name=name, box=box) for name, box in (('RBC', [10, 10, 50, 60]), ('RBC', [12, 12, 52, 62]),
                                                                       ('RBC', [5, 5, 5, 9]), ('WBC', [12, 12, 52, 62])))
    assert without_copies([copy, a, flat, other]) == [a, other]


def test_a_voc_file_becomes_coco(tmp_path):
    file = tmp_path / 'p7.xml'
    file.write_text('<annotation><filename>p7.jpg</filename><size><width>64</width><height>48</height></size>'
                    '<object><name>b</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox></object></annotation>')
    content = voc_to_coco([file], ('a', 'b'), [5])
    assert content['images'] == [dict(id=5, file_name='p7.jpg', width=64, height=48)]
    assert content['annotations'] == [dict(id=1, image_id=5, category_id=2, bbox=[0, 1, 10, 20], area=200, iscrowd=0, segmentation=[])]
    assert voc_to_coco([file], offset=0)['annotations'][0]['bbox'] == [1, 2, 10, 20]
    assert voc_to_coco([file])['categories'] == [dict(id=1, name='b')]


@pytest.mark.parametrize(('name', 'message'), [
    ('malformed', 'not valid XML'), ('empty_file', 'not valid XML'), ('no_size', 'missing or not a number'),
    ('no_bndbox', r'object 1 \(cat\) has no bndbox'), ('no_name', 'object 1 has no name'),
    ('box_not_a_number', "has a bndbox of xmin='"), ('zero_size', 'given as 0x0'), ('box_swapped', 'Swap them'),
    ('box_outside', 'leaves its image of 451x300'), ('path_traversal', 'no name of a picture'),
    ('entity_bomb', 'not valid XML'), ('entity_external', 'not valid XML')])
def test_broken_voc_files_are_named(shared, name, message):
    with pytest.raises(ValueError, match=rf'{name}\.xml: .*{message}'):
        read_voc(shared / 'data/bad/annotations_voc' / f'{name}.xml')


OBJECT = '<object><name>{}</name>{}<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox>{}</object>'


@pytest.mark.parametrize(('entry', 'message'), [
    (OBJECT.format(' ', '', ''), 'object 2 has no name'),
    (OBJECT.format('b', '', '<bndbox><xmin>1</xmin></bndbox>'), r'object 2 \(b\) has 2 bndboxes. Give each object one'),
    (OBJECT.format('b', '', '').replace('>11<', '>1,5<'), "object 2 .* xmax='1,5', .*decimals with a point")])
def test_the_object_at_fault_is_named(tmp_path, entry, message):
    file = tmp_path / 'a.xml'
    file.write_text(f"<annotation><size><width>64</width><height>48</height></size>{OBJECT.format('a', '', '')}{entry}</annotation>")
    with pytest.raises(ValueError, match=message):
        read_voc(file)


def test_a_flag_may_be_a_word(tmp_path):
    file = tmp_path / 'a.xml'
    entries = ''.join(OBJECT.format('a', f'<difficult>{word}</difficult>', '') for word in ('True', '1', '0', 'false', ''))
    file.write_text(f'<annotation><size><width>64</width><height>48</height></size>{entries}</annotation>')
    assert [o.get('difficult', 0) for o in read_voc(file)['objects']] == [1, 1, 0, 0, 0]


def test_unusual_voc_files_are_read(shared):
    folder = shared / 'data/bad/annotations_voc'
    assert read_voc(folder / 'no_objects.xml')['objects'] == []
    assert read_voc(folder / 'part_boxes.xml')['objects'] == [dict(name='cat', box=[100, 20, 340, 250])]
    decimals = voc_to_coco([folder / 'box_float.xml'], truncate=True)['annotations'][0]['bbox']
    assert decimals == [99, 19, 240, 230]


def test_what_is_written_is_read_again_with_its_decimals_and_flags(tmp_path):
    image, a = dict(id=3, file_name='sub/p.jpg', width=64, height=48), dict(bbox=[0, 1.25, 10.5, 46.75], difficult=1)
    (tmp_path / 'p.xml').write_text(voc_xml(image, [('a & b', a), ('c', dict(bbox=[5, 5, 59, 9]))]))
    content = voc_to_coco([tmp_path / 'p.xml'])
    assert [x['bbox'] for x in content['annotations']] == [[0, 1.25, 10.5, 46.75], [5, 5, 59, 9]]
    assert content['annotations'][0]['difficult'] == 1 and 'difficult' not in content['annotations'][1]
    assert [c['name'] for c in content['categories']] == ['a & b', 'c']


def test_a_class_that_is_not_wanted_is_named(shared):
    with pytest.raises(ValueError, match=r"control_ok.xml: the class '.*' is not one of a, b"):
        voc_to_coco([shared / 'data/bad/annotations_voc/control_ok.xml'], ('a', 'b'))
