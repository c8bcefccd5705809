"""Files are whole or absent."""
from __future__ import annotations

import json
import math
import os
import stat
import unicodedata

import pytest

from detkit.files import atomic_path, check_out_dir, existing_path, find_data, local_path, similar_name, write_json


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / 'new' / 'a.json'
    with atomic_path(target) as temporary:
        temporary.write_text('1')
        assert temporary.suffix == '.json' and temporary.parent == target.parent and not target.exists()
    assert target.read_text() == '1' and os.listdir(target.parent) == ['a.json']


def test_an_interrupted_write_leaves_the_older_file(tmp_path):
    target = tmp_path / 'a.txt'
    target.write_text('old')
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text('half')
        raise KeyboardInterrupt
    assert target.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt']


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        write_json(tmp_path / 'a.json', {'ü': [1, None]})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'a.json').stat().st_mode) == 0o644
    assert json.loads((tmp_path / 'a.json').read_text(encoding='utf-8')) == {'ü': [1, None]}


def test_nan_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match='JSON'):
        write_json(tmp_path / 'a.json', [math.nan])
    assert not os.listdir(tmp_path)


def test_paths_begin_at_home_and_backslashes_separate_folders(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('DETKIT_DATA_ROOT', raising=False)
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/b.txt').write_text('')
    (tmp_path / 'odd\\name').write_text('')
    assert local_path('~/a/b.txt') == local_path('~\\a\\b.txt') == str(tmp_path / 'a/b.txt')
    assert local_path(tmp_path / 'odd\\name') == str(tmp_path / 'odd\\name')          # a name that has one is left alone
    assert find_data('~\\a') == tmp_path / 'a'
    write_json('~/new/c.json', {})
    assert (tmp_path / 'new/c.json').is_file()


def test_a_name_is_found_in_the_other_unicode_form_and_one_in_ascii_is_not_looked_for(tmp_path, monkeypatch):
    composed, decomposed = (unicodedata.normalize(form, 'Größe.png') for form in ('NFC', 'NFD'))
    (tmp_path / decomposed).write_text('')
    assert existing_path(str(tmp_path / composed)) == str(tmp_path / decomposed) == existing_path(str(tmp_path / decomposed))
    assert existing_path(str(tmp_path / 'Straße.png')) == str(tmp_path / 'Straße.png')
    monkeypatch.setattr(os.path, 'exists', lambda path: pytest.fail('the disk was asked'))
    assert existing_path('/nowhere/a.png') == '/nowhere/a.png'


@pytest.mark.parametrize(('asked', 'said'), [('a.jpg', "; there is 'A.JPG' in that folder"),
                                             ('B.png', "; there is 'b.jpeg' in that folder"),
                                             ('c.png', ''), ('d.png', ''), ('x/a.jpg', '')])
def test_a_similar_name_is_told(tmp_path, asked, said):
    for name in ('A.JPG', 'b.jpeg', '._c.png', 'd.txt'):
        (tmp_path / name).write_text('')
    assert similar_name(tmp_path / asked, ('.jpg', '.jpeg', '.png')) == said


def test_a_place_where_no_folder_can_be_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    check_out_dir(tmp_path / 'new' / 'folder')
    for place in ('file', 'file/below'):
        with pytest.raises(ValueError, match=r"nothing can be written into '.*': '.*file' is a file\. Give a folder\."):
            check_out_dir(tmp_path / place)
    monkeypatch.setattr(os, 'access', lambda *args: False)
    with pytest.raises(ValueError, match=r"no permission to write in '.*'\. Give another folder\."):
        check_out_dir(tmp_path / 'new')


def test_a_long_name_in_any_script_can_be_written(tmp_path):
    with atomic_path(tmp_path / ('\U00020000' * 62 + '.json')) as temporary:
        temporary.write_text('{}')
    assert len(list(tmp_path.iterdir())) == 1
