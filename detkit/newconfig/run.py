"""Create a config from a folder of data."""
from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detkit.data.discover import FoundData, Split, common_folder, find_dataset
from detkit.doctor import doctor
from detkit.doctor.findings import Report
from detkit.files import atomic_path, write_json
from detkit.newconfig.numbers import choose_numbers
from detkit.newconfig.recipe import Recipe, default_model, read_recipe
from detkit.newconfig.splits import class_names, complete_splits, share_with_masks, with_all_classes
from detkit.newconfig.text import Plan, text_of
from detkit.registry import ConfigError, register_all_modules


@dataclass(frozen=True)
class Outcome:
    config: Path
    annotations: tuple[Path, ...]     # files written for splits
    report: Report | None             # of the doctor


def new_config(data: str | os.PathLike | Sequence[str], model: str | None = None, out: str | os.PathLike = 'my.py',
               kind: str | None = None, images: str | os.PathLike | None = None, run_doctor: bool = True, force: bool = False,
               say: Callable[[str], None] = print) -> Outcome:
    """Read ``data`` and write a config that trains on it.

    Args:
        data: a folder or an annotation file, or ``['train=FILE', 'val=FILE', 'test=FILE']``.
        model: a shipped recipe or a config file; None: a small one, chosen by whether there is a GPU.
        out: the new file. Annotations of splits without a file are written beside it, as ``my_train.json``.
        kind: annotation format (coco, yolo, voc, csv); None: detect it. images: image folder, if it cannot be found.
        run_doctor: check the data and the config, and show the findings. force: overwrite existing files.
        say: called with each line for the user.

    Raises:
        ConfigError: the model cannot be used, or ``out`` exists. ValueError: the data cannot be used; the message says why.
    """
    register_all_modules(init_default_scope=True)
    out = Path(os.path.abspath(os.path.expanduser(out)))
    if out.suffix != '.py':
        raise ConfigError(f'--out {out}: a config that this command writes ends in .py.')
    check_absent([out], force)
    on_gpu = torch.cuda.is_available()
    recipe = read_recipe(model or default_model(on_gpu), out)
    found = find_dataset([data] if isinstance(data, (str, os.PathLike)) else data, kind, images)
    for note in found.notes:
        say(f'note: {note}')
    plan = make_plan(found, recipe, out, on_gpu, say)
    written = {plan.written_file(name): split.content for name, split in plan.splits.items() if split.dataset is None}
    check_absent(list(written), force)
    for path, content in written.items():
        write_json(path, content)
    with atomic_path(out) as temporary:
        temporary.write_text(text_of(plan), encoding='utf-8')
    for line in summary(plan, found.format, list(written)):
        say(line)
    report = None
    if run_doctor:
        say('doctor: looking at images, annotations and the config (--no-doctor leaves it out)')
        folder = Path('work_dirs') / 'doctor' / out.stem
        report = doctor(str(out), probe=False, out=folder, progress=True)
        say(f"{report.text(levels=('fault', 'warning'))} All of them, with images: {folder}/report.html")
    say(next_commands(plan))
    return Outcome(out, tuple(written), report)


def check_absent(paths: Sequence[Path], force: bool) -> None:
    """Raise ConfigError if a file would be overwritten."""
    existing = next((path for path in paths if path.exists()), None)
    if existing and not force:
        raise ConfigError(f'{existing} exists. Choose another --out, or overwrite it with --force.')


def make_plan(found: FoundData, recipe: Recipe, out: Path, on_gpu: bool, say: Callable[[str], None]) -> Plan:
    """Decide the content of the new file.

    Raises:
        ValueError: no objects, no masks for a model with masks, too few images.
    """
    splits = complete_splits(found, say)
    classes = class_names(found.format, splits)
    splits = with_all_classes(splits, classes, say)
    for name, split in splits.items():
        if split.faults:
            say(f'note: {len(split.faults)} entries of {name} are at fault and left out; the first: {split.faults[0]}')
    masks = share_with_masks(splits)
    if recipe.with_masks and masks == 0:
        raise ValueError(f"{splits['train'].source}: none of its objects has a mask, which {recipe.base} learns. Choose a model of boxes, "
                         f'or give masks (segmentation in COCO files, polygons in YOLO files).')
    if recipe.with_masks:
        if masks < 1:
            say(f'note: {1 - masks:.1%} of the objects in train have no mask.')
        splits = {name: to_be_written(split) for name, split in splits.items()}
    elif masks == 1 and found.format in ('coco', 'yolo'):
        say('note: the objects have masks; --model rtmdet-ins_tiny_8xb32-300e_coco or mask-rcnn_r50_fpn_1x_coco learns them.')
    numbers = recipe.kept(choose_numbers(splits['train'].content, recipe.batch_size, recipe.pretrained, on_gpu))
    root = common_folder(found.root, [s.images for s in splits.values()])
    kept = [name for name in ('image_size', 'max_iters' if recipe.counts_iterations else 'max_epochs') if not recipe.has(name)]
    if kept:
        say(f"note: {recipe.base} has no variable {' nor '.join(kept)}: it keeps its own.")
    return Plan(recipe, root, splits, classes, numbers, out)


def to_be_written(split: Split) -> Split:
    """Mark a split without a COCO file for writing one: mask metrics need a COCO file."""
    return split if split.dataset and split.dataset['type'] == 'CocoDataset' else replace(split, dataset=None)


def summary(plan: Plan, found_format: str, written: list[Path]) -> list[str]:
    numbers, name_of = plan.numbers, plan.recipe.base
    lines = [f'found: {found_format.upper()} in {plan.root}']
    for name, split in plan.splits.items():
        place = plan.written_file(name) if split.dataset is None else split.source
        lines.append(f"  {name:6}{len(split.content['images'])} images, {len(split.content['annotations'])} objects  {place}"
                     + ('  (written)' if place in written else ''))
    more = ', ...' if len(plan.classes) > 20 else ''
    lines.append(f"  {len(plan.classes)} class{'es' if len(plan.classes) > 1 else ''}: {', '.join(plan.classes[:20])}{more}")
    size = f"input {'x'.join(map(str, numbers.image_size))}, " if plan.recipe.has('image_size') else ''
    lines.append(f'wrote {plan.out}: {name_of}, {size}{numbers.max_epochs} epochs, batches of {numbers.batch_size}')
    return lines


def next_commands(plan: Plan) -> str:
    """Return the next commands to run, with paths relative to the current folder."""
    here = Path.cwd()
    config = str(plan.out.relative_to(here) if plan.out.is_relative_to(here) else plan.out)
    last = f'iter_{plan.max_iters}' if plan.recipe.counts_iterations else f'epoch_{plan.numbers.max_epochs}'
    checkpoint = f'work_dirs/{plan.out.stem}/{last}.pth'
    val = plan.splits['val']
    image = val.images / val.content['images'][0]['file_name']
    commands = [['doctor', config], ['train', config], ['test', config, checkpoint, '--show-dir', 'pictures'],
                ['infer', str(image), config, checkpoint]]
    return 'next:\n' + '\n'.join(f"  detkit {' '.join(map(shlex.quote, words))}" for words in commands)
