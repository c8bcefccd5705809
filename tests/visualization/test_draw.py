"""What draw_instances paints, by pixel where the pixel is certain (letters are not: fonts differ)."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from detkit.ops.masks import encode_masks
from detkit.structures.rle_masks import RLEMasks
from detkit.visualization import Picture, draw_instances, side_by_side
from detkit.visualization.colours import class_colours, readable_on
from detkit.visualization.draw import label_corner
from detkit.visualization.text import font_size, rendered, text_size

GREY = np.full((200, 300, 3), 90, np.uint8)


def objects(boxes, labels, **more) -> InstanceData:
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                        labels=torch.tensor(labels, dtype=torch.int64), **more)


def test_a_box_lies_on_its_own_pixels_and_nothing_else_changes():
    """Box 50,60 to 150,160 covers the pixels 50..149 and 60..159 and is drawn on the outermost of them."""
    drawn = draw_instances(GREY, objects([[50, 60, 150, 160]], [0]), ['a'], palette=[(255, 0, 0)], line_width=1)
    for y, x in ((159, 100), (110, 50), (110, 149), (159, 149)):
        assert drawn[y, x].tolist() == [255, 0, 0]
    for y, x in ((160, 100), (110, 49), (110, 150), (110, 51), (110, 148), (10, 290)):
        assert drawn[y, x].tolist() == [90, 90, 90]
    assert GREY.min() == GREY.max() == 90


def test_masks_are_tinted_by_alpha_and_outlined():
    masks = torch.zeros(1, 200, 300, dtype=torch.bool)
    masks[0, 20:60, 20:60] = True
    drawn = draw_instances(GREY, objects([[200, 150, 210, 160]], [0], masks=masks), palette=[(250, 10, 90)], alpha=0.25)
    assert drawn[40, 40].tolist() == [130, 70, 90]      # 90 + 0.25 * (colour - 90)
    assert drawn[20, 40].tolist() == [250, 10, 90]
    assert drawn[18, 40].tolist() == drawn[62, 40].tolist() == [90, 90, 90]


def test_objects_below_the_threshold_are_not_drawn():
    found = objects([[10, 40, 60, 90], [100, 40, 150, 90]], [0, 0], scores=torch.tensor([0.29, 0.3]))
    drawn = draw_instances(GREY, found, ['a'], score_thr=0.3)
    assert (drawn[:, :80] == 90).all()
    assert (drawn[:, 90:] != 90).any()


def test_the_best_box_lies_on_top():
    found = objects([[10, 40, 60, 90], [10, 40, 60, 90]], [0, 1], scores=torch.tensor([0.9, 0.5]))
    drawn = draw_instances(GREY, found, ['a', 'b'], palette=[(255, 0, 0), (0, 0, 255)])
    assert drawn[89, 30].tolist() == [255, 0, 0]


@pytest.mark.parametrize('instances', [{}, objects([], []),
                                       objects([], [], scores=torch.zeros(0), masks=torch.zeros(0, 200, 300))])
def test_no_objects_change_nothing(instances):
    assert (draw_instances(GREY, instances, ['a']) == GREY).all()


def test_boxes_beyond_the_image_and_labels_beyond_the_names_are_drawn():
    drawn = draw_instances(GREY, objects([[-50, -50, 400, 100], [290, 190, 310, 230]], [0, 7]), ['a'])
    assert drawn.shape == GREY.shape and (drawn != GREY).any()


@pytest.mark.parametrize('shape', [(1, 1, 3), (10, 8000, 3), (8000, 10, 3), (32, 32), (40, 40, 1)])
def test_any_size_of_image_can_be_drawn_on(shape):
    image = np.zeros(shape, np.uint8)
    drawn = draw_instances(image, objects([[0, 0, shape[1], shape[0]]], [0]), ['a long name of a class'])
    assert drawn.shape == (*shape[:2], 3) and drawn.any()


def test_masks_without_boxes_get_theirs():
    masks = torch.zeros(1, 200, 300, dtype=torch.bool)
    masks[0, 50:60, 70:90] = True
    drawn = draw_instances(GREY, InstanceData(masks=masks, labels=torch.tensor([0])), line_width=1, palette=[(1, 2, 3)])
    assert drawn[59, 89].tolist() == [1, 2, 3]


def test_zoom_enlarges_picture_boxes_and_masks():
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 5:10, 5:10] = True
    small = {'bboxes': np.array([[5., 5., 10., 10.]]), 'labels': np.array([0]), 'masks': masks}
    drawn = draw_instances(np.full((20, 20, 3), 90, np.uint8), small, palette=[(255, 0, 0)], zoom=8, alpha=1,
                           line_width=1)
    assert drawn.shape == (160, 160, 3)
    assert drawn[79, 79].tolist() == [255, 0, 0] and drawn[81, 81].tolist() == [90, 90, 90]


def test_something_that_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r'float64 \(4, 4, 3\)'):
        draw_instances(np.zeros((4, 4, 3)), {})


def test_names_stay_legible_and_inside():
    assert font_size(20, 20) == 11 and font_size(4000, 3000) == 64
    assert 11 <= text_size('person 0.93', 11)[0] <= 16
    ink = rendered('person', 11, None)
    assert ink.max() > 0.9 and 0.1 < (ink > 0.5).mean() < 0.6
    assert (rendered('собака', 20, None) != rendered('кошка', 20, None)[:, :1]).any()   # not only ASCII
    assert label_corner((50, 60, 0, 0), (14, 40), (200, 300)) == (50, 46)
    assert label_corner((290, 5, 0, 0), (14, 40), (200, 300)) == (260, 5)
    assert label_corner((-9, -9, 0, 0), (14, 400), (200, 300)) == (0, 0)


def test_classes_have_colours_far_apart_and_the_same_in_every_run():
    colours = class_colours(None, 80)
    assert len(set(colours)) == 80
    assert class_colours('random', 3) == colours[:3]
    first = np.array(colours[:8], float)
    apart = np.linalg.norm(first[:, None] - first[None], axis=-1)
    assert apart[~np.eye(8, dtype=bool)].min() > 60


def test_palettes():
    assert class_colours('red', 2) == [(255, 0, 0)] * 2
    assert class_colours((1, 2, 3), 2) == [(1, 2, 3)] * 2
    assert class_colours([(1, 2, 3), (4, 5, 6), (7, 8, 9)], 2) == [(1, 2, 3), (4, 5, 6)]
    with pytest.raises(ValueError, match='2 colours for 3 classes'):
        class_colours([(1, 2, 3), (4, 5, 6)], 3)
    with pytest.raises(ValueError, match="no palette or colour 'blurple'"):
        class_colours('blurple', 3)
    assert readable_on((255, 255, 0)) == (0, 0, 0) and readable_on((0, 0, 128)) == (255, 255, 255)


def test_side_by_side_has_the_height_of_the_first_and_a_title_bar():
    left, right = np.full((100, 60, 3), 10, np.uint8), np.full((50, 80, 3), 20, np.uint8)
    both = side_by_side(left, right)
    bar = both.shape[0] - 100
    assert both.shape[1] == 60 + 8 + 160 and bar > 10
    assert (both[bar:, :60] == 10).all() and (both[bar:, 68:] == 20).all()
    with pytest.raises(ValueError, match='3 images and 2 titles'):
        side_by_side(left, right, left)


def test_a_picture_shows_itself_and_saves_whole(tmp_path):
    picture = Picture(np.full((4, 5, 3), (250, 10, 20), np.uint8))
    shown = cv2.imdecode(np.frombuffer(picture._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (4, 5, 3) and shown[0, 0].tolist() == [20, 10, 250]   # OpenCV reads BGR
    assert picture[0]._repr_png_() is None
    picture.save(tmp_path / 'new' / 'a.png')
    assert cv2.imread(str(tmp_path / 'new' / 'a.png'))[0, 0].tolist() == [20, 10, 250]
    with pytest.raises(ValueError, match="ending '.txt'"):
        picture.save(tmp_path / 'a.txt')
    assert [p.name for p in tmp_path.rglob('*') if p.is_file()] == ['a.png']


@pytest.mark.parametrize('zoom', [1, 4])
def test_coded_masks_are_drawn_as_the_masks_they_stand_for(zoom):
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 5:10, 5:10] = masks[1, 2:4, 3:18] = masks[2, 12:18, 1:6] = True
    found = {'bboxes': np.array([[5., 5., 10., 10.], [3., 2., 18., 4.], [1., 12., 6., 18.]]), 'labels': np.array([0, 1, 0]),
             'scores': np.array([0.9, 0.2, 0.5])}
    image = np.full((20, 20, 3), 128, np.uint8)
    coded = RLEMasks(encode_masks(masks), 20, 20)
    drawn = [np.asarray(draw_instances(image, {**found, 'masks': m}, score_thr=0.3, zoom=zoom)) for m in (masks, coded)]
    np.testing.assert_array_equal(*drawn)
    without = {key: found[key] for key in ('labels', 'scores')}
    np.testing.assert_array_equal(*[np.asarray(draw_instances(image, {**without, 'masks': m}, zoom=zoom)) for m in (masks, coded)])
