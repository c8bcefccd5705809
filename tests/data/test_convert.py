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
    content = voc_to_coco([file], ('a', 'b'), {'p7': 5}, first_id=9)
    assert content['images'] == [dict(id=5, file_name='p7.jpg', width=64, height=48)]
    assert content['annotations'] == [dict(id=9, image_id=5, category_id=2, bbox=[1, 2, 10, 20], area=200, iscrowd=0, segmentation=[])]


def test_broken_voc_files_are_named(shared):
    folder = shared / 'data/bad/annotations_voc'
    for name in ('malformed', 'empty_file', 'no_size', 'no_bndbox'):
        with pytest.raises(ValueError, match=f'{name}.xml'):
            read_voc(folder / f'{name}.xml')


def test_a_class_that_is_not_wanted_is_named(shared):
    with pytest.raises(ValueError, match=r"control_ok.xml: the class '.*' is not one of a, b"):
        voc_to_coco([shared / 'data/bad/annotations_voc/control_ok.xml'], ('a', 'b'), {'control_ok': 1})
