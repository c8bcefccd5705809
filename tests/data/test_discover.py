"""Small data sets in every layout that is recognised: what is found there, and what a user reads where nothing can be."""
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detkit.data.discover import NoData, common_folder, find_dataset, split_of_name, with_siblings
from detkit.data.exchange import write_annotations
from detkit.data.formats.coco import coco_dict
from detkit.data.formats.faults import BrokenAnnotations
from detkit.registry import register_all_modules

CLASSES = ['nut', 'bolt']


@pytest.fixture(autouse=True)
def our_scope():
    register_all_modules(init_default_scope=True)


def make_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), 90, np.uint8))


def content(names: list[str]) -> dict:
    """Two objects an image, the second one with a polygon."""
    images = [dict(id=n, file_name=name, width=60, height=40) for n, name in enumerate(names, 1)]
    objects = [dict(image_id=i['id'], category=c, bbox=[5 + k, 6, 20, 10], segmentation=[[5 + k, 6, 25 + k, 6, 25 + k, 16, 5 + k, 16]])
               for i in images for k, c in enumerate(CLASSES)]
    return coco_dict(images, objects, CLASSES)


def write_coco(file: Path, names: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content(names)))
    return file


def counts(found) -> dict[str, tuple[int, int]]:
    return {s: (len(p.content['images']), len(p.content['annotations'])) for s, p in found.splits.items()}


# ------------------------------------------------------------------------------------------------------------- splits
@pytest.mark.parametrize(('name', 'split'), [
    ('train', 'train'), ('instances_train2017', 'train'), ('valid', 'val'), ('validation', 'val'), ('my-TEST-set', 'test'),
    ('trainval', None),
    ('TrainAnnotations', 'train'), ('train_val', None), ('constraints', None), ('_annotations', None), ('latest', None)])
def test_the_words_of_a_name_tell_the_split(name: str, split: str | None):
    assert split_of_name(name) == split


def test_a_file_brings_those_that_differ_in_the_split_alone(tmp_path: Path):
    for name in ('a_train.json', 'a_valid.json', 'b_test.json', 'a_train.txt'):
        (tmp_path / name).touch()
    assert {s: p.name for s, p in with_siblings(tmp_path / 'a_train.json').items()} == {'train': 'a_train.json', 'val': 'a_valid.json'}


# --------------------------------------------------------------------------------------------------------------- COCO
def layout_shared(root: Path) -> None:
    make_images(root / 'images', ['a.png', 'b.png'])
    write_coco(root / 'annotations/train.json', ['a.png'])
    write_coco(root / 'annotations/val.json', ['b.png'])


def layout_coco2017(root: Path) -> None:
    make_images(root / 'train2017', ['a.png'])
    make_images(root / 'val2017', ['b.png'])
    for kind in ('instances', 'person_keypoints', 'captions'):
        write_coco(root / f'annotations/{kind}_train2017.json', ['a.png'])
        write_coco(root / f'annotations/{kind}_val2017.json', ['b.png'])


def layout_roboflow(root: Path) -> None:
    for folder, name in (('train', 'a.png'), ('valid', 'b.png')):
        make_images(root / folder, [name])
        write_coco(root / folder / '_annotations.coco.json', [name])


def layout_same_names(root: Path) -> None:
    """Both splits have an image of the same name, each in its own folder."""
    for folder in ('train', 'val'):
        make_images(root / 'images' / folder, ['a.png'])
        write_coco(root / 'labels' / f'{folder}.json', ['a.png'])


@pytest.mark.parametrize(('layout', 'images'), [
    (layout_shared, ['images', 'images']), (layout_coco2017, ['train2017', 'val2017']), (layout_roboflow, ['train', 'valid']),
    (layout_same_names, ['images/train', 'images/val'])])
def test_coco_layouts(tmp_path: Path, layout, images: list[str]):
    layout(tmp_path)
    (tmp_path / '__MACOSX').mkdir()
    write_coco(tmp_path / '__MACOSX' / 'train.json', ['a.png'])
    (tmp_path / '._train.json').write_bytes(b'\0')
    found = find_dataset([tmp_path])
    assert found.format == 'coco' and found.root == tmp_path
    assert counts(found) == {'train': (1, 2), 'val': (1, 2)}
    assert [s.images.relative_to(tmp_path).as_posix() for s in found.splits.values()] == images


def test_cvats_export_is_one_whole(tmp_path: Path):
    make_images(tmp_path / 'images/default', ['a.png'])
    write_coco(tmp_path / 'annotations/instances_default.json', ['a.png'])
    found = find_dataset([tmp_path])
    assert counts(found) == {'all': (1, 2)}
    assert found.splits['all'].images == tmp_path / 'images/default'


def test_a_file_finds_images_beside_its_folder(tmp_path: Path):
    layout_shared(tmp_path)
    for source in (tmp_path / 'annotations/train.json', tmp_path / 'annotations'):
        found = find_dataset([source])
        assert counts(found) == {'train': (1, 2), 'val': (1, 2)} and found.root == tmp_path


def test_the_folder_annotations_is_taken_where_there_are_others(tmp_path: Path):
    layout_shared(tmp_path)
    write_coco(tmp_path / 'annotations_old/train.json', ['a.png'])
    found = find_dataset([tmp_path])
    assert found.splits['train'].source == tmp_path / 'annotations/train.json'
    assert found.notes == ['annotations/ is taken; annotations_old/train.json is left out.']


# --------------------------------------------------------------------------------------------------------------- YOLO
def make_yolo(root: Path) -> Path:
    source = root.parent / 'pictures'
    make_images(source, ['a.png', 'b.png'])
    return write_annotations(dict(train=content(['a.png']), val=content(['b.png'])), root, 'yolo', source, 'copy')


def test_a_yaml_and_a_folder_with_one(tmp_path: Path):
    root = make_yolo(tmp_path / 'y')
    for source in (root, root / 'data.yaml'):
        found = find_dataset([source])
        assert found.format == 'yolo' and counts(found) == {'train': (1, 2), 'val': (1, 2)}
        assert found.splits['val'].dataset == dict(type='YOLODataset', ann_file=root / 'data.yaml', split='val')
        assert found.splits['train'].content['annotations'][0]['segmentation']


def test_a_test_split_that_is_not_there_is_left_out_with_a_note(tmp_path: Path):
    root = make_yolo(tmp_path / 'y')
    with open(root / 'data.yaml', 'a') as file:
        file.write('test: images/none\n')
    note, = find_dataset([root]).notes
    assert note.startswith('test is left out: ') and 'images/none' in note


def test_labels_with_a_list_of_names(tmp_path: Path):
    """As labelImg and CVAT's YOLO 1.1 write them."""
    make_images(tmp_path / 'obj_train_data', ['a.png', 'b.png'])
    (tmp_path / 'obj.names').write_text('nut\nbolt\n')
    (tmp_path / 'obj_train_data/a.txt').write_text('1 0.5 0.5 0.5 0.5\n')
    found = find_dataset([tmp_path])
    assert found.format == 'yolo' and counts(found) == {'train': (2, 1)}
    split = found.splits['train']
    assert split.dataset is None and split.content['annotations'][0]['bbox'] == [15, 10, 30, 20]
    assert split.content['annotations'][0]['category_id'] == 2


def test_a_coco_test_split_that_cannot_be_used_is_left_out_with_a_note(tmp_path: Path):
    layout_shared(tmp_path)
    file = tmp_path / 'annotations/test.json'
    file.write_text(json.dumps({k: v for k, v in content(['b.png']).items() if k != 'annotations'}))
    found = find_dataset([tmp_path])
    assert list(found.splits) == ['train', 'val'] and found.notes[0].startswith(f'test is left out: {file}')
    with pytest.raises(BrokenAnnotations, match="'annotations'"):
        find_dataset([f'test={file}'])


# ---------------------------------------------------------------------------------------------------------------- VOC
def make_voc(root: Path) -> Path:
    source = root.parent / 'pictures'
    make_images(source, ['a.png', 'b.png'])
    return write_annotations(dict(train=content(['a.png']), val=content(['b.png'])), root, 'voc', source, 'copy', lossy=True)


def test_voc_with_its_lists(tmp_path: Path):
    root = make_voc(tmp_path / 'VOC2007')
    for source in (tmp_path, root, root / 'Annotations'):
        found = find_dataset([source])
        assert found.format == 'voc' and counts(found) == {'train': (1, 2), 'val': (1, 2)}
        assert found.splits['train'].dataset == dict(type='XMLDataset', ann_file=root / 'ImageSets/Main/train.txt', offset=1,
                                                     ann_subdir='Annotations', img_subdir='JPEGImages')


def test_voc_without_lists_beside_its_images(tmp_path: Path):
    """As Roboflow exports it."""
    root = make_voc(tmp_path / 'v')
    for folder, stem in (('train', 'a'), ('valid', 'b')):
        make_images(tmp_path / 'r' / folder, [f'{stem}.png'])
        (root / f'Annotations/{stem}.xml').rename(tmp_path / 'r' / folder / f'{stem}.xml')
    found = find_dataset([tmp_path / 'r'])
    assert counts(found) == {'train': (1, 2), 'val': (1, 2)}
    assert found.splits['val'].dataset is None and found.splits['val'].content['images'][0]['file_name'] == 'b.png'


def test_boxes_that_begin_at_pixel_0_count_from_0(tmp_path: Path):
    root = make_voc(tmp_path / 'v')
    file = root / 'Annotations/a.xml'
    file.write_text(file.read_text().replace('<xmin>6</xmin>', '<xmin>0</xmin>', 1))
    assert find_dataset([root]).splits['train'].dataset['offset'] == 0


# ---------------------------------------------------------------------------------------------------------------- CSV
def make_csv(root: Path) -> None:
    make_images(root / 'images', ['a.png', 'b.png'])
    (root / 'train.csv').write_text('filename,xmin,ymin,xmax,ymax,class\na.png,5,6,25,16,nut\n')
    (root / 'val.csv').write_text('filename,xmin,ymin,xmax,ymax,class\nb.png,5,6,25,16,bolt\n')


def test_csv_and_other_tables_beside_it(tmp_path: Path):
    make_csv(tmp_path)
    (tmp_path / 'scores.csv').write_text('epoch,loss,lr,map,recall,time\n1,2,3,4,5,6\n')
    (tmp_path / 'changes.csv').write_text('image,object_index,class,xmin,ymin,xmax,ymax,action,reason\na,1,nut,5,6,25,16,dropped,twice\n')
    found = find_dataset([tmp_path])
    assert found.format == 'csv' and counts(found) == {'train': (1, 1), 'val': (1, 1)}
    assert found.splits['train'].images == tmp_path / 'images'


def test_files_named_by_split(tmp_path: Path):
    make_csv(tmp_path)
    found = find_dataset([f'train={tmp_path}/val.csv', f'val={tmp_path}/train.csv'])
    assert found.splits['train'].source == tmp_path / 'val.csv'


# ----------------------------------------------------------------------------------------------- messages
def test_other_formats_are_told_and_can_be_asked_for(tmp_path: Path):
    layout_shared(tmp_path)
    make_csv(tmp_path)
    found = find_dataset([tmp_path])
    assert found.format == 'coco' and found.notes == ['CSV annotations are there too (train.csv); --format csv takes them.']
    assert find_dataset([tmp_path], 'csv').format == 'csv'


def test_the_images_beside_the_annotations_come_before_copies_in_another_data_set(tmp_path: Path):
    for split in ('train', 'val'):
        write_coco(tmp_path / f'parts/annotations/{split}.json', [f'{split}.png'])
        make_images(tmp_path / 'parts/images', [f'{split}.png'])
        make_images(tmp_path / f'copies/images/{split}', [f'{split}.png'])
    found = find_dataset([tmp_path])
    assert [found.splits[s].images for s in ('train', 'val')] == [tmp_path / 'parts/images'] * 2


def test_nothing_found_says_what_was_looked_for_where(tmp_path: Path):
    make_images(tmp_path / 'images', ['a.png'])
    with pytest.raises(NoData, match=r'no annotations found. Looked in 2 folder\(s\) for: a COCO .json.*There is: 1 .png') as error:
        find_dataset([tmp_path])
    assert str(tmp_path) in str(error.value)


def test_several_candidates_are_listed(tmp_path: Path):
    layout_shared(tmp_path / 'one')
    layout_shared(tmp_path / 'two')
    with pytest.raises(NoData, match='several candidates for train: one/annotations/train.json, two/annotations/train.json. Name one'):
        find_dataset([tmp_path])


def test_images_that_are_elsewhere_are_asked_for(tmp_path: Path):
    file = write_coco(tmp_path / 'd/annotations/train.json', ['a.png'])
    with pytest.raises(NoData, match=r"train.json: its images \(first: 'a.png'\) are not in .*--images DIR"):
        find_dataset([file])
    make_images(tmp_path / 'far/away/there', ['a.png'])
    assert find_dataset([file], images=tmp_path / 'far/away/there').root == tmp_path


@pytest.mark.parametrize(('sources', 'message'), [
    (['no/such'], 'no/such: there is no such folder or file'), (['a', 'b'], 'one folder or file, or train=FILE'),
    (['{tmp}/x.txt'], 'no annotation file that is known')])
def test_wrong_sources(tmp_path: Path, sources: list[str], message: str):
    (tmp_path / 'x.txt').write_text('a')
    with pytest.raises(NoData, match=message):
        find_dataset([s.replace('{tmp}', str(tmp_path)) for s in sources])


def test_a_damaged_file_that_is_named_is_not_passed_over(tmp_path: Path):
    (tmp_path / 'train.json').write_text('{"images": [')
    with pytest.raises(BrokenAnnotations, match='not valid JSON at line 1'):
        find_dataset([tmp_path / 'train.json'])
    with pytest.raises(BrokenAnnotations, match='not valid JSON at line 1'):
        find_dataset([tmp_path])


def test_entries_at_fault_are_counted(tmp_path: Path):
    layout_shared(tmp_path)
    file = tmp_path / 'annotations/train.json'
    described = json.loads(file.read_text())
    described['annotations'][0]['bbox'] = [1, 2]
    file.write_text(json.dumps(described))
    found = find_dataset([tmp_path])
    assert counts(found)['train'] == (1, 1) and len(found.splits['train'].faults) == 1


def test_the_root_of_the_data_is_never_that_of_the_disk():
    assert common_folder(Path('/data/a/labels'), [Path('/data/a/images')] * 2) == Path('/data/a')
    assert common_folder(Path('/data/a'), [Path('/disk/images')] * 2) == Path('/data/a')
