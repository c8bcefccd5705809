from __future__ import annotations

import pytest

from detkit.data.convert import read_voc, sound_objects, voc_to_coco


def test_boxes_of_no_size_and_shifted_copies_are_dropped():
    a, copy, flat = ('RBC', [10, 10, 50, 60]), ('RBC', [12, 12, 52, 62]), ('RBC', [5, 5, 5, 9])
    other = ('WBC', [12, 12, 52, 62])
    assert sound_objects([copy, a, flat, other]) == [a, other]


def test_a_voc_file_becomes_coco(tmp_path):
    file = tmp_path / 'p7.xml'
    file.write_text('<annotation><filename>p7.jpg</filename><size><width>64</width><height>48</height></size>'
                    '<object><name>b</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox></object></annotation>')
    content = voc_to_coco([file], ('a', 'b'), {'p7': 5})
    assert content['images'] == [dict(id=5, file_name='p7.jpg', width=64, height=48)]
    assert content['annotations'] == [dict(id=1, image_id=5, category_id=2, bbox=[1, 2, 10, 20], area=200, iscrowd=0, segmentation=[])]


@pytest.mark.parametrize(('name', 'message'), [
    ('malformed', 'not valid XML'), ('empty_file', 'not valid XML'), ('no_size', 'missing or not a number'), ('no_bndbox', 'missing'),
    ('no_name', 'missing'), ('box_not_a_number', 'missing or not a number'), ('zero_size', 'given as 0x0'), ('box_swapped', 'Swap them'),
    ('box_outside', 'leaves its image of 451x300'), ('entity_bomb', 'not valid XML'), ('entity_external', 'not valid XML')])
def test_broken_voc_files_are_named(shared, name, message):
    with pytest.raises(ValueError, match=rf'{name}\.xml: .*{message}'):
        read_voc(shared / 'data/bad/annotations_voc' / f'{name}.xml')


def test_unusual_voc_files_are_read(shared):
    folder = shared / 'data/bad/annotations_voc'
    assert read_voc(folder / 'no_objects.xml')[3] == []
    assert read_voc(folder / 'part_boxes.xml')[3] == read_voc(folder / 'box_float.xml')[3] == [('cat', [100, 20, 340, 250])]


def test_a_class_that_is_not_wanted_is_named(shared):
    with pytest.raises(ValueError, match=r"control_ok.xml: the class '.*' is not one of a, b"):
        voc_to_coco([shared / 'data/bad/annotations_voc/control_ok.xml'], ('a', 'b'), {'control_ok': 1})
