"""The command-line commands for datasets; detkit.cli has the other commands."""
from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

YOLO_SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Command:
    help: str                                          # one line
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]    # returns the exit status; None means 0
    example: str = ''


def add_config(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('config', metavar='CONFIG', help='config file, or the name of a shipped one (rtmdet_tiny_8xb32-300e_coco)')


def add_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                     help='override settings of the config: optim_wrapper.optimizer.lr=0.01 data_root=/data/coco/ '
                          '"custom_hooks=[dict(type=EMAHook)]". Values are literals; words without quotes are strings.')


def download_dataset_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('name', metavar='NAME', help='data set; --list names them')
    sub.add_argument('--data-root', metavar='DIR', help='folder of data sets (default: $DETKIT_DATA_ROOT, or data)')
    sub.add_argument('--url', default='', help='fetch the archive from here instead')
    sub.add_argument('--keep-archive', action='store_true', help='keep the downloaded archive')
    sub.add_argument('--list', action=ListDatasets, nargs=0, help='name the known data sets and exit')


class ListDatasets(argparse.Action):

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        from detkit.data.known import KNOWN
        for name, source in KNOWN.items():
            print(f'{name:12} {source.size_mb} MB, {source.licence}, {source.homepage}')
        parser.exit()


def download_dataset(args: argparse.Namespace) -> int:
    from detkit.data.known import download_dataset as run
    folder = run(args.name, args.data_root, args.url, args.keep_archive)
    print(f'{args.name} is at {folder}')
    return 0


def make_dataset_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('folder', metavar='DIR', nargs='?', help='folder to write (default: shapes in $DETKIT_DATA_ROOT, or data/shapes)')
    sub.add_argument('--num-train', type=int, default=1000, metavar='N', help='training images (default: 1000)')
    sub.add_argument('--num-val', type=int, default=100, metavar='N', help='validation images (default: 100)')
    sub.add_argument('--size', type=int, default=128, metavar='PIXELS', help='side of the square images in pixels (default: 128)')
    sub.add_argument('--max-objects', type=int, default=7, metavar='N', help='maximum number of objects in an image (default: 7)')
    sub.add_argument('--seed', type=int, default=0, help='random seed; the same seed gives the same files (default: 0)')


def make_dataset(args: argparse.Namespace) -> int:
    from detkit.data.known import default_root
    from detkit.data.synthetic import generate
    paths = generate(args.folder or default_root() / 'shapes', args.num_train, args.num_val, args.size, args.max_objects, args.seed)
    print(f"shapes are at {paths['root']}")
    return 0


def cache_dataset_arguments(sub: argparse.ArgumentParser) -> None:
    add_config(sub)
    sub.add_argument('--split', nargs='+', choices=['train', 'val', 'test'], default=['train', 'val'],
                     help='splits to cache (default: train val)')
    sub.add_argument('--store', choices=['decoded', 'encoded'], help='arrays as they are before the first random transform, or the '
                                                                     "image files' bytes (default: the config's, else decoded)")
    sub.add_argument('--dir', metavar='DIR', help="folder of the cache (default: the config's, else .detkit_cache in the data root)")
    sub.add_argument('--workers', type=int, metavar='N', help='number of processes (default: one for each core)')
    sub.add_argument('--verify', action='store_true', help='read every record and rebuild damaged ones')
    sub.add_argument('--clean', action='store_true', help='remove what other settings left in the same place')
    sub.add_argument('--advise', action='store_true', help='build nothing; time files, encoded and decoded cache on this machine')
    add_options(sub)


def cache_dataset(args: argparse.Namespace) -> int:
    from detkit.config import load_config
    cfg = load_config(args.config, args.cfg_options)
    from detkit.engine.caching import advise, cache_datasets
    if args.advise:
        advise(cfg, args.split[0])
        return 0
    settings = {k: v for k, v in dict(store=args.store, dir=args.dir, workers=args.workers).items() if v is not None}
    cache_datasets(cfg, args.split, settings, args.verify, args.clean)
    return 0


# ---------------------------------------------------------------------------------------------------------- dataset ...
def dataset_arguments(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(dest='action', metavar='ACTION', required=True)
    convert = actions.add_parser('convert', help='from COCO, VOC, YOLO, CSV or odgt to COCO, VOC or YOLO',
                                 description='Several splits are given as train=PATH val=PATH; of YOLO, --split names them.')
    add_sources(convert, '+')
    convert.add_argument('out', metavar='OUT', help='a new folder, or for COCO a .json')
    convert.add_argument('--to', choices=['coco', 'voc', 'yolo'], required=True, help='the new format')
    convert.add_argument('--place', choices=['none', 'copy', 'link'], default='none',
                         help='copy the images of --images into the new data set, link to them, or leave them (default: none)')
    convert.add_argument('--lossy', action='store_true', help='drop what the new format cannot hold; without it that is an error')
    stats = actions.add_parser('stats', help='count images, objects, sizes and classes')
    add_sources(stats, 1)
    stats.add_argument('--json', metavar='FILE', help='write the numbers there as well')
    parts = actions.add_parser('split', help='into parts with the same share of each class')
    add_sources(parts, 1)
    parts.add_argument('out', metavar='DIR', help='folder for NAME.json of each part')
    parts.add_argument('--shares', nargs='+', default=['train=0.8', 'val=0.1', 'test=0.1'], metavar='NAME=SHARE',
                       help='share of the images in each part; shares add up to 1 (default: train=0.8 val=0.1 test=0.1)')
    merge = actions.add_parser('merge', help='several files to one; classes are matched by name')
    add_sources(merge, '+')
    merge.add_argument('out', metavar='OUT.json')
    merge.add_argument('--prefixes', nargs='+', metavar='DIR', help='folder put before the file names of each')
    sample = actions.add_parser('sample', help='some of the images, chosen at random')
    add_sources(sample, 1)
    sample.add_argument('out', metavar='OUT.json')
    sample.add_argument('--count', type=int, metavar='N', help='how many images')
    sample.add_argument('--share', type=float, metavar='SHARE', help='or which share of them')
    subset = actions.add_parser('subset', help='some of the classes')
    add_sources(subset, 1)
    subset.add_argument('out', metavar='OUT.json')
    subset.add_argument('--classes', nargs='+', metavar='NAME', help='classes to keep, in this order (default: all)')
    subset.add_argument('--drop-empty', action='store_true', help='leave out images without an object of these classes')
    for action in (parts, sample):
        action.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')


def add_sources(sub: argparse.ArgumentParser, count: int | str) -> None:
    sub.add_argument('sources', nargs=count, metavar='SOURCE', help='COCO .json, folder of VOC XML, data.yaml, .csv or .odgt')
    sub.add_argument('--from', dest='kind', choices=['coco', 'voc', 'yolo', 'csv', 'odgt'], help='format of SOURCE (default: by its name)')
    sub.add_argument('--images', metavar='DIR', help='folder of the images; needed if the annotations do not have their sizes')
    sub.add_argument('--split', nargs='+', metavar='SPLIT',
                     help='split to read from a data.yaml (default: the NAME of NAME=PATH, else train)')
    sub.add_argument('--voc-offset', type=int, choices=[0, 1], default=1,
                     help='number of the first pixel in VOC files (default: 1, as in MMDetection; many tools write 0)')


def dataset(args: argparse.Namespace) -> int:
    from detkit.data import edit
    from detkit.data.classes import similar_names
    from detkit.data.exchange import what_is_lost, write_annotations
    from detkit.files import write_json
    contents = read_sources(args)
    first = next(iter(contents.values()))
    if args.action == 'stats':
        found = edit.statistics(first)
        print(edit.statistics_text(found))
        if args.json:
            write_json(args.json, found, indent=1)
        return 0
    for name, other in similar_names(list(dict.fromkeys(c['name'] for content in contents.values() for c in content['categories']))):
        print(f"note: '{name}' and '{other}' differ in spelling alone and stay two classes.")
    if args.action == 'convert':
        print(f'written: {write_annotations(contents, args.out, args.to, args.images, args.place, args.voc_offset, args.lossy)}')
        for line in what_is_lost(contents, args.to, args.voc_offset):         # without --lossy, this was already an error
            print(f'not kept: {line}')
        return 0
    if args.action == 'split':
        made = {Path(args.out) / f'{name}.json': part for name, part in edit.split(first, shares_of(args.shares), args.seed).items()}
    elif args.action == 'merge':
        if args.prefixes and len(args.prefixes) != len(contents):
            raise ValueError(f'--prefixes names {len(args.prefixes)} folders for {len(contents)} sources. Give one each.')
        made = {Path(args.out): edit.merge(list(contents.values()), args.prefixes)}
    elif args.action == 'sample':
        if (args.count is None) == (args.share is None):
            raise ValueError('sample needs one of --count and --share.')
        count = args.count if args.count is not None else round(args.share * len(first['images']))
        made = {Path(args.out): edit.sample(first, count, args.seed)}
    else:
        made = {Path(args.out): edit.subset(first, args.classes, args.drop_empty)}
    check_not_source(made, args.sources)
    for path, content in made.items():
        write_json(path, content)
        print(f"{path}: {len(content['images'])} images, {len(content['annotations'])} objects")
    return 0


def check_not_source(paths: Iterable[Path], sources: Sequence[str]) -> None:
    """Raise ValueError if an output file is also an input file, because data that the output leaves out would be lost."""
    for path in paths:
        for source in sources:
            if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
                raise ValueError(f'{path} is the source itself, and what is left out would be lost. Choose another name.')


def read_sources(args: argparse.Namespace) -> dict[str, dict]:
    """Return COCO dicts by split, or by the number of the source if splits are not used."""
    from detkit.data.exchange import guess_format, read_annotations
    found = {}
    for n, given in enumerate(args.sources):
        name, equals, path = given.partition('=')
        is_named = bool(equals) and args.action == 'convert'
        name, path = (name, path) if is_named else (f'part{n}' if len(args.sources) > 1 else 'train', given)
        splits = [name]
        if (args.kind or guess_format(Path(path))) == 'yolo':
            splits = args.split or [name if is_named and name in YOLO_SPLITS else 'train']
            if len(splits) > 1 and (is_named or len(args.sources) > 1):
                raise ValueError(f'--split {" ".join(splits)} names the splits of one data.yaml. Of several sources write train=PATH '
                                 f'val=PATH, each with its own.')
            if not is_named and len(args.sources) == 1:
                name = None                              # the parts have the names of the splits
        for split in splits:
            if (name or split) in found:
                raise ValueError(f"'{name or split}' stands twice; the second would take the place of the first. Join them before: "
                                 f'detkit dataset merge.')
            found[name or split] = read_annotations(path, args.kind, args.images, split, args.voc_offset)
    return found


def shares_of(words: list[str]) -> dict[str, float]:
    try:
        shares = [(name, float(share)) for name, _, share in (w.partition('=') for w in words)]
    except ValueError:
        raise ValueError(f"--shares takes NAME=SHARE, as train=0.8 val=0.2, not {' '.join(words)}.") from None
    names = [name for name, _ in shares]
    if len(set(names)) < len(names) or any(not name or name != os.path.basename(name) for name in names):
        raise ValueError(f"--shares names the parts {', '.join(map(repr, names))}. Each needs a name of its own, without '/': it becomes "
                         f'NAME.json.')
    return dict(shares)


# --------------------------------------------------------------------------------------------------------- new-config
def new_config_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--data', nargs='+', required=True, metavar='FOLDER_OR_FILE',
                     help='folder of the data set, or an annotation file: COCO .json, data.yaml, .csv, folder of VOC XML; '
                          'or train=FILE val=FILE test=FILE')
    sub.add_argument('--model', metavar='NAME', help='shipped recipe or config file to start from (default: a small RTMDet)')
    sub.add_argument('--out', default='my.py', metavar='FILE', help='the new config (default: my.py)')
    sub.add_argument('--format', choices=['coco', 'yolo', 'voc', 'csv'], help='format of the annotations (default: found by itself)')
    sub.add_argument('--images', metavar='DIR', help='folder of the images, if it is not found by itself')
    sub.add_argument('--no-doctor', action='store_true', help='do not look for faults of data and config')
    sub.add_argument('--force', action='store_true', help='overwrite --out, and annotation files written beside it')


def new_config(args: argparse.Namespace) -> int:
    from detkit.newconfig import new_config as run
    outcome = run(args.data, args.model, args.out, args.format, args.images, not args.no_doctor, args.force)
    return int(outcome.report is not None and outcome.report.worst == 'fault')


# ------------------------------------------------------------------------------------------------------------- doctor
def doctor_arguments(sub: argparse.ArgumentParser) -> None:
    add_config(sub)
    sub.add_argument('--split', nargs='+', choices=['train', 'val', 'test'], default=['train', 'val', 'test'],
                     help='splits to look at (default: all)')
    sub.add_argument('--out', metavar='DIR', default='work_dirs/doctor',
                     help='write report.html and report.json there (default: work_dirs/doctor)')
    sub.add_argument('--fix', metavar='DIR',
                     help='write repaired annotations (SPLIT.json) and the list of changes (SPLIT_changes.json) there')
    sub.add_argument('--no-model', action='store_true', help='look at the data and the files that the config names, and build no model')
    sub.add_argument('--no-probe', action='store_true', help='do not train for a few steps')
    add_options(sub)


def doctor(args: argparse.Namespace) -> int:
    from detkit.config import load_config
    cfg = load_config(args.config, args.cfg_options)
    from detkit.doctor import doctor as run
    report = run(cfg, None, args.split, args.out, args.fix, not args.no_model, not args.no_probe, progress=True, say=print)
    print(report.text())
    print(f'pictures and numbers: {args.out}/report.html, {args.out}/report.json')
    if args.fix:
        print(f'repaired: {args.fix}; detkit new-config --data {args.fix} --images FOLDER_OF_IMAGES writes a config for it')
    return int(report.worst == 'fault')


# ------------------------------------------------------------------------------------------------------------- browse
def browse_arguments(sub: argparse.ArgumentParser) -> None:
    add_config(sub)
    sub.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='split to show (default: train)')
    sub.add_argument('--count', type=int, default=24, metavar='N', help='samples, spread over the data set (default: 24)')
    sub.add_argument('--output-dir', metavar='DIR', default='work_dirs/browse', help='write index.html and its pictures there (default: '
                                                                                    'work_dirs/browse)')
    sub.add_argument('--epoch', type=int, default=0, metavar='N', help='epoch whose augmentation is shown (default: 0)')
    sub.add_argument('--seed', type=int, default=0, help='random seed; the seed of a run shows what that run sees (default: 0)')
    sub.add_argument('--not-show', action='store_true', help='do not open the page in a browser')
    add_options(sub)


def browse(args: argparse.Namespace) -> int:
    from detkit.config import load_config
    cfg = load_config(args.config, args.cfg_options)
    from detkit.doctor.gallery import browse as run
    print(f'samples: {run(cfg, args.split, args.count, args.output_dir, args.epoch, args.seed, show=not args.not_show)}')
    return 0


DATA_COMMANDS: dict[str, Command] = {
    'download-dataset': Command('Fetch a public data set, check it and bring it into COCO format.', download_dataset_arguments,
                                download_dataset, '''
        detkit download-dataset bccd
        detkit download-dataset bccd --data-root /data'''),
    'make-dataset': Command('Draw the data set of textured shapes that the quickstart trains on.', make_dataset_arguments,
                            make_dataset, '''
        detkit make-dataset data/shapes'''),
    'cache-dataset': Command('Keep samples on disk up to the first random transform, so that training need not decode them again.',
                             cache_dataset_arguments, cache_dataset, '''
        detkit cache-dataset rtmdet_nano_bccd
        detkit cache-dataset rtmdet_nano_bccd --advise
        detkit train rtmdet_nano_bccd --cfg-options "train_dataloader.dataset.cache=dict(type=lmdb)"'''),
    'new-config': Command('Look at your data and write a short config that trains on them; status 1 when the doctor finds a fault.',
                          new_config_arguments, new_config, '''
        detkit new-config --data data/bccd --out my.py
        detkit new-config --data my_export/data.yaml --model faster-rcnn_r50_fpn_1x_coco
        detkit new-config --data train=a.json val=b.json --images pictures --out my.py'''),
    'doctor': Command('Look for faults of data and config before a run; status 1 when there is one that would spoil it.',
                      doctor_arguments, doctor, '''
        detkit doctor rtmdet_nano_bccd
        detkit doctor my_config.py --no-model --fix data/mine_repaired'''),
    'browse-dataset': Command('Show what the pipeline makes of images, transform by transform: a page with boxes and masks.',
                              browse_arguments, browse, '''
        detkit browse-dataset rtmdet_nano_bccd
        detkit browse-dataset my_config.py --split val --count 60 --not-show'''),
    'dataset': Command('Convert, count, split, merge, sample annotation files.', dataset_arguments, dataset, '''
        detkit dataset stats data/bccd/annotations/train.json
        detkit dataset convert train=data/bccd/annotations/train.json val=data/bccd/annotations/val.json data/bccd_yolo \\
            --to yolo --images data/bccd/images --place copy
        detkit dataset convert my_voc/Annotations all.json --to coco
        detkit dataset split all.json data/mine --shares train=0.8 val=0.2
        detkit dataset subset all.json cats.json --classes cat --drop-empty'''),
}
