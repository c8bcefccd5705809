"""The text of a new config: first the variables of the recipe, then settings that have no variable."""
from __future__ import annotations

import copy
import datetime
import math
import os
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.data.discover import Split
from detkit.newconfig.numbers import Numbers
from detkit.newconfig.recipe import Recipe, depth

LINE_WIDTH = 112
COCO_DETECTIONS = 100              # per image, as counted by COCO's AP
WARMUPS = ('LinearLR', 'ConstantLR')


@dataclass
class Plan:
    """The content of the new file."""

    recipe: Recipe
    root: Path
    splits: dict[str, Split]       # train, val and optionally test
    classes: tuple[str, ...]
    numbers: Numbers
    out: Path

    def written_file(self, split: str) -> Path:
        """Return the path for the annotations of a split that no dataset class can read directly."""
        return self.out.with_name(f'{self.out.stem}_{split}.json')

    def ann_file(self, split: str) -> str:
        source = self.splits[split]
        return self.relative(source.dataset['ann_file'] if source.dataset else self.written_file(split))

    def image_prefix(self, split: str) -> str:
        """Return the folder to which file names are relative; '' if the dataset finds its images by itself."""
        source = self.splits[split]
        if source.dataset and 'data_prefix' not in source.dataset:
            return ''
        folder = self.relative(source.images)
        return '' if folder == '.' else f'{folder}/'

    def relative(self, path: Path) -> str:
        path = Path(path)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    @property
    def max_iters(self) -> int:
        """Number of steps of the whole training."""
        return self.numbers.max_epochs * math.ceil(len(self.splits['train'].content['images']) / self.numbers.batch_size)

    def source_of(self, split: str) -> str:
        """Return the split whose data ``split`` (train, val, test) uses."""
        return split if split in self.splits else 'val'


def variables_of(plan: Plan) -> dict[str, Any]:
    """Return the variables of the recipe, in the order in which they are written."""
    numbers, found = plan.numbers, {'data_root': os.path.join(plan.root, ''), 'classes': plan.classes}
    for split in ('train', 'val', 'test'):
        found[f'{split}_ann_file'] = plan.ann_file(plan.source_of(split))
        found[f'{split}_images'] = plan.image_prefix(plan.source_of(split))
    found['image_size'] = numbers.image_size
    if plan.recipe.tests_at_another_size:
        found['test_size'] = numbers.image_size
    steps = math.ceil(len(plan.splits['train'].content['images']) / numbers.batch_size)
    if plan.recipe.counts_iterations:
        found.update(max_iters=plan.max_iters, val_interval=steps * numbers.val_interval)
    else:
        found.update(max_epochs=numbers.max_epochs, val_interval=numbers.val_interval)
    found.update(batch_size=numbers.batch_size, num_workers=numbers.num_workers)
    if plan.recipe.cfg.get('keep_ratio') is False:
        found['keep_ratio'] = True
    if warmup_of(plan.recipe.cfg) > plan.max_iters // 10:
        found['warmup_iters'] = max(1, plan.max_iters // 10)
    return found


def warmup_of(cfg: Any) -> int:
    """Return the number of warm-up steps, if the warm-up is counted in steps."""
    schedulers = cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]
    return max((s.get('end', 0) for s in schedulers if s.get('type') in WARMUPS and not s.get('by_epoch', True)), default=0)


def settings_of(plan: Plan, variables: dict[str, Any]) -> dict[str, Any]:
    """Return settings without a recipe variable, as config sections: for other formats, and recipes without the variables."""
    cfg, given = plan.recipe.cfg, plan.recipe.has
    out: dict[str, Any] = {}
    for split in ('train', 'val', 'test'):
        source = plan.splits[plan.source_of(split)]
        loader, dataset = {}, {}
        if source.dataset and source.dataset['type'] != 'CocoDataset':
            dataset = {k: v for k, v in source.dataset.items() if k not in ('ann_file', 'data_prefix')}
        if not given('data_root'):
            dataset.update(data_root=variables['data_root'])
        if not given('classes'):
            dataset.update(metainfo=dict(classes=plan.classes))
        if not given(f'{split}_ann_file'):
            dataset.update(ann_file=variables[f'{split}_ann_file'])
        if not given(f'{split}_images'):
            dataset.update(data_prefix=dict(img=variables[f'{split}_images']))
        if split == 'train' and min(min(i['width'], i['height']) for i in source.content['images']) < 32:
            dataset.update(filter_cfg=dict(min_size=1))
        if dataset:
            for _ in range(depth(cfg, split)):
                dataset = dict(dataset=dataset)
            loader.update(dataset=dataset)
        if split == 'train' and not given('batch_size'):
            loader.update(batch_size=variables['batch_size'])
        if loader:
            out[f'{split}_dataloader'] = loader
    for split in ('val', 'test'):
        source, ann_file = plan.splits[plan.source_of(split)], variables[f'{split}_ann_file']
        if source.dataset and source.dataset['type'] != 'CocoDataset':
            out[f'{split}_evaluator'] = dict(ann_file=None)
        elif os.path.isabs(ann_file) or not given(f'{split}_ann_file') or not given('data_root'):
            out[f'{split}_evaluator'] = dict(ann_file=os.path.join(plan.root, ann_file))
    if not given('classes'):
        out['model'] = class_counts(cfg.model, len(plan.classes))
    limit = detections_needed(plan)
    if limit > COCO_DETECTIONS:
        for name in ('val_evaluator', 'test_evaluator'):
            out[name] = dict(out.get(name, {}), proposal_nums=(limit,))
        test_cfg = {} if cfg.model.get('num_queries') else raised_limits(cfg.model.get('test_cfg') or {}, limit)
        if test_cfg:
            out['model'] = dict(out.get('model', {}), test_cfg=test_cfg)
    if not given('val_interval') and given('max_epochs'):
        out['train_cfg'] = dict(val_interval=variables['val_interval'])
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if base and base != variables['batch_size']:
        out['auto_scale_lr'] = dict(enable=True)
    return out


def detections_needed(plan: Plan) -> int:
    """Return the maximum number of objects in an image, rounded up to a multiple of 100."""
    counts = [Counter(a['image_id'] for a in s.content['annotations'] if not a.get('iscrowd')) for s in plan.splits.values()]
    return math.ceil(max(n for count in counts for n in count.values()) / 100) * 100 if any(counts) else 0


def raised_limits(test_cfg: dict, limit: int) -> dict[str, Any]:
    """Return the parts of ``test_cfg`` whose ``max_per_img`` is below ``limit``, set to ``limit``."""
    out: dict[str, Any] = {}
    for key, value in test_cfg.items():
        inner = raised_limits(value, limit) if isinstance(value, dict) else {}
        if key == 'max_per_img' and 0 < value < limit:
            out[key] = limit
        elif inner:
            out[key] = inner
    return out


def class_counts(model: Any, count: int) -> Any:
    """Return the parts of a model config with ``num_classes``, set to ``count``; lists are returned whole."""
    if isinstance(model, (list, tuple)):
        return [copy.deepcopy(dict(m, **class_counts(m, count))) if isinstance(m, dict) else m for m in model]
    out = {}
    for key, value in model.items():
        if key == 'num_classes':
            out[key] = count
        elif isinstance(value, dict) and names_classes(value):
            out[key] = class_counts(value, count)
        elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) and names_classes(v) for v in value):
            out[key] = class_counts(value, count)
    return out


def names_classes(node: dict) -> bool:
    return any(key == 'num_classes' or isinstance(value, dict) and names_classes(value) or isinstance(value, (list, tuple))
               and any(isinstance(v, dict) and names_classes(v) for v in value) for key, value in node.items())


def code_of(value: Any) -> str:
    """Return ``value`` as config code: dicts with keyword arguments."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{k}={code_of(v)}' for k, v in value.items())})"
    if isinstance(value, (list, tuple)):
        inner = ', '.join(map(code_of, value))
        return f'[{inner}]' if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return repr(str(value) if isinstance(value, Path) else value)


def text_of(plan: Plan) -> str:
    """Return the text of the config."""
    train = plan.splits['train'].content
    variables = variables_of(plan)
    settings = settings_of(plan, variables)
    comments = dict(
        data_root='where the data lie; the paths below are relative to it',
        classes='the order is that of the labels',
        image_size=f'(width, height) of the network input; the images are {size_text(train)}',
        test_size='that of validation and test; the recipe takes another share of image_size, for COCO',
        max_epochs=f"for {len(train['images'])} images",
        max_iters=f"steps: {plan.numbers.max_epochs} epochs of {len(train['images'])} images",
        val_interval=f"{'steps' if plan.recipe.counts_iterations else 'epochs'} between two validations",
        batch_size='images a step; halve it when memory runs out',
        warmup_iters='a tenth of the training')
    lines = [f'"""{docstring(plan, datetime.date.today().isoformat())}"""', f'_base_ = {plan.recipe.base!r}', '']
    for name, value in variables.items():
        if plan.recipe.has(name):
            lines += assignment(name, value, comments.get(name, ''))
        if name in ('classes', 'test_images'):
            lines.append('')
    if settings:
        lines.append('')
    notes = dict(auto_scale_lr='of the learning rate, from the batch size that the recipe was made for')
    if detections_needed(plan) > COCO_DETECTIONS:
        notes['val_evaluator'] = f"an image has up to {detections_needed(plan)} objects; COCO's AP counts {COCO_DETECTIONS}"
    for name, value in settings.items():
        lines += assignment(name, value, notes.get(name, ''))
    return '\n'.join(line for n, line in enumerate(lines) if line or n == 0 or lines[n - 1]) + '\n'


def assignment(name: str, value: Any, comment: str) -> list[str]:
    """Return the lines of ``name = value  # comment``; a value too long for one line has one line per entry."""
    line = f'{name} = {code_of(value)}'
    if len(line) > LINE_WIDTH:
        lines = f'{name} = {broken_code(value)}'.splitlines()
        return [f'# {comment}', *lines] if comment else lines
    return [f'{line:34}  # {comment}' if comment else line]


def broken_code(value: Any, indent: str = '    ') -> str:
    """Return config code as ``code_of``, over several lines if it is long."""
    text = code_of(value)
    if len(text) + len(indent) <= LINE_WIDTH:
        return text
    if isinstance(value, dict):
        parts = [f'{k}={broken_code(v, indent + "    ")}' for k, v in value.items()]
        return 'dict(\n' + ',\n'.join(indent + part for part in parts) + ')'
    if isinstance(value, (list, tuple)):
        opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
        has_dicts = any(isinstance(v, dict) for v in value)
        lines = [broken_code(v, indent + '    ') + ',' for v in value] if has_dicts else \
            filled_lines([code_of(v) + ',' for v in value], LINE_WIDTH - len(indent))
        return opening + '\n' + '\n'.join(indent + line for line in lines) + closing
    return text


def filled_lines(parts: list[str], width: int) -> list[str]:
    """Fill lines up to ``width`` with whole ``parts``; spaces within a part are kept."""
    lines = ['']
    for part in parts:
        if lines[-1] and len(lines[-1]) + 1 + len(part) > width:
            lines.append('')
        lines[-1] += f' {part}' if lines[-1] else part
    return lines


def docstring(plan: Plan, date: str) -> str:
    label, command = plan.recipe.base.removeprefix('detkit::'), plan.out.name
    lines = [f'{label} for the data in {plan.root}; written by detkit new-config on {date}.', '']
    for name, split in plan.splits.items():
        content = split.content
        lines.append(f"    {name:6} {split.source}: {len(content['images'])} images, {len(content['annotations'])} objects")
    counts = count_objects(plan)
    lines += [f'    {part}' for part in wrapped('classes ' + ', '.join(f'{name} ({counts[name]})' for name in plan.classes))]
    lines += ['', f'    detkit doctor {command}', f'    detkit train {command}', '']
    return '\n'.join(lines).replace('\\', '\\\\').replace('"""', "'''")


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 112, subsequent_indent=' ' * 8, break_long_words=False)


def count_objects(plan: Plan) -> Counter:
    """Return the number of objects of each class in train."""
    content = plan.splits['train'].content
    names = {c['id']: c['name'] for c in content['categories']}
    return Counter(names[a['category_id']] for a in content['annotations'])


def size_text(content: dict) -> str:
    sizes = Counter((i['width'], i['height']) for i in content['images'])
    (width, height), count = sizes.most_common(1)[0]
    return f'{width}x{height}' if count == len(content['images']) else f'{width}x{height} and other sizes'
