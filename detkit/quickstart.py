"""``make quickstart``: create a dataset, train a detector, evaluate it and draw its detections.

Importing this module is fast; other modules are imported when needed.
"""
from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

RECIPE = 'quickstart/rtmdet_nano_shapes.py'
ZOOM = 3          # scale factor of the output images, because the dataset's images are small
SCORE_THR = 0.3   # detections with a lower score are not drawn


@dataclass(frozen=True)
class Outcome:
    data: Path
    checkpoint: Path
    metrics: dict[str, float]      # by the metric's names: coco/bbox_mAP, coco/bbox_mAP_50, ...
    pictures: tuple[Path, ...]     # ground truth next to predictions
    seconds: float

    def __str__(self) -> str:
        ap, ap50 = (self.metrics.get(f'coco/bbox_{name}', float('nan')) for name in ('mAP', 'mAP_50'))
        first, checkpoint = shown(self.pictures[0]), shown(self.checkpoint)
        return f"""
Done in {self.seconds / 60:.1f} minutes: box AP {ap:.3f} (IoU 0.50:0.95), AP50 {ap50:.3f} on the validation images.

  data        {shown(self.data)}
  detector    {checkpoint}
  pictures    {shown(self.pictures[0].parent)} (truth left, found right; the first: {first.name})

What to run next:{activation()}
  detkit infer {shown(self.data / 'images')} {RECIPE} {checkpoint}
  detkit print-config {RECIPE}
  detkit download-dataset bccd && detkit train rtmdet/rtmdet_nano_bccd.py
  pip install notebook && jupyter notebook notebooks/00_quickstart.ipynb
This data set is drawn; the number says that everything works, and nothing about photographs."""


def quickstart(data_dir: str | os.PathLike | None = None, work_dir: str | os.PathLike = 'work_dirs/quickstart', num_train: int = 1000,
               num_val: int = 100, epochs: int | None = None, num_pictures: int = 8, seed: int = 0, fresh: bool = False,
               say: Callable[[str], None] = print) -> Outcome:
    """Create the dataset of shapes, train a small detector, evaluate it, and draw its detections next to the ground truth.

    A second call keeps the data and a finished training, and resumes an interrupted one.

    Args:
        data_dir: None: ``shapes`` in ``$DETKIT_DATA_ROOT``, else ``data/shapes``.
        epochs: None: the recipe's number.
        num_pictures: number of validation images to draw, from the first on.
        fresh: train again even if ``work_dir`` holds a training; its checkpoints are removed.
        say: is called with one line for each step.

    Raises:
        ValueError: a count is out of range, or ``data_dir`` holds another dataset.
    """
    from detkit.config import load_config
    from detkit.data.known import default_root
    from detkit.data.synthetic import generate
    if num_pictures < 1:
        raise ValueError(f'num_pictures={num_pictures} must be at least 1.')
    start, work_dir = time.monotonic(), Path(work_dir)
    root = Path(data_dir) if data_dir is not None else default_root() / 'shapes'

    say(f'[1/4] data: {num_train} + {num_val} drawn images at {shown(root)}')
    generate(root, num_train=num_train, num_val=num_val)

    options = {'data_root': f'{root.resolve()}/'} | ({} if epochs is None else {'max_epochs': epochs})
    cfg = load_config(RECIPE, options)
    checkpoint = train_or_keep(cfg, work_dir, seed, fresh, say)

    say(f'[3/4] measuring {shown(checkpoint)} on the validation images')
    from detkit.engine import evaluate
    metrics = evaluate(cfg, checkpoint, work_dir=work_dir / 'test')

    say(f'[4/4] drawing the first {min(num_pictures, num_val)} of them')
    pictures = draw(cfg, checkpoint, work_dir / 'pictures', num_pictures)
    return Outcome(root, checkpoint, metrics, pictures, time.monotonic() - start)


def train_or_keep(cfg: Config, work_dir: Path, seed: int, fresh: bool, say: Callable[[str], None]) -> Path:
    """Return the best checkpoint of the training in ``work_dir``; run or resume the training unless it is finished."""
    from detkit.engine import train
    from detkit.engine.checkpoint import latest_checkpoint, read_meta
    from detkit.engine.interrupt import TrainingInterrupted
    from detkit.engine.work_dir import finished_message
    last = None if fresh else latest_checkpoint(work_dir)
    cfg = cfg.copy()
    cfg.work_dir, cfg.resume = str(work_dir), last is not None
    if finished_message(cfg):
        say(f'[2/4] training: {shown(work_dir)} holds a finished one of {read_meta(last)["epoch"]} epochs; --fresh trains again')
        return best_checkpoint(work_dir)
    say(f'[2/4] training {cfg.train_cfg.max_epochs} epochs into {shown(work_dir)}'
        + (f', going on after epoch {read_meta(last)["epoch"]}' if last else ''))
    try:
        train(cfg, seed=seed, fresh=fresh)
    except TrainingInterrupted as error:
        raise TrainingInterrupted(error.signum, f"run the quickstart again{', without --fresh,' if fresh else ''} to go on") from None
    return best_checkpoint(work_dir)


def best_checkpoint(work_dir: Path) -> Path:
    """Return the newest ``best_*.pth`` or, if there is none, the newest checkpoint."""
    from detkit.engine.checkpoint import latest_checkpoint
    best = sorted(work_dir.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    found = best[-1] if best else latest_checkpoint(work_dir)
    if found is None:
        raise ValueError(f'{work_dir} holds no checkpoint after training.')
    return found


def draw(cfg: Config, checkpoint: Path, folder: Path, count: int) -> tuple[Path, ...]:
    """Draw ground truth next to predictions of the first ``count`` validation images, and write them to ``folder``."""
    from mmengine.structures import InstanceData

    from detkit.inference import DetInferencer
    from detkit.registry import DATASETS
    from detkit.visualization import draw_instances, side_by_side
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    infos = [dataset.get_data_info(i) for i in range(min(count, len(dataset)))]
    inferencer = DetInferencer(cfg, str(checkpoint), show_progress=False)
    written = []
    for info, found in zip(infos, inferencer.stream([info['img_path'] for info in infos])):
        truth = InstanceData(bboxes=[o['bbox'] for o in info['instances']], labels=[o['bbox_label'] for o in info['instances']])
        image, classes = found.image[..., ::-1], dataset.metainfo['classes']   # RGB for drawing
        picture = side_by_side(draw_instances(image, truth, classes, zoom=ZOOM),
                               draw_instances(image, found.sample.pred_instances, classes, zoom=ZOOM, score_thr=SCORE_THR))
        path = folder / f"{Path(info['img_path']).stem}.jpg"
        picture.save(path)
        written.append(path)
    return tuple(written)


def activation() -> str:
    """Return the command that adds ``detkit`` to PATH if it is installed in this environment but not on PATH, else ''."""
    folder = Path(sys.executable).parent
    if shutil.which('detkit') or not (folder / 'detkit').exists():
        return ''
    return f"\n  source {shown(folder / 'activate')}"


def shown(path: Path) -> Path:
    """Return ``path`` relative to the current folder if it is inside it, else the absolute path."""
    path, here = Path(os.path.abspath(path)), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
