from __future__ import annotations

import pytest

from detkit.data.formats.faults import UnreadablePicture
from detkit.data.formats.pictures import picture_size
from detkit.data.transforms.loading import read_image


@pytest.mark.parametrize('name', ['ok.jpg', 'grey16.png', 'rgba.png', 'palette.png', 'bilevel.png', 'cmyk.jpg', 'exif_orientation3.jpg',
                                  'exif_orientation5.jpg', 'exif_orientation6.jpg', 'png_named.jpg', 'jpeg_named.png', 'one_pixel.jpg',
                                  'tall_10x8000.jpg', 'name with spaces (1) é.jpg'])
def test_the_header_says_the_size_of_the_picture_as_it_is_read(shared, name):
    path = shared / 'data/bad/images' / name
    assert picture_size(path) == read_image(str(path)).shape[1::-1]


def test_as_stored_and_how_large_it_may_be(shared):
    folder = shared / 'data/bad/images'
    assert picture_size(folder / 'exif_orientation6.jpg', upright=False) == (150, 226)
    assert picture_size(folder / 'huge_20000x20000.png') == (20000, 20000)


@pytest.mark.parametrize('name,reason', [('zero_byte.jpg', 'no picture'), ('text_named.jpg', 'no picture'), ('none.jpg', 'no such file')])
def test_what_is_no_picture_is_said(shared, name, reason):
    with pytest.raises(UnreadablePicture, match=reason):
        picture_size(shared / 'data/bad/images' / name)
