"""A data set behind a cache gives what it gives without one, and nothing stale."""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from detkit.data.cache.build import fill
from detkit.data.cache.samples import CacheSettings
from detkit.data.cache.store import CacheError, Store
from detkit.data.cache.use import cache_of
from detkit.data.datasets.coco import CocoDataset
from detkit.data.synthetic import generate
from detkit.data.transforms.loading import UnreadableImage
from detkit.registry import ConfigError, register_all_modules

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(96, 80), keep_ratio=True),
            dict(type='CachedMosaic', img_scale=(96, 96), prob=0.5, max_cached_images=4),
            dict(type='RandomFlip', prob=0.5), dict(type='YOLOXHSVRandomAug'), dict(type='PackDetInputs')]


@pytest.fixture(autouse=True)
def our_scope():
    register_all_modules(init_default_scope=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return generate(tmp_path / 'shapes', 12, 2, size=64, progress=False)['root']


def dataset(root: Path, cache: dict | None = None, pipeline: list[dict] = PIPELINE, **options: object) -> CocoDataset:
    return CocoDataset(data_root=str(root), ann_file='annotations/train.json', data_prefix=dict(img='images/'), pipeline=pipeline,
                       metainfo=dict(classes=('circle', 'square', 'triangle', 'star')),
                       cache=None if cache is None else dict(dict(type='lmdb', workers=1), **cache), **options)


def digest(sample: dict) -> str:
    gt = sample['data_samples'].gt_instances
    parts = [sample['inputs'].numpy().tobytes(), gt.bboxes.numpy().tobytes(), gt.labels.numpy().tobytes(), gt.masks.to_ndarray().tobytes(),
             repr(sorted((k, v) for k, v in sample['data_samples'].metainfo.items())).encode()]
    return hashlib.sha256(b''.join(parts)).hexdigest()


def digests(data: CocoDataset) -> list[str]:
    return [digest(data[i]) for i in range(len(data))]


def folders(root: Path) -> list[Path]:
    return sorted((root / '.detkit_cache').iterdir())


@pytest.mark.parametrize('cache', [dict(), dict(store='encoded'), dict(fingerprint='bytes'), dict(workers=2), dict(build='never')])
def test_samples_are_those_without_a_cache(root: Path, cache: dict):
    expected = digests(dataset(root))
    if cache == dict(build='never'):
        dataset(root, {})
    first, again = dataset(root, cache), dataset(root, cache)
    assert digests(first) == digests(again) == expected
    assert again.pipeline.stored(3) is not None


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_workers_read_it(root: Path, context: str):
    data = dataset(root, {})
    expected = digests(data)                  # the main process has it open when the workers begin
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=context)
    assert [digest(sample) for sample in loader] == expected


def test_later_reads_do_not_touch_the_images(root: Path, monkeypatch: pytest.MonkeyPatch):
    data = dataset(root, {})
    monkeypatch.setattr(cv2, 'imdecode', lambda *a: pytest.fail('an image was decoded'))
    assert len(digests(data)) == 12


def test_a_changed_image_is_read_anew_and_then_kept(root: Path):
    data, path = dataset(root, {}), root / 'images/train_00003.jpg'
    before = digests(data)
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    os.utime(path, ns=(1, 10**18))
    expected = digests(dataset(root))
    assert digests(data) == expected != before             # the open cache notices, too
    assert fill(cache_of(data, data.cache_settings), 1, say=str, progress=False) == 1
    assert digests(dataset(root, dict(build='never'))) == expected


def test_changed_bytes_of_the_same_size_and_time_are_noticed_by_their_digest(root: Path):
    path = root / 'images/train_00003.jpg'
    dataset(root, dict(fingerprint='bytes', store='encoded'))
    content, found = path.read_bytes(), path.stat()
    path.write_bytes(content[:-40] + bytes(38) + content[-2:])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    again = dataset(root, dict(fingerprint='bytes', store='encoded'))
    assert digests(again) == digests(dataset(root))


def test_a_changed_annotation_finds_no_old_record(root: Path):
    dataset(root, {})
    file = root / 'annotations/train.json'
    content = json.loads(file.read_text())
    content['annotations'][0]['bbox'][2] -= 1
    file.write_text(json.dumps(content))
    data = dataset(root, {})
    assert digests(data) == digests(dataset(root))
    assert len(folders(root)) == 1 and Store(folders(root)[0]).entries() == 13


def test_another_resize_is_another_generation(root: Path):
    dataset(root, {})
    other = [dict(step, scale=(48, 40)) if step['type'] == 'Resize' else step for step in PIPELINE]
    data = dataset(root, {}, other)
    assert digests(data) == digests(dataset(root, None, other))
    assert len(folders(root)) == 2
    cache = cache_of(data, data.cache_settings)
    assert cache.generations() == [folder for folder in folders(root) if folder != cache.store.folder]


def test_subsets_are_right(root: Path):
    whole, data = dataset(root), dataset(root, {})
    assert digests(data.get_subset([5, 2])) == digests(whole.get_subset([5, 2]))
    assert digests(dataset(root, {}, indices=[5, 2])) == digests(dataset(root, indices=[5, 2]))


@pytest.mark.parametrize('damage', ['cut', 'foreign', 'empty'])
@pytest.mark.parametrize('on_error', ['fail', 'uncached'])
def test_a_damaged_file_is_named_or_left_aside(root: Path, damage: str, on_error: str, caplog: pytest.LogCaptureFixture):
    dataset(root, {})
    Store(folders(root)[0]).close()
    file = folders(root)[0] / 'data.mdb'
    content = file.read_bytes()
    file.write_bytes(dict(cut=content[:len(content) // 2], foreign=b'a picture, or what not' * 1000, empty=b'xx')[damage])
    if on_error == 'uncached':
        assert digests(dataset(root, dict(on_error='uncached'))) == digests(dataset(root))
        return
    with pytest.raises(CacheError, match=r'data.mdb (is cut short|cannot be opened as a cache).* build it anew'):
        dataset(root, {})


def test_a_file_that_is_cut_while_it_is_read_does_not_kill_the_process(root: Path):
    data = dataset(root, {})
    file = folders(root)[0] / 'data.mdb'
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CacheError, match='data.mdb is cut short'):
        data[0]


def test_a_disk_without_room_is_told_before_anything_is_written(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: namedtuple('Usage', 'free')(10**6))
    with pytest.raises(CacheError, match='a cache of 12 samples takes .* and 1 MB are free. Choose another place'):
        dataset(root, {})
    assert folders(root) == []
    assert len(digests(dataset(root, dict(on_error='uncached')))) == 12


def test_an_unreadable_image_is_named(root: Path):
    (root / 'images/train_00007.jpg').write_text('no picture')
    for workers in (1, 2):
        with pytest.raises(UnreadableImage, match='train_00007.jpg: cannot read this image'):
            dataset(root, dict(workers=workers))


def damage(root: Path) -> None:
    """Three images that cannot be read: one is cut, one is empty, one is gone."""
    path = root / 'images/train_00002.jpg'
    path.write_bytes(path.read_bytes()[:300])
    (root / 'images/train_00005.jpg').write_bytes(b'')
    (root / 'images/train_00007.jpg').unlink()


UNREADABLE = {f'train_0000{n}.jpg' for n in (2, 5, 7)}


@pytest.mark.parametrize('cache', [dict(workers=2), dict(store='encoded'), dict(build='never')])
def test_images_that_cannot_be_read_are_skipped_as_without_a_cache(root: Path, cache: dict, monkeypatch: pytest.MonkeyPatch):
    lines = []
    monkeypatch.setattr('detkit.data.cache.use.print_log', lambda text, *_: lines.append(text))
    damage(root)
    plain = dataset(root, on_error='skip')
    expected = digests(plain)
    data = dataset(root, cache, on_error='skip')
    assert digests(data) == expected and data.unreadable == plain.unreadable
    assert {Path(p).name for p in data.unreadable} == UNREADABLE
    told = [line for line in lines if 'cannot be kept' in line]
    if cache == dict(build='never'):
        assert told == []
    else:
        names = {'train_00007.jpg'} if cache.get('store') else UNREADABLE           # bytes are kept as they are
        assert len(told) == 1 and f'cache: {len(names)} samples cannot be kept' in told[0]
        assert set(re.findall(r'train_\d+.jpg', told[0])) == names


@pytest.mark.parametrize('cache', [dict(store='encoded'), dict(fingerprint='bytes')])
def test_images_that_are_lost_once_they_are_kept_are_skipped_too(root: Path, cache: dict):
    opened = dataset(root, cache, on_error='skip')
    before = digests(opened)
    damage(root)
    expected = digests(dataset(root, on_error='skip'))
    assert digests(dataset(root, cache, on_error='skip')) == expected != before
    if cache.get('store'):
        assert digests(opened) == expected                                          # by size and time of change, on every read
    with pytest.raises(UnreadableImage, match='train_0000[257].jpg: cannot read this image'):
        dataset(root, {}, on_error='skip', test_mode=True)


def test_a_sample_that_the_pipeline_does_not_give_is_not_kept_and_another_is_drawn(root: Path):
    damage(root)
    steps = [dict(type='LoadImageFromFile', ignore_empty=True), *PIPELINE[1:]]
    expected = digests(dataset(root, None, steps))
    assert digests(dataset(root, {}, steps)) == expected


def test_a_set_without_one_image_that_can_be_read_is_no_other_error_with_a_cache(root: Path):
    for path in (root / 'images').iterdir():
        path.unlink()
    with pytest.raises(ValueError, match='12 of the images could not be read'):
        dataset(root, {}, on_error='skip', max_refetch=200)[0]


@pytest.mark.parametrize(('cache', 'words'), [
    (dict(stor='decoded'), "cache has no 'stor'. Did you mean 'store'"), (dict(type='ram'), "cache type='ram' is unknown. Known: lmdb"),
    (dict(store='jpeg'), 'Known: decoded, encoded'), (dict(fingerprint='name'), 'Known: stat, bytes')])
def test_wrong_settings_are_named(root: Path, cache: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        dataset(root, cache)


def test_nothing_before_the_first_random_step_is_a_mistake(root: Path):
    with pytest.raises(ConfigError, match='the first transform of the pipeline is random'):
        dataset(root, {}, [dict(type='RandomFlip', prob=0.5)])


def test_what_a_transform_leaves_that_cannot_be_kept_is_named(root: Path):
    class Strange:
        random = False

        def __call__(self, results: dict) -> dict:
            return dict(results, odd=np.random.default_rng(0))
    with pytest.raises(CacheError, match="'odd' holds a Generator, which a cache cannot keep"):
        dataset(root, {}, [*PIPELINE[:2], Strange(), *PIPELINE[2:]])


BUILD = '''
import sys
from detkit.data.cache import build, samples
from detkit.registry import DATASETS, register_all_modules
register_all_modules(True)
build.BATCH = 4
steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='RandomFlip', prob=.5)]
data = DATASETS.build(dict(type='CocoDataset', data_root=sys.argv[1], ann_file='annotations/train.json', data_prefix=dict(img='images/'),
                           metainfo=dict(classes=('circle', 'square', 'triangle', 'star')), pipeline=steps))
from detkit.data.cache.use import cache_of
cache = cache_of(data, samples.CacheSettings(workers=1))
record, delay = cache.record, float(sys.argv[2])
import time
cache.record = lambda i: (time.sleep(delay), record(i))[1]
print('ready', flush=True)
print('made', build.fill(cache, 1, say=lambda line: None, progress=False), flush=True)
'''


def build(root: Path, delay: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', BUILD, str(root), str(delay)], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).resolve().parents[3])})


def test_a_killed_build_leaves_whole_records_and_the_next_goes_on(tmp_path: Path):
    root = generate(tmp_path / 'shapes', 40, 1, size=64, progress=False)['root']
    process = build(root, 0.05)
    assert process.stdout.readline() == 'ready\n'
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((root / '.detkit_cache').glob('*/data.mdb')):
        time.sleep(0.02)
    time.sleep(1.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder, = (root / '.detkit_cache').iterdir()
    there = Store(folder).entries()
    assert 0 < there < 40 and there % 4 == 0 and Store(folder).damaged() == []
    out, _ = build(root, 0).communicate(timeout=120)
    assert out == f'ready\nmade {40 - there}\n'
    assert Store(folder).entries() == 40 and Store(folder).damaged() == []


def test_two_builds_at_once_share_the_work(tmp_path: Path):
    root = generate(tmp_path / 'shapes', 40, 1, size=64, progress=False)['root']
    pair = [build(root, 0.05) for _ in range(2)]
    outs = [process.communicate(timeout=120)[0] for process in pair]
    assert all(process.returncode == 0 for process in pair)
    assert 40 <= sum(int(out.split()[-1]) for out in outs) <= 80
    folder, = (root / '.detkit_cache').iterdir()
    assert Store(folder).entries() == 40 and Store(folder).damaged() == []


def test_damaged_records_are_found_and_can_be_removed(root: Path):
    data = dataset(root, {})
    cache = cache_of(data, CacheSettings())
    store = Store(cache.store.folder)
    with store.begin() as transaction:
        record = bytearray(transaction.get(cache.key(4)))
    record[-1] ^= 255
    store.write([(cache.key(4), bytes(record))])
    assert store.damaged() == [cache.key(4)]
    store.remove(store.damaged())
    assert cache.missing() == [4]


@pytest.fixture
def unwritable(tmp_path: Path):
    """A call that makes folders read-only for this process, also where it is root's."""
    def forbid(*folders: Path) -> None:
        for folder in folders:
            for path in [folder, *folder.rglob('*')]:
                path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            for parent in [tmp_path, *tmp_path.parents][:-1]:
                if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o005 == 0o005:
                    opened.append((parent, parent.stat().st_mode & 0o7777))
                    parent.chmod(0o755)
            os.seteuid(65534)
    opened: list[tuple[Path, int]] = []
    user = os.geteuid()
    yield forbid
    os.seteuid(user)
    for parent, mode in opened:
        parent.chmod(mode)
    for path in [tmp_path, *tmp_path.rglob('*')]:
        path.chmod(0o755)


def test_a_read_only_medium_is_read_and_cannot_be_built_on(root: Path, tmp_path: Path, unwritable):
    expected = digests(dataset(root, {}))
    shutil.copytree(root, tmp_path / 'empty', ignore=shutil.ignore_patterns('.detkit_cache'))
    unwritable(root, tmp_path / 'empty')
    data = dataset(root, {})
    assert data.pipeline.stored(3) is not None and digests(data) == expected
    with pytest.raises(CacheError, match='empty.*cannot be made .*another place'):
        dataset(tmp_path / 'empty', {})
    assert len(digests(dataset(tmp_path / 'empty', dict(on_error='uncached')))) == len(expected)


FULL = '''
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))          # a file that cannot grow, as on a full disk
from detkit.data.datasets.coco import CocoDataset
from detkit.registry import register_all_modules
register_all_modules(init_default_scope=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='RandomFlip', prob=0.5)]
try:
    CocoDataset(data_root=sys.argv[1], ann_file='annotations/train.json', data_prefix=dict(img='images/'), pipeline=pipeline,
                metainfo=dict(classes=('circle', 'square', 'triangle', 'star')), cache=dict(type='lmdb', workers=1, on_error=sys.argv[2]))
    print('trains uncached')
except ValueError as error:
    print(type(error).__name__, error)
'''


@pytest.mark.parametrize('on_error,said', [('fail', 'CacheError .*cannot be written to .*make room'), ('uncached', 'trains uncached')])
def test_a_disk_that_is_full_is_told_and_nothing_is_lost(root: Path, on_error: str, said: str):
    done = subprocess.run([sys.executable, '-c', FULL, str(root), on_error], capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parents[3])})
    assert done.returncode == 0 and re.search(said, done.stdout), done.stdout + done.stderr
    assert digests(dataset(root, {})) == digests(dataset(root))
