"""What an INPUT stands for."""
from __future__ import annotations

import os
import unicodedata

import cv2
import numpy as np
import pytest

from detkit.inference.sources import Source, count_frames, frames, list_sources, video_rate

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
        writer.write(np.full((24, 32, 3), 40 * i % 256, np.uint8))
    writer.release()
    return path


def names(inputs, **options) -> list[str]:
    return [source.name for source in list_sources(inputs, **options)]


def test_a_folder_is_searched_to_the_bottom_and_keeps_its_structure(folder):
    assert names(folder, exclude=folder / 'out') == ['a.PNG', 'b.jpg', 'sub/a.jpg', 'sub/b.jpg']
    assert 'out/vis/b.jpg' in names(str(folder))


def test_results_that_lie_in_the_input_itself_are_left_out(folder):
    cv2.imwrite(str(folder / 'out' / 'c.jpg'), IMAGE)
    assert names(folder / 'out', exclude=folder / 'out') == ['c.jpg']
    assert names(str(folder / '**' / '*.jpg'), exclude=folder / 'out') == ['b.jpg', 'out/c.jpg', 'sub/a.jpg', 'sub/b.jpg']
    assert names(str(folder / 'out' / 'vis' / '*.jpg'), exclude=folder / 'out') == ['b.jpg']      # asked for by name
    assert names(folder / 'sub', exclude=folder) == ['a.jpg', 'b.jpg']


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


@pytest.mark.parametrize('inputs', [
    lambda f: f / 'b.jpg', lambda f: (f / name for name in ['b.jpg']), lambda f: {f / 'b.jpg'}, lambda f: np.array([str(f / 'b.jpg')]),
    lambda f: [[str(f / 'b.jpg')]], lambda f: str(f).replace('/', '\\') + '\\b.jpg', lambda f: str(f / '*.jpg'),
    lambda f: str(f / 'b.*'), lambda f: f'{f}/x/../b.jpg', lambda f: '~/b.jpg', lambda f: '~/b.j*'])
def test_all_ways_to_give_a_file_mean_that_file(folder, inputs, monkeypatch):
    monkeypatch.setenv('HOME', str(folder))
    (folder / 'x').mkdir()
    source, = list_sources(inputs(folder))
    assert source.path.samefile(folder / 'b.jpg') and source.name == 'b.jpg'


def test_hidden_files_and_what_macos_leaves_are_left_out_and_links_followed(tmp_path):
    store = tmp_path / 'store'
    for name in ('in/a.jpg', 'in/._a.jpg', 'in/.b.jpg', 'in/__MACOSX/c.jpg', 'in/sub/d.jpg', 'store/e.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), IMAGE)
    (tmp_path / 'in' / 'link').symlink_to(store)
    (tmp_path / 'in' / 'sub' / 'up').symlink_to(tmp_path / 'in')             # a link to a folder above: no endless search
    (tmp_path / 'whole').symlink_to(tmp_path / 'in')
    expected = ['a.jpg', 'link/e.jpg', 'sub/d.jpg']
    assert names(tmp_path / 'in') == names(tmp_path / 'whole') == names([tmp_path / 'whole']) == expected
    (tmp_path / 'dangling.jpg').symlink_to(tmp_path / 'gone.jpg')
    with pytest.raises(ValueError, match='is a link to a file that does not exist'):
        list_sources(tmp_path / 'dangling.jpg')


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch, caplog):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith('sub'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    assert names(folder, exclude=folder / 'out') == ['a.PNG', 'b.jpg']
    assert "sub' cannot be read (Permission denied); what is in it is left out" in caplog.text


def test_an_image_in_a_list_that_is_none_is_counted():
    with pytest.raises(ValueError, match=r'has nan to nan.* \(input 2 of 3\)'):
        list_sources([IMAGE, np.full((8, 10, 3), np.nan), IMAGE])


@pytest.mark.parametrize(('stored', 'given'), [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_names_are_found_in_either_unicode_form(tmp_path, stored, given):
    path = tmp_path / unicodedata.normalize(stored, 'fotos müll') / unicodedata.normalize(stored, 'größe.jpg')
    path.parent.mkdir()
    cv2.imwrite(str(path), IMAGE)
    text = unicodedata.normalize(given, str(path))
    assert list_sources(text)[0].path == path and list_sources(text.replace('.jpg', '.*'))[0].path == path
    assert list_sources(unicodedata.normalize(given, str(path.parent)))[0].path == path


def test_brackets_folders_and_other_files_in_globs(folder):
    (folder / 'day [1]').mkdir()
    cv2.imwrite(str(folder / 'day [1]' / 'x.jpg'), IMAGE)
    assert names(str(folder / 'day [1]' / '*.jpg')) == ['x.jpg'] and names(str(folder / 'day [1]' / 'x.*')) == ['x.jpg']
    assert names(str(folder / 'day*')) == ['x.jpg']                           # a folder that matches is searched
    assert names(str(folder / '*')) == ['a.PNG', 'b.jpg', 'day [1]/x.jpg', 'out/vis/b.jpg', 'sub/a.jpg', 'sub/b.jpg']
    assert names(str(folder / '*'), exclude=folder / 'out') == ['a.PNG', 'b.jpg', 'day [1]/x.jpg', 'sub/a.jpg', 'sub/b.jpg']
    assert names(str(folder / '*.txt')) == ['notes.txt']                      # asked for by its ending: the loader refuses it
    (folder / 'empty').mkdir()
    with pytest.raises(ValueError, match='1 folders without an image or video'):
        list_sources(str(folder / 'empt*'))
    with pytest.raises(ValueError, match="Did you mean '.*sub/a.jpg'"):
        list_sources(folder / 'sub' / 'a.jpeg')


def test_open_files_and_batches_are_images(folder, tmp_path):
    with open(folder / 'b.jpg', 'rb') as file:
        sources = list_sources([file, np.stack([IMAGE, IMAGE])])
    assert [s.name for s in sources] == ['00000000.jpg', '00000001.jpg', '00000002.jpg']
    assert sources[0].image == (folder / 'b.jpg').read_bytes()
    with open(folder / 'notes.txt') as text, pytest.raises(ValueError, match=r"gives text; open the image with open\(path, 'rb'\)"):
        list_sources(text)


def test_dicom_slices_are_found_by_ending_or_content(tmp_path):
    for name, content in (('a.dcm', b''), ('IM000001', bytes(128) + b'DICM'), ('1.2.840', bytes(128) + b'DICM'), ('README', b'text')):
        (tmp_path / name).write_bytes(content)
    assert names(tmp_path) == ['1.2.840', 'IM000001', 'a.dcm']


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
    ('', 'empty string'),
    (IMAGE[0, 0], r'an array of shape \(3,\) is no image'),
    (np.zeros((3, 80, 100), np.uint8), 'channels come first: image.transpose'),
    (np.full((8, 10, 3), np.nan), 'has nan to nan'),
    (7, 'not int'),
    (None, 'not NoneType'),
    ([['a.jpg', 7]], "no file or folder 'a.jpg'. .input 1 of 2."),
    ({'img': IMAGE}, 'and not a dict'),
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
    with pytest.raises(ValueError, match='there is no video .*gone.mp4'):
        list(frames(Source('gone.mp4', tmp_path / 'gone.mp4')))


def test_a_video_that_is_cut_short_says_so(tmp_path, caplog):
    whole = video(tmp_path / 'whole.avi', count=200).read_bytes()
    (tmp_path / 'cut.avi').write_bytes(whole[:len(whole) // 2])
    source, = list_sources(tmp_path / 'cut.avi')
    seen = len(list(frames(source)))
    assert 0 < seen < 150 and f'should have 200 frames, and {seen} could be decoded' in caplog.text


def test_a_link_to_a_file_that_is_gone_is_not_left_out(folder):
    (folder / 'c.jpg').symlink_to(folder / 'gone.jpg')
    assert 'c.jpg' in names(folder)


def test_the_further_pages_of_a_tiff_are_told(tmp_path, caplog):
    cv2.imwritemulti(str(tmp_path / 'pages.tif'), [IMAGE, IMAGE, IMAGE])
    cv2.imwrite(str(tmp_path / 'one.tif'), IMAGE)
    with caplog.at_level('WARNING', logger='detkit'):
        assert [len(list(frames(source))) for source in list_sources(tmp_path)] == [1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        f"'{tmp_path / 'pages.tif'}' has 3 pages; the first is taken. Save the others as files of their own."]


def test_an_input_is_looked_for_where_data_sets_are(tmp_path, monkeypatch):
    (tmp_path / 'bccd').mkdir()
    cv2.imwrite(str(tmp_path / 'bccd/a.png'), IMAGE)
    monkeypatch.setenv('DETKIT_DATA_ROOT', str(tmp_path))
    assert [s.path for s in list_sources('data/bccd')] == [tmp_path / 'bccd/a.png']
