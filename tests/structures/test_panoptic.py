from __future__ import annotations

import cv2
import numpy as np
import pytest

from detkit.structures.panoptic import colours_of, read_segment_ids, segment_indices


def test_an_id_is_red_and_256_green_and_65536_blue(tmp_path):
    picture = np.zeros((1, 3, 3), np.uint8)
    picture[0, 0] = 3, 2, 1         # BGR
    picture[0, 1] = 255, 255, 255
    cv2.imwrite(str(tmp_path / 'a.png'), picture)
    ids = read_segment_ids(tmp_path / 'a.png')
    assert ids.tolist() == [[1 + 256 * 2 + 65536 * 3, 256**3 - 1, 0]]
    assert np.array_equal(colours_of(ids), picture)


def test_pixels_become_places_in_the_list_and_void_is_0():
    ids = np.array([[7, 7, 0], [900, 7, 3]])
    assert segment_indices(ids, [900, 3, 7], (2, 3)).tolist() == [[3, 3, 0], [1, 3, 2]]
    assert segment_indices(np.zeros((1, 2), int), [], (1, 2)).tolist() == [[0, 0]]


@pytest.mark.parametrize('listed, size, words', [
    ([7], (2, 3), 'shows the segments 3, 900, which'),
    ([3, 7, 900, 8, 99999999], (2, 3), 'no pixel of it belongs to the segments 8, 99999999'),
    ([3, 7, 900], (3, 2), r"its size is \(2, 3\) \(height, width\), its image's is \(3, 2\)")])
def test_a_map_that_contradicts_its_list_names_the_ids(listed, size, words):
    with pytest.raises(ValueError, match=words):
        segment_indices(np.array([[7, 7, 0], [900, 7, 3]]), listed, size)


def test_a_missing_or_broken_picture_says_which_it_is(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'no picture')
    (tmp_path / 'empty.png').touch()
    for name, words in (('a.png', 'cannot? decode|can decode'), ('empty.png', 'can decode'), ('b.png', 'no such file')):
        with pytest.raises(ValueError, match=words):
            read_segment_ids(tmp_path / name)
