"""Annotations of COCO's size: loading time, memory, and the memory that the loader's workers add over an epoch.

    python benchmarks/annotations.py
    python benchmarks/annotations.py --images 20000 --boxes 150000 --workers 2

Each variant runs in its own process: detkit's CocoDataset, and the usual code of training scripts, pycocotools' index and a list of dicts.
Their workers return boxes (no image is read). Memory is the proportional set size: shared pages are divided among their processes.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import headline

VARIANTS = ('detkit CocoDataset', 'pycocotools and dicts')


def write_annotations(path: Path, images: int, boxes: int) -> None:
    rng = np.random.default_rng(0)
    corners, sizes = rng.uniform(0, 400, (boxes, 2)).round(2), rng.uniform(10, 200, (boxes, 2)).round(2)
    owners, classes = rng.integers(1, images + 1, boxes), rng.integers(1, 81, boxes)
    content = dict(
        images=[dict(id=i, file_name=f'{i:012d}.jpg', width=640, height=480) for i in range(1, images + 1)],
        annotations=[dict(id=i + 1, image_id=int(owners[i]), category_id=int(classes[i]), bbox=[*corners[i].tolist(), *sizes[i].tolist()],
                          area=float(sizes[i].prod()), iscrowd=0) for i in range(boxes)],
        categories=[dict(id=i, name=f'class {i}') for i in range(1, 81)])
    path.write_text(json.dumps(content))


def detkit_dataset(path: Path) -> object:
    from detkit.registry import DATASETS, register_all_modules
    register_all_modules(init_default_scope=True)
    return DATASETS.build(dict(type='CocoDataset', ann_file=str(path), metainfo=dict(classes=tuple(f'class {i}' for i in range(1, 81))),
                               pipeline=[dict(type='LoadAnnotations', with_bbox=True)]))


def dict_dataset(path: Path) -> object:
    from pycocotools.coco import COCO
    coco = COCO(str(path))
    return [dict(coco.imgs[i], annotations=[coco.anns[k] for k in coco.getAnnIds(i)]) for i in sorted(coco.imgs)]


def boxes_of(batch: list) -> list:
    """Read every box of a batch in a worker; return the number of boxes of each image."""
    return [len(s['gt_bboxes']) if 'gt_bboxes' in s else len([a['bbox'] for a in s['annotations']]) for s in batch]


def proportional_memory(processes: list[int]) -> float:
    """Return the proportional set size of the processes, in MB."""
    total = 0
    for process in processes:
        for line in Path(f'/proc/{process}/smaps_rollup').read_text().splitlines():
            if line.startswith('Pss:'):
                total += int(line.split()[1])
    return total / 1024


def measure(variant: str, path: Path, workers: int) -> None:
    from torch.utils.data import DataLoader
    before, start = proportional_memory([os.getpid()]), time.perf_counter()
    data = (detkit_dataset if variant == VARIANTS[0] else dict_dataset)(path)
    seconds, held = time.perf_counter() - start, proportional_memory([os.getpid()]) - before
    loader = DataLoader(data, batch_size=64, num_workers=workers, collate_fn=boxes_of, shuffle=True)
    batches, found = iter(loader), []
    for i, _ in enumerate(batches):
        if i in (2 * workers, len(loader) // 2, len(loader) - 4 * workers):
            found.append(proportional_memory([w.pid for w in batches._workers]))
    print(f'{variant:<24}{seconds:9.1f}{held:12.0f}' + ''.join(f'{v:12.0f}' for v in found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=118_000, help='(default: 118000)')
    parser.add_argument('--boxes', type=int, default=860_000, help='(default: 860000)')
    parser.add_argument('--workers', type=int, default=4, help='of the loader (default: 4)')
    parser.add_argument('--only', choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument('--file', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        measure(args.only, args.file, args.workers)
        return
    print(headline(1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'annotations.json'
        write_annotations(path, args.images, args.boxes)
        print(f'\n{args.images} images, {args.boxes} boxes, {path.stat().st_size / 1e6:.0f} MB of JSON; memory in MB, '
              f'of {args.workers} workers together')
        print(f'{"":<24}{"load s":>9}{"held":>12}{"at start":>12}{"half way":>12}{"at the end":>12}', flush=True)
        for variant in VARIANTS:
            subprocess.run([sys.executable, __file__, '--only', variant, '--file', str(path), '--workers', str(args.workers)], check=True)


if __name__ == '__main__':
    main()
