from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from detkit.data import known
from detkit.data.known import KNOWN, download_dataset


@pytest.fixture
def archive(shared, tmp_path) -> Path:
    """BCCD packed the way that its repository's archive is."""
    source, top = shared / 'data' / 'bccd', 'BCCD_Dataset-d272fb1/BCCD'
    path = tmp_path / 'served.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as pack:
        pack.writestr('BCCD_Dataset-d272fb1/README.md', 'about')
        for folder, inside in (('images', 'JPEGImages'), ('annotations_voc', 'Annotations'), ('splits', 'ImageSets/Main')):
            for file in sorted((source / folder).iterdir()):
                pack.write(file, f'{top}/{inside}/{file.name}')
    return path


def boxes(path: Path) -> list:
    content = json.loads(path.read_text())
    names = {i['id']: i['file_name'] for i in content['images']}
    return sorted((names[a['image_id']], a['category_id'], tuple(a['bbox'])) for a in content['annotations'])


def test_bccd_is_fetched_converted_and_checked(archive, shared, tmp_path):
    folder = download_dataset('bccd', tmp_path / 'data', archive.as_uri(), progress=False)
    for split, count in (('train', 2800), ('val', 1135), ('test', 944)):
        got = boxes(folder / 'annotations' / f'{split}.json')
        assert len(got) == count
        assert got == boxes(shared / 'data/bccd/annotations' / f'{split}.json')
    assert len(list((folder / 'images').iterdir())) == 364
    assert 'MIT' in (folder / 'SOURCE.txt').read_text()
    assert sorted(p.name for p in folder.parent.iterdir()) == ['bccd']
    assert download_dataset('bccd', tmp_path / 'data', 'file:///nowhere.zip', progress=False) == folder


def test_another_content_is_refused_and_leaves_nothing(archive, tmp_path):
    with zipfile.ZipFile(archive, 'a') as pack:
        pack.writestr('BCCD_Dataset-d272fb1/BCCD/JPEGImages/extra.jpg', b'x')
    with pytest.raises(ValueError, match='is not bccd as detkit knows it'):
        download_dataset('bccd', tmp_path / 'data', archive.as_uri(), progress=False)
    assert not (tmp_path / 'data' / 'bccd').exists()


@pytest.mark.parametrize('name', ['../evil.txt', '/evil.txt', 'a/../../evil.txt', '..\\evil.txt'])
def test_an_archive_cannot_write_outside_its_folder(tmp_path, name):
    path = tmp_path / 'bad.zip'
    with zipfile.ZipFile(path, 'w') as pack:
        pack.writestr(name, 'x')
    with pytest.raises(ValueError, match='leads out of the archive'):
        download_dataset('bccd', tmp_path / 'data', path.as_uri(), progress=False)
    assert not list(tmp_path.rglob('evil*'))


def test_what_is_no_zip_is_said_and_removed(tmp_path):
    (tmp_path / 'bad.zip').write_text('<html>not found</html>')
    with pytest.raises(ValueError, match='not a zip archive'):
        download_dataset('bccd', tmp_path / 'data', (tmp_path / 'bad.zip').as_uri(), progress=False)
    assert not list((tmp_path / 'data').iterdir())


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'bccd'\?"):
        download_dataset('bcd')


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'bccd').mkdir()
    (tmp_path / 'bccd' / 'mine.txt').write_text('x')
    with pytest.raises(ValueError, match='is not empty'):
        download_dataset('bccd', tmp_path)
    assert (tmp_path / 'bccd' / 'mine.txt').read_text() == 'x'


def test_every_known_set_names_origin_and_licence():
    for source in KNOWN.values():
        assert source.url.startswith('https://') and source.homepage.startswith('https://') and source.licence
        assert len(source.content) == 64


def test_the_default_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('DETKIT_DATA_ROOT', str(tmp_path))
    assert known.default_root() == tmp_path
    monkeypatch.delenv('DETKIT_DATA_ROOT')
    assert known.default_root() == Path('data')
    shutil.rmtree(tmp_path)
