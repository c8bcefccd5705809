"""A gallery of samples: an image with boxes and masks after each transform of a pipeline, as a static page."""
from __future__ import annotations

import html
import json
import os
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from detkit.config import load_config
from detkit.data.datasets.detection import DetDataset
from detkit.data.datasets.wrappers import ClassBalancedDataset, ConcatDataset, MultiImageMixDataset, RepeatDataset
from detkit.doctor.run import without_cache
from detkit.engine.loaders import build_dataset
from detkit.files import atomic_path
from detkit.opencv import cv2
from detkit.registry import ConfigError, register_all_modules
from detkit.structures.masks import BitmapMasks, PolygonMasks, bitmap_to_polygons
from detkit.visualization.colours import class_colours

SIDE = 480           # image side in the gallery, pixels
Stage = tuple[str, dict[str, Any]]


def browse(cfg: Config | str | Path, split: str = 'train', count: int = 24, out: str | os.PathLike = 'work_dirs/browse', epoch: int = 0,
           seed: int = 0, options: Any = None, show: bool = False) -> Path:
    """Write ``out/index.html`` and its images: ``count`` samples, evenly spaced in the dataset, each after every transform.

    The samples are those of a training run with this ``seed`` in this ``epoch``. ``show``: open the page if there is a browser and a
    screen. Returns the path of the page.

    Raises:
        ConfigError: the config has no such split, or its dataset cannot be built.
    """
    cfg = load_config(cfg, options)
    register_all_modules(init_default_scope=True)
    if not cfg.get(f'{split}_dataloader'):
        raise ConfigError(f'the config has no {split}_dataloader.')
    dataset = build_dataset(without_cache(cfg[f'{split}_dataloader']['dataset']), seed=seed)
    classes = dataset.metainfo['classes']
    colours = ['rgb({}, {}, {})'.format(*c) for c in class_colours(dataset.metainfo.get('palette'), len(classes))]
    out = Path(out)
    (out / 'images').mkdir(parents=True, exist_ok=True)
    rows = []
    for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int):
        stages = list(stages_of(dataset, int(index), epoch))
        rows.append(row(int(index), stages, classes, colours, out))
    title = f'{cfg.filename or "data set"}, {split}, epoch {epoch}, seed {seed}'
    with atomic_path(out / 'index.html') as temporary:
        temporary.write_text(page(title, rows, classes, colours), encoding='utf-8')
    if show:
        open_page(out / 'index.html')
    return out / 'index.html'


def open_page(path: Path) -> bool:
    """Open the page in a browser if there is a screen; return whether this succeeded."""
    if sys.platform.startswith('linux') and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        return False
    try:
        return webbrowser.open(path.absolute().as_uri())
    except webbrowser.Error:
        return False


def stages_of(dataset: Any, index: int, epoch: int) -> Iterator[Stage]:
    """Yield (name of a transform, its result) for each transform that returned an image."""
    if isinstance(dataset, ConcatDataset):
        part, inner = dataset._get_ori_dataset_idx(index)
        yield from stages_of(dataset.datasets[part], inner, epoch)
    elif isinstance(dataset, (RepeatDataset, ClassBalancedDataset)):
        yield from stages_of(dataset.dataset, dataset._get_ori_dataset_idx(index), epoch)
    elif isinstance(dataset, MultiImageMixDataset):
        yield from stages_of(dataset.dataset, index, epoch)
        for position in range(len(dataset.transforms)):
            results = dataset.mixed(epoch, index, 0, position + 1)
            if results is not None and 'img' in results:
                yield type(dataset.transforms[position]).__name__, kept(results)
    elif isinstance(dataset, DetDataset):
        pipeline, results = dataset.pipeline, dataset.get_data_info(index)
        for position, transform in enumerate(pipeline.transforms):
            results = pipeline.run(results, position, position + 1, (dataset.seed, epoch, index, 0))
            if results is None:
                yield f'{type(transform).__name__} drops this sample', {}
                return
            if 'img' in results:
                yield type(transform).__name__, {**kept(results), 'settings': repr(transform)}
    else:
        raise ConfigError(f'the data set {type(dataset).__name__} cannot be looked at step by step.')


def kept(results: dict[str, Any]) -> dict[str, Any]:
    """Return copies of the shown values."""
    image = results['img']
    image = np.clip(image, 0, 255).astype(np.uint8) if image.dtype != np.uint8 else image.copy()
    boxes = results.get('gt_bboxes')
    return dict(image=image, boxes=None if boxes is None else boxes.copy(), labels=np.array(results.get('gt_bboxes_labels', [])),
                ignored=np.array(results.get('gt_ignore_flags', [])), outlines=outlines(results.get('gt_masks')))


def outlines(masks: BitmapMasks | PolygonMasks | None) -> list[list[np.ndarray]]:
    """Return the flat polygons of each object."""
    if masks is None:
        return []
    return masks.masks if isinstance(masks, PolygonMasks) else [bitmap_to_polygons(m) for m in masks.masks]


def row(index: int, stages: list[Stage], classes: tuple[str, ...], colours: list[str], out: Path) -> str:
    """Return the HTML of one sample, with its stages side by side. Steps without a visible change are named, not drawn."""
    figures, last, labels = [], None, set()
    for n, (name, stage) in enumerate(stages):
        if not stage:
            figures.append(f'<figure class="step"><figcaption>{html.escape(name)}</figcaption></figure>')
            continue
        labels |= {int(v) for v in stage['labels']}
        if last is not None and alike(last, stage):
            figures.append(f'<figure class="step">{caption(stage, html.escape(name) + ": no change")}</figure>')
        else:
            figures.append(figure(f'{index}_{n}.jpg', name, stage, classes, colours, out))
        last = stage
    names = ' '.join(str(v) for v in sorted(labels))
    return f'<section class="sample" data-labels="{names}"><h2>sample {index}</h2><div class="stages">{"".join(figures)}</div></section>'


def alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def same(key: str) -> bool:
        x, y = a[key], b[key]
        return (x is None) == (y is None) and (x is None or np.array_equal(x, y))
    return same('image') and same('boxes') and same('labels') and len(a['outlines']) == len(b['outlines'])


def figure(file: str, name: str, stage: dict[str, Any], classes: tuple[str, ...], colours: list[str], out: Path) -> str:
    image = stage['image']
    height, width = image.shape[:2]
    factor = min(SIDE / max(height, width), 1.)
    small = cv2.resize(image, (max(round(width * factor), 1), max(round(height * factor), 1)), interpolation=cv2.INTER_AREA)
    small = small if small.ndim == 2 or small.shape[2] in (1, 3) else np.ascontiguousarray(small[..., :3])
    (out / 'images' / file).write_bytes(cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())
    shapes = ''.join(shape(i, stage, classes, colours) for i in range(0 if stage['boxes'] is None else len(stage['boxes'])))
    count = '' if stage['boxes'] is None else f', {len(stage["boxes"])} objects'
    return (f'<figure><div class="picture" style="aspect-ratio: {width} / {height}"><img src="images/{file}" alt="">'
            f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{shapes}</svg></div>'
            f'{caption(stage, f"<b>{html.escape(name)}</b> {width}x{height}{count}")}</figure>')


def caption(stage: dict[str, Any], text: str) -> str:
    """Return ``text`` as an HTML caption; the transform's settings appear as a tooltip."""
    return f'<figcaption title="{html.escape(stage.get("settings", ""))}">{text}</figcaption>'


def shape(i: int, stage: dict[str, Any], classes: tuple[str, ...], colours: list[str]) -> str:
    """Return the box and outlines of object ``i`` as SVG, in image pixels."""
    x1, y1, x2, y2 = (round(float(v), 2) for v in stage['boxes'][i])
    label = int(stage['labels'][i]) if i < len(stage['labels']) else 0
    ignored = bool(i < len(stage['ignored']) and stage['ignored'][i])
    polygons = stage['outlines'][i] if stage['outlines'] else ()
    parts = ''.join('<polygon points="{}"/>'.format(' '.join(f'{v:.1f}' for v in p)) for p in polygons)
    name = classes[label] if 0 <= label < len(classes) else f'class {label}'
    return (f'<g class="object{" ignored" if ignored else ""}" data-label="{label}" style="color: {colours[label % len(colours)]}">'
            f'<title>{html.escape(name)}{", ignored" if ignored else ""}</title>{parts}'
            f'<rect x="{x1}" y="{y1}" width="{max(round(x2 - x1, 2), 0)}" height="{max(round(y2 - y1, 2), 0)}"/></g>')


STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1em; color: #1a1a1a; background: #fff }
header { position: sticky; top: 0; background: inherit; padding: .5em 0; z-index: 1; border-bottom: 1px solid #8884 }
h1 { font-size: 1.1em; margin: 0 0 .4em; overflow-wrap: anywhere } h2 { font-size: 1em; margin: 1em 0 .3em }
button { font: inherit; margin: 0 .3em .3em 0; padding: .1em .6em; border: 2px solid; border-radius: 1em; background: none }
button[aria-pressed=true] { background: #8883 }
.stages { display: flex; flex-wrap: wrap; gap: .8em; align-items: flex-start }
figure { margin: 0; width: 300px } .step { align-self: center; width: auto }
.picture { position: relative; width: 100% } .picture img, .picture svg { position: absolute; inset: 0; width: 100%; height: 100% }
figcaption { font-size: .85em; max-width: 300px } .step figcaption { color: #777 }
rect { fill: none; stroke: currentColor; stroke-width: 2; vector-effect: non-scaling-stroke }
polygon { fill: currentColor; fill-opacity: .35; stroke: currentColor; stroke-width: 1; vector-effect: non-scaling-stroke }
.ignored rect { stroke-dasharray: 4 3 } .hide-boxes rect, .hide-masks polygon, [hidden] { display: none !important }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #16181c } button { color: #e6e6e6 } }
"""
SCRIPT = """
const chosen = new Set();
function apply() {
  for (const s of document.querySelectorAll('.sample'))
    s.hidden = chosen.size > 0 && !s.dataset.labels.split(' ').some(l => chosen.has(l));
  for (const o of document.querySelectorAll('.object'))
    o.style.display = chosen.size > 0 && !chosen.has(o.dataset.label) ? 'none' : '';
  for (const b of document.querySelectorAll('button[data-label]'))
    b.setAttribute('aria-pressed', chosen.has(b.dataset.label));
  document.getElementById('shown').textContent = document.querySelectorAll('.sample:not([hidden])').length;
}
for (const b of document.querySelectorAll('button[data-label]'))
  b.onclick = () => { chosen.has(b.dataset.label) ? chosen.delete(b.dataset.label) : chosen.add(b.dataset.label); apply(); };
for (const b of document.querySelectorAll('button[data-toggle]'))
  b.onclick = () => b.setAttribute('aria-pressed', !document.body.classList.toggle(b.dataset.toggle));
const asked = decodeURIComponent(location.hash.slice(1));
names.forEach((name, i) => { if (name === asked) chosen.add(String(i)); });
apply();
"""


def page(title: str, rows: list[str], classes: tuple[str, ...], colours: list[str]) -> str:
    buttons = ''.join(f'<button data-label="{i}" aria-pressed="false" style="border-color: {colours[i]}">{html.escape(name)}</button>'
                      for i, name in enumerate(classes))
    names = json.dumps(list(classes)).replace('<', '\\u003c')
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>detkit: samples</title><style>{STYLE}</style></head><body><header><h1>{html.escape(title)}</h1>'
            f'<div>{buttons}</div><div><button data-toggle="hide-boxes" aria-pressed="true">boxes</button>'
            f'<button data-toggle="hide-masks" aria-pressed="true">masks</button> <span id="shown">{len(rows)}</span> of {len(rows)} '
            f'samples</div></header>{"".join(rows)}<script>const names = {names};{SCRIPT}</script></body></html>')
