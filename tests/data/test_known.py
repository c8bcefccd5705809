from __future__ import annotations

import json
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detkit.cli import main
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


def copy_of(archive: Path, path: Path, change) -> Path:
    """``change``: name and content of an entry -> its new content, None to leave it out."""
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(path, 'w') as pack:
        for name in whole.namelist():
            content = change(name, whole.read(name))
            if content is not None:
                pack.writestr(name, content)
    return path


def test_bccd_is_fetched_converted_and_checked(archive, shared, tmp_path):
    folder = download_dataset('bccd', tmp_path / 'data', archive.as_uri(), progress=False)
    for split, count in (('train', 2800), ('val', 1135), ('test', 944)):
        got, expected = (json.loads((d / 'annotations' / f'{split}.json').read_text()) for d in (folder, shared / 'data/bccd'))
        assert len(got['annotations']) == count and got['annotations'] == expected['annotations']      # ids and order as well
        assert got['images'] == [{k: i[k] for k in ('id', 'file_name', 'width', 'height')} for i in expected['images']]
        assert [c['name'] for c in got['categories']] == [c['name'] for c in expected['categories']]
    assert len(list((folder / 'images').iterdir())) == 364
    assert 'MIT' in (folder / 'SOURCE.txt').read_text()
    assert sorted(p.name for p in folder.parent.iterdir()) == ['bccd']
    assert download_dataset('bccd', tmp_path / 'data', 'file:///nowhere.zip', progress=False) == folder


def test_another_content_is_refused_in_words_and_not_taken_again(archive, tmp_path):
    other = copy_of(archive, tmp_path / 'other.zip', lambda name, content: content.replace(b'<name>WBC', b'<name>RBC', 1)
                    if name.endswith('BloodImage_00003.xml') else content)
    with pytest.raises(ValueError, match=r'other.zip: what came is not bccd .*: RBC 4147 \(expected 4146\), WBC 371 \(expected 372\)'):
        download_dataset('bccd', tmp_path / 'data', other.as_uri(), progress=False)
    assert list((tmp_path / 'data').iterdir()) == []
    folder = download_dataset('bccd', tmp_path / 'data', archive.as_uri(), progress=False)
    assert len(json.loads((folder / 'annotations/val.json').read_text())['annotations']) == 1135


def test_an_archive_without_a_file_is_refused(archive, tmp_path):
    less = copy_of(archive, tmp_path / 'less.zip', lambda name, content: None if name.endswith('BloodImage_00003.xml') else content)
    with pytest.raises(ValueError, match=r'the archive lacks BloodImage_00003.xml'):
        download_dataset('bccd', tmp_path / 'data', less.as_uri(), progress=False)
    assert list((tmp_path / 'data').iterdir()) == []


def test_the_command_fetches_over_http_and_goes_on_where_the_connection_broke(archive, tmp_path, capsys):
    body, asked = archive.read_bytes(), []

    class Server(BaseHTTPRequestHandler):

        def do_GET(self) -> None:
            asked.append(self.headers.get('Range'))
            start = int(asked[-1].removeprefix('bytes=').rstrip('-')) if asked[-1] else 0
            self.send_response(206 if start else 200)
            self.send_header('Content-Length', str(len(body) - start))
            self.send_header('ETag', '"a"')
            self.end_headers()
            self.wfile.write(body[start:3_000_000] if len(asked) == 1 else body[start:])

        def log_message(self, *args: object) -> None:
            """Nothing: the test looks at what arrives."""

    with ThreadingHTTPServer(('127.0.0.1', 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
        status = main(['download-dataset', 'bccd', '--data-root', str(tmp_path / 'data'),
                       '--url', f'http://127.0.0.1:{httpd.server_port}/bccd.zip'])
        httpd.shutdown()
    assert status == 0 and 'bccd is at' in capsys.readouterr().out
    assert asked == [None, 'bytes=3000000-']
    assert sorted(p.name for p in (tmp_path / 'data/bccd').iterdir()) == ['SOURCE.txt', 'annotations', 'images']


@pytest.mark.parametrize('damage', ['bytes', 'end'])
def test_a_damaged_zip_is_said_and_removed(tmp_path, damage):
    path = tmp_path / 'bad.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as pack:
        pack.writestr('a.txt', bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[60:90] = b'\xff' * 30
    path.write_bytes(content if damage == 'bytes' else content[:-30])
    with pytest.raises(ValueError, match='a damaged one; it was removed'):
        download_dataset('bccd', tmp_path / 'data', path.as_uri(), progress=False)
    assert list((tmp_path / 'data').iterdir()) == []


@pytest.mark.parametrize('name', ['../evil.txt', '/evil.txt', 'a/../../evil.txt', '..\\evil.txt', 'C:\\evil.txt'])
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
        assert len(source.content) == 64 and source.counts['images'] and source.counts['boxes']


def test_the_default_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('DETKIT_DATA_ROOT', str(tmp_path))
    assert known.default_root() == tmp_path
    monkeypatch.delenv('DETKIT_DATA_ROOT')
    assert known.default_root() == Path('data')
    shutil.rmtree(tmp_path)
