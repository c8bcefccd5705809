"""Time a data loader, from files on disk to collated batches in the main process: images per second.

    python benchmarks/loader.py
    python benchmarks/loader.py --workers 0 2 --batch 32 --no-flip

Rows: the image files, an encoded and a decoded cache, each through torch's DataLoader and (where there are workers) through shared
buffers; torchvision's JPEG decoder in a plain DataLoader; and a copy of the same bytes within memory, which no loader can beat. Every
row reads everything once before it is timed. The images are drawn: 640x480, as large as photographs of that size (about 67 kB).
"""
from __future__ import annotations

import argparse
import json
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


def speed(loader: Iterable, count: int, repeats: int) -> float:
    for _ in loader:
        pass
    start = time.perf_counter()
    for _ in range(repeats):
        for batch in loader:
            images = batch['inputs'] if isinstance(batch, dict) else batch
            sum(int(image[0, 0, 0]) for image in images)            # the main process looks at every image
    return repeats * count / (time.perf_counter() - start)


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
    args = parser.parse_args()
    register_all_modules(init_default_scope=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print(headline(1))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, args.images)
        print(f'\n{args.images} images of 640x480, batches of {args.batch}, {"no" if args.no_flip else "a random"} flip: images per second')
        print(f'{"":<28}' + ''.join(f'{w:>9}' for w in args.workers) + '  workers')
        rows = {f'detkit {name}': dataset(root, not args.no_flip, cache) for name, cache in
                (('files', None), ('encoded cache', dict(type='lmdb', store='encoded')), ('decoded cache', dict(type='lmdb')))}
        rows['torchvision files'] = TorchvisionImages(root)
        for name, data in rows.items():
            collate = pseudo_collate if name.startswith('detkit') else None
            plain, shared = [], []
            for workers in args.workers:
                options = dict(batch_size=args.batch, num_workers=workers, persistent_workers=workers > 0)
                plain.append(speed(DataLoader(data, collate_fn=collate, **options), args.images, args.repeats))
                if collate and workers:
                    ring = RingLoader(data, make_buffers(data, args.batch, workers, 2), collate, **options)
                    shared.append(f'{speed(ring, args.images, args.repeats):9.0f}')
                else:
                    shared.append(f'{"-":>9}')
            print(f'{name:<28}' + ''.join(f'{v:9.0f}' for v in plain))
            if collate:
                print(f'{name + ", shared":<28}' + ''.join(shared))
        print(f'{"copy in memory":<28}{copy_speed(args.images, args.repeats):9.0f}')


if __name__ == '__main__':
    main()
