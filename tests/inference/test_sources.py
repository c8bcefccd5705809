"""What an INPUT stands for."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

from detkit.inference.sources import count_frames, frames, list_sources, video_rate

IMAGE = np.zeros((8, 10, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'sub/a.jpg', 'sub/b.jpg', '.hidden/c.jpg', 'out/vis/b.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), IMAGE)
    (tmp_path / 'notes.txt').write_text('not an image')
    return tmp_path


def video(path, count=5, rate=12.):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate, (32, 24))
    for i in range(count):
        writer.write(np.full((24, 32, 3), 40 * i, np.uint8))
    writer.release()
    return path


def names(inputs, **options) -> list[str]:
    return [source.name for source in list_sources(inputs, **options)]


def test_a_folder_is_searched_to_the_bottom_and_keeps_its_structure(folder):
    assert names(folder, exclude=folder / 'out') == ['a.PNG', 'b.jpg', 'sub/a.jpg', 'sub/b.jpg']
    assert 'out/vis/b.jpg' in names(str(folder))


def test_globs_and_lists_keep_names_apart(folder):
    assert names(str(folder / '*.jpg')) == ['b.jpg']
    assert names(str(folder / '**' / 'b.jpg')) == ['b.jpg', 'out/vis/b.jpg', 'sub/b.jpg']
    assert names([folder / 'b.jpg', str(folder / 'sub' / 'a.jpg')]) == ['b.jpg', 'a.jpg']


def test_arrays_are_numbered(folder):
    sources = list_sources([IMAGE, folder / 'b.jpg', IMAGE])
    assert [s.name for s in sources] == ['00000000.jpg', 'b.jpg', '00000002.jpg']
    assert sources[0].image is IMAGE and list_sources(IMAGE)[0].image is IMAGE


def test_a_file_with_a_bracket_in_its_name_is_a_file(folder):
    (folder / 'b.jpg').rename(folder / 'b [1].jpg')
    assert names(str(folder / 'b [1].jpg')) == ['b [1].jpg']


def test_a_video_is_its_frames(tmp_path):
    source, = list_sources(video(tmp_path / 'clip.avi'))
    seen = list(frames(source))
    assert [f.index for f in seen] == [0, 1, 2, 3, 4] and count_frames([source]) == 5
    assert abs(int(seen[3].image.mean()) - 120) < 4 and seen[0].image.shape == (24, 32, 3)
    assert video_rate(source) == pytest.approx(12)


@pytest.mark.parametrize(('inputs', 'words'), [
    ('nowhere.jpg', "no file or folder 'nowhere.jpg'"),
    ('nowhere/*.jpg', "no file matches 'nowhere/\\*.jpg'"),
    ('https://example.org/a.jpg', 'is a URL; download it'),
    (IMAGE.astype(float), 'uint8, BGR, of shape .* float64'),
    (IMAGE[..., 0], r'\(8, 10\)'),
    (7, 'not int'),
])
def test_what_is_not_there_or_no_input_is_refused(inputs, words):
    with pytest.raises(ValueError, match=words):
        list_sources(inputs)


def test_an_empty_folder_and_a_broken_video_are_named(tmp_path):
    with pytest.raises(ValueError, match='has no image or video in it'):
        list_sources(tmp_path)
    (tmp_path / 'x.mp4').write_bytes(b'not a video')
    source, = list_sources(tmp_path)
    with pytest.raises(ValueError, match='cannot open the video .*x.mp4'):
        list(frames(source))
