from __future__ import annotations

import json
from pathlib import Path

import pytest

from detkit.registry import ConfigError
from detkit.zoo import find_model, load_index

GOOD = dict(name='a_net', config='a/a_net.py', task='detection', dataset='COCO', metrics={'bbox_mAP': 0.4}, licence='Apache-2.0',
            weights=dict(url='https://example.org/a.pth', sha256='0' * 64))


def write(folder: Path, *models: dict) -> Path:
    path = folder / 'zoo.json'
    path.write_text(json.dumps(dict(schema=1, models=models)))
    return path


def test_entries_come_in_the_files_order(tmp_path: Path):
    path = write(tmp_path, GOOD, GOOD | dict(name='b_net'))
    assert [entry.name for entry in load_index(path)] == ['a_net', 'b_net']
    assert find_model('b_net', path).weights.url == 'https://example.org/a.pth'


def test_the_shipped_index_is_sound():
    assert find_model('rtmdet_nano_shapes').weights.train == 'make quickstart'


@pytest.mark.parametrize(('change', 'said'), [
    (dict(licens='MIT'), r"models\[0\]: unknown key 'licens'. Did you mean 'licence'"),
    (dict(name=''), r"models\[0\]: 'name' should be a text"),
    (dict(task='detecting'), "the task 'detecting' is none of detection"),
    (dict(metrics={'bbox_mAP': 41.1}), r"metrics\['bbox_mAP'\] is 41.1; a metric lies in \[0, 1\]"),
    (dict(metrics=[1]), "'metrics' should map"),
    (dict(weights={}), "without a 'url' it needs 'train'"),
    (dict(weights=dict(url='http://example.org/a.pth', sha256='0' * 64)), 'should start with https'),
    (dict(weights=dict(url='https://example.org/a.pth')), "'sha256' should be the file's 64 hex digits, not None"),
    (dict(weights='a.pth'), "weights: should be an object, not 'a.pth'")])
def test_a_wrong_entry_is_refused_with_its_place(tmp_path: Path, change: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        load_index(write(tmp_path, GOOD | change))


def test_a_missing_key_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="has no 'licence'"):
        load_index(write(tmp_path, {key: value for key, value in GOOD.items() if key != 'licence'}))


def test_a_name_that_stands_twice_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="'a_net' stands for several"):
        load_index(write(tmp_path, GOOD, GOOD))


def test_an_unknown_model_says_what_is_close(tmp_path: Path):
    with pytest.raises(ConfigError, match="no 'a_nett'. Did you mean 'a_net'"):
        find_model('a_nett', write(tmp_path, GOOD))


@pytest.mark.parametrize(('content', 'said'), [('{', 'is not JSON'), ('[]', 'should hold'), ('{"schema": 2, "models": []}', 'should hold')])
def test_another_file_is_refused(tmp_path: Path, content: str, said: str):
    path = tmp_path / 'zoo.json'
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_index(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match='none.json: No such file'):
        load_index(tmp_path / 'none.json')
