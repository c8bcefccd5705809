"""Find the detection dataset in a folder: its format, its splits and its image folders. The folder is not changed.

Supported: COCO JSON, YOLO (``data.yaml``, or labels with a list of names), Pascal VOC XML and CSV, in the layouts in which they are
published and in which Roboflow and CVAT export them. Splits are recognised by file and folder names.
"""
from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detkit.data.exchange import guess_format, read_voc_folder
from detkit.data.formats.coco import coco_dict
from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.formats.pictures import SUFFIXES, pictures_below, size_of
from detkit.data.formats.table import CORNERS, rows_of
from detkit.data.formats.yolo import label_file, read_labels, read_names
from detkit.files import find_data
from detkit.registry import DATASETS

CHANGE_COLUMNS = {'action', 'reason'}              # columns of a table of changes to objects: changes.csv of detkit's downloadable datasets
FORMATS = ('coco', 'yolo', 'voc', 'csv')           # in order of preference, if a folder holds one dataset in several formats
SPLITS = ('train', 'val', 'test')
WHOLE = 'all'                                      # the split of annotations whose name contains no split word
SPLIT_WORDS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test',
               'testing': 'test'}
MAX_DEPTH, MAX_FOLDERS = 4, 5000                   # limits of the search
SNIFF_BYTES = 1 << 16
SAMPLED_NAMES = 20                                 # file names used to find the image folder
NAME_LISTS = ('classes.txt', 'obj.names', 'labels.txt', '_darknet.labels')


class NoData(ValueError):
    """No dataset was found, or more than one; the message says where and what was searched."""


@dataclass
class Split:
    """The annotations of one split.

    ``content``: COCO dict of its valid entries, file names relative to ``images``. ``dataset``: arguments of the dataset that reads it
    (``type``, ``ann_file``, ...; absolute paths). None: no dataset class reads this layout, so it must be converted to a COCO file.
    """

    source: Path                                   # annotation file or folder, for messages
    images: Path
    content: dict
    dataset: dict[str, Any] | None
    faults: list[str] = field(default_factory=list)     # errors of entries that were left out


def common_folder(annotations: Path, images: Sequence[Path]) -> Path:
    """Return the common parent folder of ``annotations`` and the image folders; ``annotations`` if that parent is the disk's root."""
    common = Path(os.path.commonpath([annotations, *images]))
    return annotations if common == Path(common.anchor) else common


@dataclass
class FoundData:
    format: str
    splits: dict[str, Split]                       # keys: 'train', 'val', 'test', or 'all'
    notes: list[str] = field(default_factory=list)      # information for the user about the choice

    @property
    def root(self) -> Path:
        """Return the innermost folder with all annotations and images, or only with the annotations if images are on another path."""
        places = [s.source if s.source.is_dir() else s.source.parent for s in self.splits.values()]
        return common_folder(Path(os.path.commonpath(places)), [s.images for s in self.splits.values()])


@dataclass
class Tree:
    """The folders and files in ``root``, without hidden ones (and macOS ``._`` files)."""

    root: Path
    folders: list[Path]
    files: list[Path]

    @classmethod
    def below(cls, root: Path) -> Tree:
        folders, files = [], []
        for folder, names, found in os.walk(root, followlinks=True):
            depth = len(Path(folder).relative_to(root).parts)
            names[:] = sorted(n for n in names if not n.startswith('.') and n != '__MACOSX') if depth < MAX_DEPTH else []
            folders.append(Path(folder))
            files += [Path(folder, n) for n in sorted(found) if not n.startswith('.')]
            if len(folders) > MAX_FOLDERS:
                raise NoData(f'{root}: more than {MAX_FOLDERS} folders lie below it. Name the folder of one data set, or its '
                             f'annotation file.')
        return cls(root, folders, files)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        return [f for f in self.files if f.suffix.lower() in suffixes]


# ---------------------------------------------------------------------------------------------------------- the search
def find_dataset(sources: Sequence[str | os.PathLike], kind: str | None = None, images: str | os.PathLike | None = None) -> FoundData:
    """Find the dataset that ``sources`` name and read its annotations.

    Args:
        sources: one folder or annotation file, or ``train=FILE``, ``val=FILE``, ``test=FILE``.
        kind: one of FORMATS; None: detect it. images: image folder, if it cannot be found.

    Raises:
        NoData: nothing was found, or several candidates; the message lists them.
        BrokenAnnotations: a file cannot be used.
    """
    given = Path(os.path.abspath(os.path.expanduser(images))) if images else None
    if given and not given.is_dir():
        raise NoData(f'--images {images}: there is no such folder.')
    named = dict(s.split('=', 1) for s in map(str, sources) if '=' in s and s.split('=', 1)[0] in SPLITS)
    if named and len(named) == len(sources):
        return from_files({split: existing(path) for split, path in named.items()}, kind, given)
    if len(sources) != 1:
        raise NoData(f'--data takes one folder or file, or train=FILE val=FILE test=FILE, not {" ".join(map(str, sources))}.')
    source = existing(sources[0])
    if source.is_file():
        return from_files(with_siblings(source), kind, given)
    return from_folder(source, kind, given)


def existing(path: str | os.PathLike) -> Path:
    """Return the absolute ``path``, also searched in ``$DETKIT_DATA_ROOT``.

    Raises:
        NoData: it does not exist.
    """
    found = find_data(os.path.expanduser(path))
    if not found.exists():
        more = f', nor below DETKIT_DATA_ROOT={os.environ["DETKIT_DATA_ROOT"]}' if os.environ.get('DETKIT_DATA_ROOT') else ''
        raise NoData(f'--data {path}: there is no such folder or file{more}.')
    return Path(os.path.abspath(found))


def with_siblings(file: Path) -> dict[str, Path]:
    """Return ``file`` and the files beside it whose names differ only in the split word, by split."""
    split = split_of_name(file.stem)
    if split is None:
        return {WHOLE: file}
    pattern = without_split(file.stem)
    beside = [f for f in sorted(file.parent.iterdir()) if f.suffix == file.suffix and f.is_file() and without_split(f.stem) == pattern]
    found = {split_of_name(f.stem): f for f in beside if split_of_name(f.stem)}
    return {s: found[s] for s in SPLITS if s in found} | {split: file}


def split_of_name(name: str) -> str | None:
    """Return the split that the words of ``name`` contain; None if there is none or several."""
    words = [w.lower() for w in re.findall(r'[A-Z]?[a-z]+|[A-Z]+', name)]
    found = {SPLIT_WORDS[w] for w in words if w in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def without_split(name: str) -> str:
    return re.sub(r'[A-Za-z]+', lambda m: '*' if m[0].lower() in SPLIT_WORDS else m[0], name)


def split_of(path: Path, root: Path) -> str:
    """Return the split from the name of a file or of the folders between it and ``root``; WHOLE if no name contains one."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-1:]
    return next((s for s in map(split_of_name, (Path(parts[-1]).stem if parts else '', *reversed(parts[:-1]))) if s), WHOLE)


def from_files(files: dict[str, Path], kind: str | None, images: Path | None) -> FoundData:
    """Return the dataset of one annotation file per split."""
    first = next(iter(files.values()))
    try:
        kind = kind or guess_format(first)
    except ValueError:
        raise NoData(f'{first}: is no annotation file that is known. Known: a COCO .json, a data.yaml, a .csv, a folder of VOC XML '
                     f'files.') from None
    if kind not in FORMATS:
        raise NoData(f"{first}: the format '{kind}' is not among those that this command reads: {', '.join(FORMATS)}. 'detkit dataset "
                     f"convert' makes COCO of it.")
    if kind == 'yolo':
        return from_yaml(first)
    if kind == 'voc':
        parents = {s: f if f.is_dir() else f.parent for s, f in files.items()}
        return FoundData('voc', {s: voc_split(f, Tree.below(f.parent), images) for s, f in parents.items()})
    return read_splits(kind, files, lambda file, split: SPLIT_READERS[kind](file, split, Tree.below(file.parent), images))


def read_splits(kind: str, files: dict[str, Path], read: Callable[[Path, str], Split]) -> FoundData:
    """Return the splits that ``read`` reads; a test split that cannot be used is left out with a note."""
    found = FoundData(kind, {})
    for split, file in files.items():
        try:
            found.splits[split] = read(file, split)
        except (BrokenAnnotations, NoData) as error:
            if split != 'test' or len(files) == 1:
                raise
            found.notes.append(f'test is left out: {error}')
    return found


def from_folder(folder: Path, kind: str | None, images: Path | None) -> FoundData:
    """Return the dataset in a folder, in the first format found."""
    tree = Tree.below(folder)
    candidates = {k: v for k, v in dict(coco=coco_files(tree), yolo=yaml_files(tree) or name_lists(tree), voc=xml_folders(tree),
                                        csv=csv_files(tree)).items() if v}
    if kind:
        candidates = {k: v for k, v in candidates.items() if k == kind}
    if not candidates:
        raise NoData(nothing_found(tree, kind))
    kind, *others = candidates
    found = {'coco': from_coco, 'yolo': from_yolo, 'voc': from_voc, 'csv': from_csv}[kind](tree, candidates[kind], images)
    for other in others:
        first = candidates[other][0]
        found.notes.append(f'{other.upper()} annotations are there too ({first.relative_to(folder)}); --format {other} takes them.')
    return found


def nothing_found(tree: Tree, kind: str | None) -> str:
    counts: dict[str, int] = {}
    for file in tree.files:
        counts[file.suffix.lower() or 'no suffix'] = counts.get(file.suffix.lower() or 'no suffix', 0) + 1
    seen = ', '.join(f'{n} {suffix}' for suffix, n in sorted(counts.items(), key=lambda c: -c[1])[:6]) or 'no file'
    what = {'coco': 'a COCO .json with images, annotations, categories',
            'yolo': "a data.yaml with 'names' (or label files with classes.txt)", 'voc': "VOC's .xml files",
            'csv': 'a .csv with the columns file, x1, y1, x2, y2, class'}
    looked = what[kind] if kind else '; '.join(what.values())
    return (f'{tree.root}: no annotations found. Looked in {len(tree.folders)} folder(s) for: {looked}. There is: {seen}. '
            f'docs/own_data.md shows the layouts.')


def several(tree: Tree, what: str, paths: Iterable[Path]) -> NoData:
    names = [str(p.relative_to(tree.root)) for p in paths]
    listed = ', '.join(names[:6]) + (f' and {len(names) - 6} more' if len(names) > 6 else '')
    return NoData(f'{tree.root}: several candidates for {what}: {listed}. Name one: --data FOLDER_OR_FILE, or --data train=FILE val=FILE.')


def one_per_split(tree: Tree, files: Sequence[Path]) -> dict[str, Path]:
    """Return the files by split.

    Raises:
        NoData: two files belong to one split.
    """
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file, tree.root), []).append(file)
    if len(by_split) > 1:
        by_split.pop(WHOLE, None)                      # beside files with split names, a file without one is something else
    for split, paths in by_split.items():
        if len(paths) > 1:
            raise several(tree, 'the annotations' if split == WHOLE else split, paths)
    return {s: by_split[s][0] for s in (*SPLITS, WHOLE) if s in by_split}


# ------------------------------------------------------------------------------------------------------------- images
def image_folder(names: Sequence[str], tree: Tree, split: str, given: Path | None, source: Path, stems: bool = False) -> Path:
    """Return the folder that contains most of ``names``: ``given``, or a folder in ``tree.root`` or its parent.

    ``stems``: the names have no suffix.

    Raises:
        NoData: none of the names is found.
    """
    step = max(len(names) // SAMPLED_NAMES, 1)
    sampled = list(names)[::step][:SAMPLED_NAMES]

    def found_in(folder: Path) -> int:
        return sum(bool(picture_of(folder, n)) if stems else (folder / n).is_file() for n in sampled)

    def nearest_first(folders: list[Path], root: Path) -> list[Path]:
        """Sort folders by the length of the path shared with the annotations: other datasets may have copies of the images."""
        return sorted(folders, key=lambda f: (-len(Path(os.path.commonpath([f, source])).parts), split_of(f, root) != split,
                                              len(Path(os.path.relpath(f, source)).parts)))
    best = given or max(nearest_first(tree.folders, tree.root), key=found_in)
    if not found_in(best) and not given:
        best = max(nearest_first(nearby(tree.root.parent), tree.root.parent), key=found_in)
    if sampled and not found_in(best):
        where = str(given) if given else f'{tree.root} and its folders, nor beside it'
        raise NoData(f"{source}: its images (first: '{sampled[0]}') are not in {where}. Name their folder: --images DIR.")
    return best


def nearby(root: Path) -> list[Path]:
    """Return ``root`` and its subfolders up to two levels deep, at most MAX_FOLDERS."""
    found = [root]
    for folder in found:
        if len(folder.relative_to(root).parts) < 2 and len(found) < MAX_FOLDERS:
            try:
                found += sorted(Path(e.path) for e in os.scandir(folder) if e.is_dir() and not e.name.startswith('.'))
            except PermissionError:
                continue
    return found


def picture_of(folder: Path, stem: str) -> Path | None:
    """Return the image with this ``stem`` and any known suffix, or None."""
    return next((p for s in SUFFIXES for p in (folder / (stem + s), folder / (stem + s.upper())) if p.is_file()), None)


# --------------------------------------------------------------------------------------------------------------- COCO
def coco_files(tree: Tree) -> list[Path]:
    """Return COCO files of objects, without captions, keypoints and results; only ``instances_...`` if there are such names."""
    files = [f for f in tree.with_suffix('.json') if looks_like_coco(f)]
    instances = [f for f in files if f.stem.startswith('instances')]
    return instances or [f for f in files if not f.stem.startswith(('captions', 'person_keypoints', 'panoptic', 'stuff', 'image_info'))]


def looks_like_coco(file: Path) -> bool:
    """Return whether a file is a COCO file, from its first and last bytes: large files of other kinds need not be read."""
    with open(file, 'rb') as stream:
        head = stream.read(SNIFF_BYTES)
        stream.seek(max(file.stat().st_size - SNIFF_BYTES, 0))
        text = head + stream.read()
    return head.lstrip(b'\xef\xbb\xbf \r\n\t').startswith(b'{') and b'"segments_info"' not in text and \
        any(key in text for key in (b'"images"', b'"annotations"', b'"categories"')) and b'"shapes"' not in text


def from_coco(tree: Tree, files: list[Path], images: Path | None) -> FoundData:
    """Return the dataset of COCO files; files in the folder ``annotations`` are preferred."""
    usual = [f for f in files if f.parent == tree.root / 'annotations']
    others = [f for f in files if f not in usual] if usual else []
    chosen = one_per_split(tree, usual or files)
    found = read_splits('coco', chosen, lambda file, split: coco_split(file, split, tree, images))
    if others:
        found.notes.insert(0, f'annotations/ is taken; {others[0].relative_to(tree.root)} is left out.')
    return found


def coco_split(file: Path, split: str, tree: Tree, images: Path | None) -> Split:
    content, faults = read_sound(dict(type='CocoDataset', ann_file=str(file)))
    folder = image_folder([i['file_name'] for i in content['images']], tree, split, images, file)
    return Split(file, folder, content, dict(type='CocoDataset', ann_file=file, data_prefix=dict(img=folder)), faults)


def read_sound(described: dict[str, Any]) -> tuple[dict, list[str]]:
    """Return the COCO dict that a dataset reads, with image paths, and the errors of entries that it leaves out."""
    faults: list[str] = []
    dataset = DATASETS.build({**described, 'lazy_init': True})
    content = dataset.read(lambda error: faults.append(str(error)))
    prefix = dataset.data_prefix.get('img', '')
    return {**content, 'images': [{**i, 'file_name': os.path.join(prefix, i['file_name'])} for i in content['images']]}, faults


# --------------------------------------------------------------------------------------------------------------- YOLO
def yaml_files(tree: Tree) -> list[Path]:
    """Return the YAML files that contain class names and a split."""
    import yaml
    found = []
    for file in tree.with_suffix('.yaml', '.yml'):
        try:
            content = yaml.safe_load(file.read_text(encoding='utf-8-sig'))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue                                    # not a data.yaml; a file given by the user is read elsewhere and raises an error
        if isinstance(content, dict) and 'names' in content and any(name in content for name in SPLIT_WORDS):
            found.append(file)
    return found


def name_lists(tree: Tree) -> list[Path]:
    """Return lists of class names written by labelImg and CVAT (YOLO 1.1), if there are label files in the tree."""
    names = [f for f in tree.files if f.name in NAME_LISTS]
    labels = any(f.suffix == '.txt' and f.name not in NAME_LISTS and is_label_file(f) for f in tree.files)
    return names if labels else []


def is_label_file(file: Path) -> bool:
    with open(file, 'rb') as stream:
        words = stream.readline().split()
    return len(words) >= 5 and re.fullmatch(rb'[\d.eE+\-\s]+', b' '.join(words)) is not None


def from_yolo(tree: Tree, files: list[Path], images: Path | None) -> FoundData:
    if files[0].suffix.lower() not in ('.yaml', '.yml'):
        return from_name_list(tree, files)
    if len(files) > 1:
        raise several(tree, "the description of the set ('names', 'train', 'val')", files)
    return from_yaml(files[0])


def from_yaml(file: Path) -> FoundData:
    """Return the splits of a data.yaml."""
    described, _ = read_names(file)
    named = [s for s in SPLITS if any(described.get(name) for name, meant in SPLIT_WORDS.items() if meant == s)]
    if not named:
        raise NoData(f"{file}: it names none of {', '.join(SPLITS)}. Add train: and val: with the folders of the images.")

    def read(path: Path, split: str) -> Split:
        dataset = dict(type='YOLODataset', ann_file=str(path), split=split)
        content, faults = read_sound(dataset)
        return Split(path, *below_common(content, path.parent), dict(dataset, ann_file=path), faults)
    return read_splits('yolo', dict.fromkeys(named, file), read)


def below_common(content: dict, root: Path) -> tuple[Path, dict]:
    """Return (folder, content with file names relative to it): ``root``, or the common folder if some images are outside ``root``."""
    paths = [os.path.normpath(root / i['file_name']) for i in content['images']]
    folder = root if all(Path(p).is_relative_to(root) for p in paths) else Path(os.path.commonpath([os.path.dirname(p) for p in paths]))
    images = [{**i, 'file_name': Path(p).relative_to(folder).as_posix()} for i, p in zip(content['images'], paths)]
    return folder, {**content, 'images': images}


def from_name_list(tree: Tree, files: list[Path]) -> FoundData:
    """Return the dataset of label files without a data.yaml; the classes are the lines of a name list."""
    names = [line.strip() for line in files[0].read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    other = next((f for f in files[1:] if f.read_text(encoding='utf-8-sig').split() != files[0].read_text(encoding='utf-8-sig').split()),
                 None)
    if other:
        raise several(tree, 'the list of class names', [files[0], other])
    by_split: dict[str, list[Path]] = {}
    for picture in pictures_below(tree.root):
        by_split.setdefault(split_of(picture.parent, tree.root), []).append(picture)
    if len(by_split) > 1 and WHOLE in by_split:
        by_split = {WHOLE: [p for pictures in by_split.values() for p in pictures]}
    splits = {}
    for split, pictures in by_split.items():
        images, annotations, faults = [], [], []
        for number, picture in enumerate(pictures, 1):
            labels = label_file(picture)
            try:
                width, height = size_of(picture, files[0])
                objects = read_labels(labels, len(names), width, height) if labels.is_file() else []
            except BrokenAnnotations as error:
                faults.append(str(error))
                continue
            images.append(dict(id=number, file_name=picture.relative_to(tree.root).as_posix(), width=width, height=height))
            annotations += [dict(image_id=number, category=names[o.pop('label')], **o) for o in objects]
        splits[split] = Split(files[0], tree.root, coco_dict(images, annotations, names), None, faults)
    return FoundData('yolo', splits)


# ---------------------------------------------------------------------------------------------------------------- VOC
def xml_folders(tree: Tree) -> list[Path]:
    """Return the folders of VOC XML files; subfolders of a folder named Annotations count as that folder."""
    found: dict[Path, bool] = {}
    for file in tree.with_suffix('.xml'):
        parents = [p for p in file.parents if p.is_relative_to(tree.root)]
        folder = next((p for p in reversed(parents) if p.name.lower() == 'annotations'), file.parent)
        if folder not in found:
            with open(file, 'rb') as stream:
                found[folder] = b'<annotation' in stream.read(SNIFF_BYTES)
    return [f for f, is_voc in found.items() if is_voc]


def from_voc(tree: Tree, folders: list[Path], images: Path | None) -> FoundData:
    if len(folders) == 1:
        listed = voc_lists(folders[0])
        if listed:
            return FoundData('voc', {s: voc_split(folders[0], tree, images, f) for s, f in listed.items()})
    chosen = one_per_split(tree, folders)
    return FoundData('voc', {split: voc_split(folder, tree, images, split=split) for split, folder in chosen.items()})


def voc_lists(annotations: Path) -> dict[str, Path]:
    """Return the image lists by split that belong to a folder of XML files; ``trainval`` replaces a missing ``train``."""
    base = annotations.parent
    for folder in (base / 'ImageSets' / 'Main', base / 'ImageSets', base / 'splits', base):
        found = {SPLIT_WORDS.get(f.stem.lower(), f.stem.lower()): f for f in sorted(folder.glob('*.txt')) if lists_xml(f, annotations)}
        if 'train' not in found and 'trainval' in found:
            found['train'] = found['trainval']
        chosen = {s: found[s] for s in SPLITS if s in found}
        if 'train' in chosen:
            return chosen
    return {}


def lists_xml(file: Path, annotations: Path) -> bool:
    """Return whether the first line of ``file`` names an XML file in ``annotations``."""
    with open(file, encoding='utf-8-sig', errors='replace') as stream:
        stem = stream.readline().strip()
    return bool(stem) and '\0' not in stem and len(stem) < 200 and (annotations / f'{stem}.xml').is_file()


def voc_split(annotations: Path, tree: Tree, images: Path | None, names: Path | None = None, split: str = WHOLE) -> Split:
    """Return the split of all XML files in ``annotations``, or of those listed in ``names``."""
    files = sorted(annotations.rglob('*.xml'))
    stems = [f.relative_to(annotations).with_suffix('').as_posix() for f in files]
    folder = image_folder(stems, tree, split, images, annotations, stems=True)
    offset = 0 if any(counts_from_zero(f) for f in files) else 1
    if names is None:
        content = read_voc_folder(annotations, offset, folder)
        return Split(annotations, folder, content, None)
    root = Path(os.path.commonpath([annotations, folder]))
    dataset = dict(type='XMLDataset', data_root=str(root), ann_file=str(names), ann_subdir=str(annotations.relative_to(root)),
                   img_subdir=str(folder.relative_to(root)), offset=offset)
    content, faults = read_sound(dataset)
    place, content = below_common(content, folder)
    return Split(names, place, content, {k: v for k, v in dataset.items() if k != 'data_root'} | dict(ann_file=names), faults)


def counts_from_zero(file: Path) -> bool:
    """Return whether a box in an XML file starts at pixel 0, which cannot occur if pixels count from 1."""
    return re.search(rb'<[xy]min>\s*0(\.0*)?\s*</', file.read_bytes()) is not None


# ---------------------------------------------------------------------------------------------------------------- CSV
def csv_files(tree: Tree) -> list[Path]:
    """Return the tables that contain boxes, without tables of changes. A file given by the user is always read, or raises an error."""
    found = []
    for file in tree.with_suffix('.csv', '.tsv'):
        try:
            if all(not CHANGE_COLUMNS & row.keys() and all(is_number(row.get(key, '')) for key in CORNERS)
                   for _, row in itertools.islice(rows_of(file), 1)):
                found.append(file)
        except BrokenAnnotations:
            continue                                    # another kind of table
    return found


def is_number(text: str) -> bool:
    return re.fullmatch(r'[+-]?\d+(\.\d*)?(e[+-]?\d+)?', text, re.I) is not None


def from_csv(tree: Tree, files: list[Path], images: Path | None) -> FoundData:
    return read_splits('csv', one_per_split(tree, files), lambda file, split: csv_split(file, split, tree, images))


def csv_split(file: Path, split: str, tree: Tree, images: Path | None) -> Split:
    names = list(dict.fromkeys(row['file'] for _, row in rows_of(file)))
    folder = image_folder(names, tree, split, images, file)
    dataset = dict(type='CSVDataset', ann_file=str(file), data_prefix=dict(img=str(folder)))
    content, faults = read_sound(dataset)
    folder, content = below_common(content, folder)
    return Split(file, folder, content, dict(dataset, ann_file=file, data_prefix=dict(img=folder)), faults)


SPLIT_READERS = {'coco': coco_split, 'csv': csv_split}
