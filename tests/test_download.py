"""The downloader against a server of its own on this machine, which can break off, refuse ranges and fail."""
from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from detkit.download import DownloadError, download

BODY = bytes(range(256)) * 5000
SHA = hashlib.sha256(BODY).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves BODY. ``plan`` holds, request by request, what to do: bytes to send before breaking off, a status, or None."""

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        step = server.plan.pop(0) if server.plan else None
        if step in (404, 500, 503):
            self.send_error(step)
            return
        start = 0
        asked = self.headers.get('Range')
        if asked and server.ranges and self.headers.get('If-Range') == server.etag:
            start = int(asked.removeprefix('bytes=').rstrip('-'))
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(BODY) - start))
        self.send_header('ETag', server.etag)
        self.end_headers()
        rest = BODY[start:][:step]
        self.wfile.write(rest[:len(rest) // 2])
        self.wfile.flush()
        server.gate.wait(60)
        with suppress(ConnectionError):                # the client was killed
            self.wfile.write(rest[len(rest) // 2:])

    def log_message(self, *args: object) -> None:
        """Nothing: the tests look at what arrives."""


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    httpd.plan, httpd.requests, httpd.ranges, httpd.etag = [], [], True, '"one"'
    httpd.gate = threading.Event()                     # until it is set, an answer waits after its first half
    httpd.gate.set()
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    httpd.url = f'http://127.0.0.1:{httpd.server_port}/file.bin'
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def fetch(server, target, **options):
    return download(server.url, target, progress=False, pause=0, **options)


def test_a_file_arrives_whole_and_nothing_else_stays(server, tmp_path):
    assert fetch(server, tmp_path / 'a' / 'f.bin', sha256=SHA).read_bytes() == BODY
    assert [p.name for p in (tmp_path / 'a').iterdir()] == ['f.bin']


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    fetch(server, tmp_path / 'f.bin', sha256=SHA)
    fetch(server, tmp_path / 'f.bin', sha256=SHA)
    assert len(server.requests) == 1


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.plan = [400_000, 300_000]
    assert fetch(server, tmp_path / 'f.bin', sha256=SHA).read_bytes() == BODY
    assert [r.get('Range') for r in server.requests] == [None, 'bytes=400000-', 'bytes=700000-']


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server, tmp_path):
    server.plan = [500_000, 500, 500, 500]
    with pytest.raises(DownloadError, match='Run it again to go on'):
        fetch(server, tmp_path / 'f.bin', retries=1)
    server.plan = []
    assert fetch(server, tmp_path / 'f.bin', sha256=SHA).read_bytes() == BODY
    assert int(server.requests[-1]['Range'].removeprefix('bytes=').rstrip('-')) >= 500_000


def test_a_server_without_ranges_sends_it_anew(server, tmp_path):
    server.plan, server.ranges = [400_000], False
    assert fetch(server, tmp_path / 'f.bin', sha256=SHA).read_bytes() == BODY


def test_a_file_that_changed_in_between_is_not_patched_together(server, tmp_path):
    server.plan = [400_000]
    with pytest.raises(DownloadError):
        server_url, server.plan = server.url, [400_000, 500, 503, 503]
        download(server_url, tmp_path / 'f.bin', progress=False, pause=0, retries=2)
    server.etag, server.plan = '"two"', []
    assert fetch(server, tmp_path / 'f.bin', sha256=SHA).read_bytes() == BODY


def test_a_server_error_is_tried_again_and_a_refusal_is_not(server, tmp_path):
    server.plan = [500, 503]
    assert fetch(server, tmp_path / 'f.bin').read_bytes() == BODY
    server.plan = [404]
    with pytest.raises(DownloadError, match=r'404 .*put it at'):
        fetch(server, tmp_path / 'g.bin')
    assert len(server.requests) == 4


def test_a_wrong_checksum_removes_what_came(server, tmp_path):
    with pytest.raises(DownloadError, match='SHA-256'):
        fetch(server, tmp_path / 'f.bin', sha256='0' * 64)
    assert list(tmp_path.iterdir()) == []


def test_no_server_at_all_is_one_message(tmp_path):
    with pytest.raises(DownloadError, match=r'127.0.0.1:9/.*tries\). Run it again, or fetch'):
        download('http://127.0.0.1:9/x', tmp_path / 'x', retries=2, progress=False, pause=0)


def test_a_full_disk_is_said_before_it_fills(server, tmp_path, monkeypatch):
    monkeypatch.setattr('detkit.download.shutil.disk_usage', lambda _: type('usage', (), dict(free=1000))())
    with pytest.raises(DownloadError, match='are free'):
        fetch(server, tmp_path / 'f.bin')


FETCH = 'import sys; from detkit.download import download; download(sys.argv[1], sys.argv[2], progress=False)'


def fetching(server, target):
    return subprocess.Popen([sys.executable, '-c', FETCH, server.url, str(target)], stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_that_want_a_file_fetch_it_once(server, tmp_path):
    server.gate.clear()                                # each answer stops in the middle of the file
    processes = [fetching(server, tmp_path / 'f.bin') for _ in range(2)]
    wait_for(lambda: server.requests)
    time.sleep(1)                                      # for the other process to begin as well
    server.gate.set()
    assert [p.communicate(timeout=60)[1] for p in processes] == ['', ''] and [p.returncode for p in processes] == [0, 0]
    assert (tmp_path / 'f.bin').read_bytes() == BODY and len(server.requests) == 1
    assert [p.name for p in tmp_path.iterdir()] == ['f.bin']


def test_a_process_goes_on_with_what_a_killed_one_left(server, tmp_path):
    server.gate.clear()
    first = fetching(server, tmp_path / 'f.bin')
    part = tmp_path / 'f.bin.part'
    wait_for(lambda: part.exists() and part.stat().st_size > 0)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    have = part.stat().st_size
    server.gate.set()
    assert fetch(server, tmp_path / 'f.bin', sha256=SHA).read_bytes() == BODY
    assert server.requests[-1]['Range'] == f'bytes={have}-' and [p.name for p in tmp_path.iterdir()] == ['f.bin']
