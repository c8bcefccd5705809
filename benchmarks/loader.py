"""Time a data loader, from files on disk to collated batches in the main process: images per second.

    python benchmarks/loader.py
    python benchmarks/loader.py --workers 0 2 --batch 32 --no-flip
    python benchmarks/loader.py --data data/bccd/annotations/train.json --image-dir data/bccd/images

Rows: the image files, an encoded and a decoded cache, each with torch's DataLoader and (if there are workers) with shared buffers;
torchvision's JPEG decoder in a plain DataLoader; and a copy of the same number of bytes in memory, the upper limit for a loader.

Before the first table, everything is read once (warm). For the second table, the files are dropped from the page cache before each pass
(cold), which shows the time of the disk; its workers are restarted for each pass, because mapped files are never dropped. Without
--data, the images are drawn: 640x480, with the file size of photographs (about 67 kB).
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import headline
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_jpeg, read_file

from detkit.data.cache.store import let_go
from detkit.engine.ring import RingLoader, make_buffers
from detkit.opencv import cv2
from detkit.registry import DATASETS, register_all_modules

SIZE, OBJECTS = (480, 640), 7


def write_images(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    (root / 'images').mkdir()
    images, annotations = [], []
    for i in range(count):
        noise = cv2.GaussianBlur(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), (0, 0), 2)
        cv2.imwrite(str(root / f'images/{i}.jpg'), cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX), [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append(dict(id=i, file_name=f'{i}.jpg', width=SIZE[1], height=SIZE[0]))
        annotations += [dict(id=len(annotations) + k + 1, image_id=i, category_id=1, bbox=[*rng.uniform(0, 380, 2).tolist(), 80, 60],
                             area=4800, iscrowd=0) for k in range(OBJECTS)]
    (root / 'a.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])))


def copy_images(annotations: Path, images: Path, root: Path, count: int) -> None:
    """Copy the first images of a COCO file repeatedly until there are ``count``."""
    content = json.loads(annotations.read_text())
    (root / 'images').mkdir()
    chosen, boxes = [], []
    for n in range(count):
        image = content['images'][n % len(content['images'])]
        name = f"{n}{Path(image['file_name']).suffix}"
        shutil.copy(images / image['file_name'], root / 'images' / name)
        chosen.append({**image, 'id': n, 'file_name': name})
        boxes += [{**a, 'id': len(boxes) + k, 'image_id': n, 'category_id': 1} for k, a in
                  enumerate([a for a in content['annotations'] if a['image_id'] == image['id']], 1)]
    (root / 'a.json').write_text(json.dumps(dict(images=chosen, annotations=boxes, categories=[dict(id=1, name='thing')])))


def forget(root: Path) -> None:
    """Drop the files in ``root`` from the operating system's page cache; this process unmaps its caches."""
    let_go()
    for path in root.rglob('*'):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def dataset(root: Path, flip: bool, cache: dict | None) -> Any:
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
    if flip:
        steps.insert(2, dict(type='RandomFlip', prob=0.5))
    return DATASETS.build(dict(type='CocoDataset', data_root=str(root), ann_file='a.json', data_prefix=dict(img='images/'),
                               metainfo=dict(classes=('thing',)), pipeline=steps, cache=cache))


class TorchvisionImages(Dataset):

    def __init__(self, root: Path) -> None:
        self.paths = sorted(map(str, (root / 'images').iterdir()))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return decode_jpeg(read_file(self.paths[index]))


def speed(loader: Iterable, count: int, repeats: int, cold: Path | None = None) -> float:
    """Return images per second; ``cold``: a folder whose files are dropped from the page cache before each pass."""
    for _ in loader:
        pass
    taken = 0.
    for _ in range(repeats):
        if cold:
            forget(cold)
        start = time.perf_counter()
        for batch in loader:
            images = batch['inputs'] if isinstance(batch, dict) else batch
            sum(int(image[0, 0, 0]) for image in images)            # the main process reads from every image
        taken += time.perf_counter() - start
    return repeats * count / taken


def copy_speed(count: int, repeats: int) -> float:
    source = np.ones((min(count, 128), *SIZE, 3), np.uint8)
    target = np.ones((32, *SIZE, 3), np.uint8)
    start = time.perf_counter()
    for i in range(repeats * count):
        np.copyto(target[i % 32], source[i % len(source)])
    return repeats * count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=384, help='how many (default: 384)')
    parser.add_argument('--batch', type=int, default=32, help='images a batch (default: 32)')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2], help='worker processes (default: 0 1 2)')
    parser.add_argument('--repeats', type=int, default=3, help='timed passes (default: 3)')
    parser.add_argument('--no-flip', action='store_true', help='without a random flip in the pipeline')
    parser.add_argument('--data', type=Path, metavar='JSON', help='a COCO file in place of drawn images')
    parser.add_argument('--image-dir', type=Path, metavar='DIR', help='its images')
    args = parser.parse_args()
    register_all_modules(init_default_scope=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print(headline(1))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if args.data:
            copy_images(args.data, args.image_dir, root, args.images)
        else:
            write_images(root, args.images)
        for cold in (False, True):
            table(root, args, cold)
        print(f'\n{"copy within memory, 640x480":<28}{copy_speed(args.images, args.repeats):9.0f}')


def table(root: Path, args: argparse.Namespace, cold: bool) -> None:
    what = f'from {args.data.parent.parent.name}' if args.data else 'of 640x480'
    print(f'\n{args.images} images {what}, batches of {args.batch}, {"no" if args.no_flip else "a random"} flip, '
          f'{"cold" if cold else "warm"}: images per second')
    print(f'{"":<28}' + ''.join(f'{w:>9}' for w in args.workers) + '  workers')
    rows = {f'detkit {name}': dataset(root, not args.no_flip, cache) for name, cache in
            (('files', None), ('encoded cache', dict(type='lmdb', store='encoded')), ('decoded cache', dict(type='lmdb')))}
    if not args.data:                          # torch's default collate function needs images of one size
        rows['torchvision files'] = TorchvisionImages(root)
    for name, data in rows.items():
        collate = pseudo_collate if name.startswith('detkit') else None
        plain, shared = [], []
        for workers in args.workers:
            options = dict(batch_size=args.batch, num_workers=workers, persistent_workers=workers > 0 and not cold)
            timed = dict(count=args.images, repeats=args.repeats, cold=root if cold else None)
            plain.append(speed(DataLoader(data, collate_fn=collate, **options), **timed))
            buffers = make_buffers(data, args.batch, workers, 2) if collate and workers else None
            shared.append(f'{speed(RingLoader(data, buffers, collate, **options), **timed):9.0f}' if buffers else f'{"-":>9}')
        print(f'{name:<28}' + ''.join(f'{v:9.0f}' for v in plain))
        if collate:
            print(f'{name + ", shared":<28}' + ''.join(shared))


if __name__ == '__main__':
    main()
