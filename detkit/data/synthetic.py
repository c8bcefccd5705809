"""A generated dataset: textured shapes on textured background, with boxes and masks.

It is for tutorials and smoke tests: it needs no download, a small detector learns it from scratch in minutes, and every annotation is
exact. It is not a benchmark; what works on it may not work on photographs. It has in common with real datasets: several classes that
colour does not separate, occlusion, various sizes with many small objects in the COCO sense (below 32 pixels), cluttered background,
images without objects.
"""
from __future__ import annotations

import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from detkit.files import current_umask
from detkit.locks import file_lock
from detkit.opencv import cv2

CLASSES = ('circle', 'square', 'triangle', 'star')
VERSION = 1                 # version of the generator; increase it when the images change
SMALLEST, LARGEST = 0.1, 0.3   # radius, as a fraction of the image side
LEAST_CONTRAST = 80         # minimum contrast between object and background mean colours, in at least one channel
LEAST_VISIBLE = 0.5         # fraction of an object that stays visible under later objects
EMPTY = 0.05                # fraction of images without objects
MARK = 'unfinished.'        # in the name of an unfinished folder
TRIES = 12                  # positions tried for an object before it is left out
README = """A data set of drawn shapes, made by detkit (detkit/data/synthetic.py): for teaching and smoke tests, not a benchmark.
Classes: {classes}. {train} training and {val} validation images of {size}x{size} pixels, seed {seed}.
annotations/*.json are in COCO's format: boxes and polygons of the visible part of each object.
"""


@dataclass(frozen=True)
class Recipe:
    """All parameters of a generated dataset."""

    num_train: int = 1000
    num_val: int = 100
    size: int = 128             # pixels, of square images
    max_objects: int = 7        # per image
    seed: int = 0
    version: int = VERSION


def generate(out_dir: str | os.PathLike, num_train: int = 1000, num_val: int = 100, size: int = 128, max_objects: int = 7,
             seed: int = 0, progress: bool = True) -> dict[str, Path]:
    """Write the dataset to ``out_dir``: ``images/*.jpg``, ``annotations/train.json``, ``annotations/val.json``.

    The same arguments give the same bytes. An existing dataset is kept if it was made with the same arguments; if another process is
    writing one, the call waits for it. The folder appears only when it is complete.

    Returns the paths ``root``, ``images``, ``train``, ``val``.

    Raises:
        ValueError: counts or size too small, or ``out_dir`` contains something else.
    """
    recipe = Recipe(num_train, num_val, size, max_objects, seed)
    if min(num_train, num_val) < 1 or size < 48 or max_objects < 1:
        raise ValueError(f'num_train={num_train}, num_val={num_val} and max_objects={max_objects} must be at least 1, size={size} at least '
                         f'48 pixels.')
    root = Path(out_dir)
    paths = dict(root=root, images=root / 'images', train=root / 'annotations/train.json', val=root / 'annotations/val.json')
    with whole_folder(root) as folder:
        if folder is None:
            check_same(root, recipe)
            return paths
        (folder / 'images').mkdir()
        (folder / 'annotations').mkdir()
        first = 0
        for split, count in (('train', num_train), ('val', num_val)):
            write_split(folder, split, range(first, first + count), recipe, progress)
            first += count
        (folder / 'README.txt').write_text(README.format(classes=', '.join(CLASSES), train=num_train, val=num_val, size=size, seed=seed))
        (folder / 'recipe.json').write_text(json.dumps(asdict(recipe)))
    return paths


def check_same(root: Path, recipe: Recipe) -> None:
    """Raise ValueError unless ``root`` contains a dataset made by ``recipe``."""
    try:
        found = json.loads((root / 'recipe.json').read_text())
    except (OSError, ValueError):
        raise ValueError(f'{root} is not empty and holds no set that detkit made. Choose another folder.') from None
    other = {k: (found.get(k), v) for k, v in asdict(recipe).items() if found.get(k) != v}
    if other:
        said = ', '.join(f'{k}={was} (asked: {asked})' for k, (was, asked) in other.items())
        raise ValueError(f'{root} holds a set made with {said}. Remove it, or choose another folder.')


@contextmanager
def whole_folder(target: Path) -> Iterator[Path | None]:
    """Yield a folder beside ``target`` that replaces it when the block ends without an exception, and is removed otherwise.

    Only one process at a time creates it; the others wait and then find it. Yields None if ``target`` already has content.
    """
    if has_content(target):
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(target.parent / f'.{target.name}.lock', lambda owner: print(f'{target}: waiting for {owner}, which is making it',
                                                                              file=sys.stderr)):
        if has_content(target):
            yield None
            return
        for left in target.parent.glob(f'.{glob.escape(target.name)}.{MARK}*'):     # left by a killed process
            shutil.rmtree(left)
        folder = Path(tempfile.mkdtemp(prefix=f'.{target.name}.{MARK}', dir=target.parent))
        try:
            yield folder
            folder.chmod(0o777 & ~current_umask())
            folder.rename(target)             # also replaces an empty folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def has_content(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def write_split(folder: Path, split: str, numbers: range, recipe: Recipe, progress: bool) -> None:
    from tqdm import tqdm
    images, annotations = [], []
    for number in tqdm(numbers, desc=f'drawing {split}', unit='image', disable=not progress):
        picture, objects = draw(np.random.default_rng([recipe.version, recipe.seed, number]), recipe.size, recipe.max_objects)
        name = f'{split}_{number:05d}.jpg'
        cv2.imwrite(str(folder / 'images' / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        images.append(dict(id=number, file_name=name, width=recipe.size, height=recipe.size))
        for category, mask in objects:
            annotations.append(dict(id=len(annotations) + 1 + numbers.start * recipe.max_objects, image_id=number,
                                    category_id=category + 1, iscrowd=0, **describe(mask)))
    categories = [dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(CLASSES)]
    (folder / 'annotations' / f'{split}.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def draw(rng: np.random.Generator, size: int, max_objects: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Return an image uint8 (size, size, 3) BGR and its objects: class index and visible mask, bool (size, size)."""
    picture = texture(rng, (size, size), rng.uniform(40, 215, 3), rng.uniform(15, 45))
    objects: list[tuple[int, np.ndarray, int]] = []          # class, visible mask, area before occlusion
    for _ in range(int(rng.integers(1, max_objects + 1)) if rng.random() > EMPTY else 0):
        category = int(rng.integers(len(CLASSES)))
        mask = place(rng, category, size, objects)
        if mask is None:
            continue
        objects = [(c, seen & ~mask, area) for c, seen, area in objects] + [(category, mask, int(mask.sum()))]
        ground = picture[mask].mean(0)
        colour = rng.uniform(0, 255, 3)
        while np.abs(colour - ground).max() < LEAST_CONTRAST:
            colour = rng.uniform(0, 255, 3)
        window = np.ix_(mask.any(1), mask.any(0))
        patch = texture(rng, mask[window].shape, colour, rng.uniform(5, 30))
        picture[window] = np.where(mask[window][..., None], patch, picture[window])
    noisy = picture + rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(1, 6))
    return noisy.clip(0, 255).astype(np.uint8), [(c, seen) for c, seen, _ in objects]


def place(rng: np.random.Generator, category: int, size: int, objects: list[tuple[int, np.ndarray, int]]) -> np.ndarray | None:
    """Return the mask of a new object that leaves enough of every earlier object visible; None if no such position was found."""
    for _ in range(TRIES):
        radius = size * float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
        center = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
        mask = inside(outline(rng, category, radius) + center, size)
        enough = mask.sum() >= 20
        if enough and all((seen & ~mask).sum() >= LEAST_VISIBLE * area for _, seen, area in objects):
            return mask
    return None


def outline(rng: np.random.Generator, category: int, radius: float) -> np.ndarray:
    """Return the corners (k, 2) of a shape around the origin, rotated and stretched at random."""
    kind = CLASSES[category]
    corners = {'circle': 36, 'square': 4, 'triangle': 3, 'star': 10}[kind]
    angles = np.arange(corners) * 2 * np.pi / corners
    reach = np.where(np.arange(corners) % 2, rng.uniform(0.35, 0.45), 1.) if kind == 'star' else np.ones(corners)
    unit = np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
    stretch, turn = rng.uniform(0.75, 1, 2), rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (unit * stretch * radius) @ rotation.T


def inside(polygon: np.ndarray, size: int) -> np.ndarray:
    """Return bool (size, size): pixels whose centre is inside ``polygon`` (k, 2), by the even-odd rule."""
    x0, y0 = np.floor(polygon.min(0)).clip(0, size).astype(int)
    x1, y1 = np.ceil(polygon.max(0)).clip(0, size).astype(int)
    y, x = np.mgrid[y0:y1, x0:x1] + 0.5
    odd = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0)):
        if ay != by:
            odd ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    mask = np.zeros((size, size), bool)
    mask[y0:y1, x0:x1] = odd
    return mask


def texture(rng: np.random.Generator, shape: tuple[int, int], colour: np.ndarray, contrast: float) -> np.ndarray:
    """Return a texture, float (height, width, 3), around ``colour``: blotches of several sizes, and stripes or a gradient."""
    height, width = shape
    out = np.zeros((height, width, 3), np.float32) + np.asarray(colour, np.float32)
    for cells in (4, 12, 40):
        coarse = rng.normal(0, contrast / 2, (cells, cells, 1)) + rng.normal(0, contrast / 5, (cells, cells, 3))
        out += cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = np.cos(turn := rng.uniform(0, np.pi)) * x + np.sin(turn) * y
    if rng.random() < 0.5:
        wave = np.sin(along * 2 * np.pi / rng.uniform(5, 25)) * contrast * rng.uniform(0, 1)
    else:
        wave = (along / max(shape) - 0.5) * contrast * rng.uniform(-1, 1)
    return (out + wave[..., None].astype(np.float32)).clip(0, 255)


def describe(mask: np.ndarray) -> dict:
    """Return COCO's ``bbox`` (x, y, width, height), ``area`` and ``segmentation`` of a visible mask."""
    xs, ys = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
    box = [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)]
    polygons = [p for part in without_holes(mask[ys[0]:ys[-1] + 1, xs[0]:xs[-1] + 1]) for p in outlines(part, (xs[0], ys[0]))]
    return dict(bbox=box, area=int(mask.sum()), segmentation=polygons)


def without_holes(mask: np.ndarray) -> list[np.ndarray]:
    """Split ``mask`` into parts without holes, as polygons cannot represent holes: cut vertically through each hole."""
    contours, links = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = [c.reshape(-1, 2) for c, (*_, parent) in zip(contours, links.reshape(-1, 4)) if parent >= 0]
    if not holes:
        return [mask]
    cut = (holes[0][:, 0].min() + holes[0][:, 0].max()) // 2
    columns = np.arange(mask.shape[1])
    return [part for side in (columns < cut, columns >= cut) for part in without_holes(mask & side)]


def outlines(mask: np.ndarray, origin: tuple[int, int]) -> list[list[float]]:
    """Return the polygons around the parts of ``mask``, whose first pixel is at ``origin`` (x, y)."""
    fine = 4          # contours connect pixel centres; on a finer grid they are close to the pixel edges
    large = np.kron(mask.astype(np.uint8), np.ones((fine, fine), np.uint8))
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((c.reshape(-1, 2) + 0.5) / fine + origin).round(2).reshape(-1).tolist() for c in contours if len(c) >= 3]
