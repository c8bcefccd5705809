"""Files are whole or absent."""
from __future__ import annotations

import json
import math
import os
import stat

import pytest

from detkit.files import atomic_path, write_json


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
