"""No result of a run has the name of another one."""
from __future__ import annotations

import os
import unicodedata

import pytest

from detkit.result_names import folded, relative_names, result_names


def pictures(*names: str) -> list[str]:
    return [name.picture for name in result_names(names)]


def predictions(*names: str) -> list[str]:
    return [name.prediction(0 if name.is_video else None) for name in result_names(names)]


def test_a_name_that_stands_alone_is_not_changed():
    names = ('a.jpg', 'b.PNG', 'sub/a.jpg', 'scan.tif', 'slice.dcm', 'clip.avi', 'film.mp4')
    assert pictures(*names) == ['a.jpg', 'b.PNG', 'sub/a.jpg', 'scan.tif.png', 'slice.dcm.png', 'clip.mp4', 'film.mp4']
    assert predictions(*names) == ['a.json', 'b.json', 'sub/a.json', 'scan.json', 'slice.json', 'clip_000000.json', 'film_000000.json']
    assert result_names(['clip.avi'])[0].prediction(12) == 'clip_000012.json'


@pytest.mark.parametrize(('names', 'drawn', 'written'), [
    (('a.jpg', 'a.png'), ['a.jpg', 'a.png'], ['a.jpg.json', 'a.png.json']),
    (('clip.avi', 'clip.mp4'), ['clip.avi.mp4', 'clip.mp4'], ['clip.avi_000000.json', 'clip.mp4_000000.json']),
    (('clip.mp4', 'clip_000003.jpg'), ['clip.mp4', 'clip_000003.jpg'], ['clip_000000.json', 'clip_000003.jpg.json']),
    (('clip.jpg', 'clip.mp4'), ['clip.jpg', 'clip.mp4'], ['clip.jpg.json', 'clip.mp4_000000.json']),
    (('A.jpg', 'a.jpg'), ['A.jpg', 'a_2.jpg'], ['A.jpg.json', 'a_2.jpg.json']),
    (('S/a.jpg', 's/A.jpg'), ['S/a.jpg', 's/A_2.jpg'], ['S/a.jpg.json', 's/A_2.jpg.json']),
    (('a.jpg', 'a.jpg'), ['a.jpg', 'a_2.jpg'], ['a.jpg.json', 'a_2.jpg.json']),
    (('a.tif', 'a.tif.png'), ['a.tif.png', 'a.tif_2.png'], ['a.json', 'a.tif_2.json']),
    (('a.jpg', 'a.jpg', 'a_2.jpg'), ['a.jpg', 'a_3.jpg', 'a_2.jpg'], ['a.jpg.json', 'a_3.jpg.json', 'a_2.json']),
    (('a.jpg', 'a.jpg/b.jpg'), ['a.jpg', 'a.jpg_b_2.jpg'], ['a.json', 'a.jpg_b_2.json']),
])
def test_names_that_meet_are_told_apart(names, drawn, written):
    assert (pictures(*names), predictions(*names)) == (drawn, written)


def test_unicode_forms_of_one_name_are_one_name():
    composed, decomposed = (unicodedata.normalize(form, 'ü.jpg') for form in ('NFC', 'NFD'))
    assert len({folded(name) for name in pictures(composed, decomposed)}) == 2


def test_many_names_of_every_kind_stay_apart():
    names = [f'{folder}{stem}{suffix}' for folder in ('', 's/', 'S/', 'a/') for stem in ('a', 'A', 'a_2', 'a_000001', 'b.jpg')
             for suffix in ('.jpg', '.JPG', '.png', '.tif', '.mp4', '.avi', '')] * 2
    found = result_names(names)
    for paths in ([name.picture for name in found], [name.prediction(1 if name.is_video else None) for name in found]):
        assert len({folded(path) for path in paths}) == len(names)
        assert not any(folded(other).startswith(f'{folded(path)}/') for path in paths[:40] for other in paths)


def test_folders_stay_as_far_as_they_are_needed(tmp_path):
    files = [tmp_path / 's1' / 'a.jpg', tmp_path / 's2' / 'a.jpg']
    assert relative_names(files) == ['s1/a.jpg', 's2/a.jpg']
    assert relative_names([files[0], tmp_path / 's2' / 'b.jpg']) == ['a.jpg', 'b.jpg']
    assert relative_names([files[0]], tmp_path) == ['s1/a.jpg'] and relative_names([]) == []
    assert relative_names([tmp_path / 's1' / 'A.jpg', files[1]]) == ['s1/A.jpg', 's2/a.jpg']


def test_a_link_goes_by_its_own_name(tmp_path):
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / 'x.jpg').touch()
    for name in ('one.jpg', 'two.jpg'):
        os.symlink(tmp_path / 'store' / 'x.jpg', tmp_path / name)
    assert relative_names([tmp_path / 'one.jpg', tmp_path / 'two.jpg'], tmp_path) == ['one.jpg', 'two.jpg']


@pytest.mark.parametrize('stem', ['x' * 251, '\u65e5' * 83, 'sub/' + 'y' * 250])
def test_long_names_are_cut_to_what_a_file_system_holds_and_stay_apart(stem):
    names = [stem + suffix for suffix in ('.jpg', '.png', '.tif', '.avi')] + [stem[:-1] + 'z.jpg']
    found = result_names(names)
    for paths in ([name.picture for name in found], [name.prediction(5 if name.is_video else None) for name in found]):
        assert len(set(paths)) == len(names)
        assert all(len(os.fsencode(part)) <= 255 for path in paths for part in path.split('/'))
