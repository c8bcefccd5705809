"""Public datasets that detkit can download: their URLs, licences and expected content."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detkit.data.edit import of_images
from detkit.data.formats.voc import FLAGS, voc_to_coco
from detkit.data.synthetic import whole_folder
from detkit.download import download
from detkit.registry import did_you_mean

MAX_UNPACKED = 2 << 30      # bytes; a larger archive is not the dataset


@dataclass(frozen=True)
class Source:
    url: str
    licence: str
    homepage: str
    content: str                              # SHA-256 over names and bytes of the used content
    counts: dict[str, int]                    # images, and boxes of each class; for the message when the digest differs
    unpack: Callable[[Path, Path], None]      # (unpacked archive, dataset folder)
    size_mb: int
    sha256: str = ''                          # of the archive; '' for GitHub archives, which are not byte-stable


def default_root() -> Path:
    """``$DETKIT_DATA_ROOT``, or ``data`` in the current folder."""
    return Path(os.environ.get('DETKIT_DATA_ROOT') or 'data')


def download_dataset(name: str, root: str | os.PathLike | None = None, url: str = '', keep_archive: bool = False,
                     progress: bool = True) -> Path:
    """Download, check and convert a known dataset to ``root/name``, in COCO format; an existing one is kept.

    Returns the folder: ``images/``, ``annotations/*.json``, and ``SOURCE.txt``, which names origin and licence.

    Raises:
        ValueError: unknown name, or the download is not this dataset. DownloadError: it could not be downloaded.
    """
    if name not in KNOWN:
        raise ValueError(f"no data set '{name}' is known.{did_you_mean(name, KNOWN)} Known: {', '.join(KNOWN)}.")
    source = KNOWN[name]
    root = Path(root) if root else default_root()
    target = root / name
    with whole_folder(target) as folder:
        if folder is None:
            if (target / 'SOURCE.txt').is_file():
                return target
            raise ValueError(f'{target} is not empty and was not made by this command. Remove it, or choose another folder.')
        archive = download(url or source.url, root / f'{name}.zip', source.sha256, progress=progress)
        try:
            unpacked = folder / '.unpacked'
            extract(archive, unpacked)
            source.unpack(unpacked, folder)
            shutil.rmtree(unpacked)
            check_content(name, folder, source, url or source.url)
            (folder / 'SOURCE.txt').write_text(f'{name}: {source.homepage}\nlicence: {source.licence}\nfetched from: {url or source.url}\n')
        except ValueError:
            archive.unlink()    # the next run must not use the same wrong archive
            raise
    if not keep_archive:
        archive.unlink()
    return target


def extract(archive: Path, folder: Path) -> None:
    """Extract a zip file; nothing is written outside ``folder``."""
    try:
        with zipfile.ZipFile(archive) as pack:
            entries = pack.infolist()
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
                raise ValueError(f'{archive}: unpacked it would take more than {MAX_UNPACKED >> 30} GB, so it is not this data set. '
                                 f'It was removed.')
            for entry in entries:
                name = entry.filename.replace('\\', '/')
                if '..' in PurePosixPath(name).parts or name.startswith('/') or ':' in name.split('/')[0]:
                    raise ValueError(f"{archive}: the entry '{entry.filename}' leads out of the archive. It was removed; do not trust "
                                     f'its origin.')
            pack.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):   # RuntimeError: encrypted, or unknown compression
        raise ValueError(f'{archive}: not a zip archive, or a damaged one; it was removed. Run the command again.') from None


def check_content(name: str, folder: Path, source: Source, url: str) -> None:
    """Raise ValueError unless ``folder`` has the content expected by ``source``."""
    if content_digest(folder) == source.content:
        return
    found = content_counts(folder)
    other = [f'{k} {found.get(k, 0)} (expected {v})' for k, v in source.counts.items() if found.get(k, 0) != v]
    raise ValueError(f'{url}: what came is not {name} as detkit knows it: {", ".join(other) or "the counts are right, the bytes are not"}. '
                     f'The archive was removed. Did its publisher change it? {source.homepage}')


def content_counts(folder: Path) -> dict[str, int]:
    """Return the number of ``images`` in the folder, of ``boxes`` in the annotations, and of boxes per class."""
    counts = Counter(images=len(list((folder / 'images').iterdir())))
    for path in (folder / 'annotations').glob('*.json'):
        content = json.loads(path.read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        counts.update(names[a['category_id']] for a in content['annotations'])
        counts['boxes'] += len(content['annotations'])
    return counts


def content_digest(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of all images and over all boxes."""
    sha = hashlib.sha256()
    for path in sorted((folder / 'images').iterdir()):
        sha.update(path.name.encode() + b'\0' + hashlib.sha256(path.read_bytes()).digest())
    for path in sorted((folder / 'annotations').glob('*.json')):
        content = json.loads(path.read_text())
        names = {i['id']: i['file_name'] for i in content['images']}
        sha.update(repr((path.name, sorted(names.values()), sorted(
            (names[a['image_id']], a['category_id'], tuple(map(float, a['bbox']))) for a in content['annotations']))).encode())
    return sha.hexdigest()


def unpack_bccd(unpacked: Path, folder: Path) -> None:
    """Convert images and Pascal VOC labels to COCO, with the published splits."""
    found = list(unpacked.rglob('JPEGImages'))
    if len(found) != 1:
        raise ValueError(f'the archive has {len(found)} folders JPEGImages, expected one; it is not BCCD. It was removed.')
    source = found[0].parent
    shutil.copytree(source / 'JPEGImages', folder / 'images', ignore=lambda _, names: [n for n in names if not n.endswith('.jpg')])
    (folder / 'annotations').mkdir()
    stems = sorted(p.stem for p in (folder / 'images').iterdir())
    image_ids = {stem: i + 1 for i, stem in enumerate(stems)}
    try:
        for stem in stems:
            (source / 'Annotations' / f'{stem}.xml').stat()
        whole = voc_to_coco([source / 'Annotations' / f'{stem}.xml' for stem in stems], ('RBC', 'WBC', 'Platelets'), offset=0,
                            truncate=True, drop_copies=True)
        for annotation in whole['annotations']:
            for flag in FLAGS:
                annotation.pop(flag, None)
        for split in ('train', 'val', 'test'):
            chosen = {image_ids[name] for name in (source / 'ImageSets' / 'Main' / f'{split}.txt').read_text().split()}
            (folder / 'annotations' / f'{split}.json').write_text(json.dumps(of_images(whole, chosen)))
    except (FileNotFoundError, KeyError) as error:
        lacking = getattr(error, 'filename', None) or f'{error.args[0]}.jpg'
        raise ValueError(f'the archive lacks {Path(lacking).name}; it is not BCCD as detkit knows it. It was removed.') from None


KNOWN: dict[str, Source] = {
    'bccd': Source(
        url='https://github.com/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip',
        licence='MIT', homepage='https://github.com/Shenggan/BCCD_Dataset', unpack=unpack_bccd, size_mb=8,
        counts=dict(images=364, boxes=4879, RBC=4146, WBC=372, Platelets=361),
        content='56e0abcb841d1f6efbdb3b3e89ae154ec61bd6c57d07a0014700446f334054ca'),
}
