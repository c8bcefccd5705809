from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkit.cli import main
from detkit.data.exchange import cannot_hold, guess_format, read_annotations, write_annotations

sides = st.tuples(st.integers(0, 3900), st.integers(0, 2900), st.integers(10, 1000), st.integers(10, 1000))
boxes = sides.map(lambda v: [v[0] / 100, v[1] / 100, min(v[2] / 100, 40 - v[0] / 100), min(v[3] / 100, 30 - v[1] / 100)])


def plain(content: dict) -> dict:
    """file stem -> [(class, box)], to compare sets whose ids and folders differ."""
    names = {c['id']: c['name'] for c in content['categories']}
    stem = {i['id']: i['file_name'].rsplit('/', 1)[-1].rsplit('.', 1)[0] for i in content['images']}
    found = {s: [] for s in stem.values()}
    for a in content['annotations']:
        found[stem[a['image_id']]].append((names[a['category_id']], [round(float(v), 3) for v in a['bbox']],
                                       [[round(float(v), 3) for v in p] for p in a.get('segmentation') or []]))
    return found


def pictures(folder, count):
    (folder / 'pictures').mkdir(exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f'pictures/p{i}.jpg'), np.zeros((30, 40, 3), np.uint8))
    return folder / 'pictures'


def coco_of(found: list[list], masks: bool = False) -> dict:
    images = [dict(id=i, file_name=f'p{i}.jpg', width=40, height=30) for i in range(len(found))]
    annotations = [dict(image_id=i, category_id=1 + n % 2, bbox=[x, y, w, h], area=w * h, iscrowd=0,
                        segmentation=[[x, y, x + w, y, x + w, y + h]] if masks else [])
                   for i, bs in enumerate(found) for n, (x, y, w, h) in enumerate(bs)]
    for n, a in enumerate(annotations):
        a['id'] = n + 1
    return dict(images=images, annotations=annotations, categories=[dict(id=1, name='zebra'), dict(id=2, name='cat')])


@pytest.mark.parametrize('masks', [False, True])
@pytest.mark.parametrize('kind', ['voc', 'yolo', 'coco'])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(st.lists(boxes, max_size=3), min_size=1, max_size=3))
def test_a_round_trip_loses_nothing(tmp_path_factory, kind, masks, found):
    if kind == 'voc' and masks:
        return
    folder = tmp_path_factory.mktemp('trip')
    before = coco_of(found, masks)
    out = write_annotations({'train': before}, folder / 'out', kind, pictures(folder, len(found)), 'copy')
    after = read_annotations(out / 'annotations/train.json' if kind == 'coco' else out)
    assert plain(after) == plain(before)
    assert [c['name'] for c in after['categories']] == ['zebra', 'cat']
    back = write_annotations({'train': after}, folder / 'back.json', 'coco')
    assert plain(read_annotations(back)) == plain(before)


def test_the_tool_says_what_it_did_not_keep(tmp_path, capsys):
    content = coco_of([[[1, 1, 5, 5], [2, 2, 5, 5]]], masks=True)
    content['annotations'][0]['iscrowd'] = 1
    (tmp_path / 'a.json').write_text(json.dumps(content))
    assert main(['dataset', 'convert', f'train={tmp_path}/a.json', str(tmp_path / 'voc'), '--to', 'voc', '--lossy']) == 0
    assert capsys.readouterr().out.splitlines() == [
        f'written: {tmp_path}/voc', 'not kept: train: 1 crowds become ordinary objects', 'not kept: train: 2 masks']


def test_bccd_survives_voc_and_yolo(shared, tmp_path):
    bccd = shared / 'data/bccd'
    before = read_annotations(bccd / 'annotations/val.json')
    voc = write_annotations({'val': before}, tmp_path / 'voc', 'voc', bccd / 'images', 'link')
    yolo = write_annotations({'val': read_annotations(voc)}, tmp_path / 'yolo', 'yolo', voc / 'JPEGImages', 'link')
    after = read_annotations(yolo, split='val')
    assert plain(after) == plain(before) and len(after['annotations']) == 1135
    assert [c['name'] for c in after['categories']] == [c['name'] for c in before['categories']]


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    content = coco_of([[[1, 1, 5, 5]]], masks=True)
    content['annotations'][0]['iscrowd'] = 1
    assert cannot_hold(content, 'coco') == [] and len(cannot_hold(content, 'voc')) == 2
    with pytest.raises(ValueError, match='1 crowds.*1 masks.*--lossy'):
        write_annotations({'train': content}, tmp_path / 'out', 'voc')
    assert not (tmp_path / 'out').exists()
    assert write_annotations({'train': content}, tmp_path / 'out', 'voc', lossy=True).is_dir()
    with pytest.raises(ValueError, match='there already'):
        write_annotations({'train': content}, tmp_path / 'out', 'voc', lossy=True)
    twins = coco_of([[], []])
    twins['images'][1]['file_name'] = 'sub/p0.png'
    assert 'one name' in cannot_hold(twins, 'voc')[0] and cannot_hold(twins, 'yolo') == []


def named(names: list[str], classes: list[str], file_name: str = 'a.jpg') -> dict:
    """One image with an object of each of ``classes``; categories are numbered from 1 in the order of ``names``."""
    return dict(images=[dict(id=1, file_name=file_name, width=40, height=30)],
                categories=[dict(id=i, name=n) for i, n in enumerate(names, 1)],
                annotations=[dict(id=n, image_id=1, category_id=names.index(c) + 1, bbox=[n, 1, 9, 9]) for n, c in enumerate(classes, 1)])


@pytest.mark.parametrize('kind', ['coco', 'voc', 'yolo'])
def test_all_splits_are_written_with_one_list_of_classes(tmp_path, kind):
    contents = dict(train=named(['cat', 'dog'], ['cat', 'dog']), val=named(['dog', 'cat'], ['dog'], 'b.jpg'),
                    test=named(['emu'], ['emu'], 'c.jpg'))
    pictures(tmp_path, 1)
    for name in 'abc':
        cv2.imwrite(str(tmp_path / 'pictures' / f'{name}.jpg'), np.zeros((30, 40, 3), np.uint8))
    out = write_annotations(contents, tmp_path / 'out', kind, tmp_path / 'pictures', 'copy')
    if kind == 'yolo':
        found = {split: read_annotations(out, split=split) for split in contents}
        assert (out / 'labels/val/b.txt').read_text().startswith('1 ')
    elif kind == 'coco':
        found = {split: read_annotations(out / f'annotations/{split}.json') for split in contents}
    else:
        found = dict(all=read_annotations(out))
    assert {tuple(c['name'] for c in part['categories']) for part in found.values()} == {('cat', 'dog', 'emu')}
    want = {name: objects for part in contents.values() for name, objects in plain(part).items()}
    assert {name: objects for part in found.values() for name, objects in plain(part).items()} == want


def test_two_splits_with_one_name_for_different_images_are_refused_by_voc(tmp_path):
    with pytest.raises(ValueError, match="'a.jpg' of val: another split has an image of the name 'a' with other objects"):
        write_annotations(dict(train=named(['cat'], ['cat']), val=named(['cat'], ['cat', 'cat'])), tmp_path / 'out', 'voc')
    assert not (tmp_path / 'out').exists()
    same = dict(val=named(['cat'], ['cat']), test=named(['cat'], ['cat']))
    assert write_annotations(same, tmp_path / 'out', 'voc').is_dir()


def test_a_missing_picture_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match='p1.jpg: there is no such picture'):
        write_annotations({'train': coco_of([[], []])}, tmp_path / 'out', 'yolo', pictures(tmp_path, 1), 'copy')
    assert [p.name for p in tmp_path.iterdir()] == ['pictures']


def test_a_set_that_lies_elsewhere_than_its_yaml_is_not_written_over(tmp_path):
    """With absolute file names the new labels went into the folder of the old ones."""
    images = pictures(tmp_path, 1)
    (tmp_path / 'set/images').mkdir(parents=True)
    (tmp_path / 'set/labels').mkdir()
    (images / 'p0.jpg').rename(tmp_path / 'set/images/p0.jpg')
    (tmp_path / 'set/labels/p0.txt').write_text('1 0.5 0.5 0.5 0.5\n')
    (tmp_path / 'cfg').mkdir()
    (tmp_path / 'cfg/data.yaml').write_text(f'path: {tmp_path}/set\ntrain: images\nnames: [a, b]\n')
    content = read_annotations(tmp_path / 'cfg/data.yaml')
    content['annotations'].clear()
    write_annotations({'train': content}, tmp_path / 'out', 'yolo', tmp_path / 'set', 'copy')
    assert (tmp_path / 'set/labels/p0.txt').read_text() == '1 0.5 0.5 0.5 0.5\n'
    again = read_annotations(tmp_path / 'out/data.yaml')
    assert [i['file_name'] for i in again['images']] == ['images/train/images/p0.jpg'] and again['annotations'] == []


def test_the_format_is_told_by_the_name(tmp_path):
    (tmp_path / 'a').mkdir()
    for name, kind in (('x.json', 'coco'), ('data.yml', 'yolo'), ('x.csv', 'csv'), ('x.odgt', 'odgt'), ('x.xml', 'voc')):
        assert guess_format(tmp_path / name) == kind
    with pytest.raises(ValueError, match='its format cannot be told.*--from'):
        guess_format(tmp_path / 'a')
    with pytest.raises(ValueError, match='no such file'):
        guess_format(tmp_path / 'b')
    (tmp_path / 'a/1.xml').write_text('')
    assert guess_format(tmp_path / 'a') == 'voc'


def test_the_tool_converts_counts_splits_joins_and_picks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = pictures(tmp_path, 8)
    (tmp_path / 'a.json').write_text(json.dumps(coco_of([[[1, 1, 5, 5], [2, 2, 9, 9]]] * 8)))
    assert main(['dataset', 'stats', 'a.json', '--json', 's.json']) == 0
    assert '8 images, 16 objects of 2 classes' in capsys.readouterr().out and json.loads((tmp_path / 's.json').read_text())['objects'] == 16
    assert main(['dataset', 'split', 'a.json', 'parts', '--shares', 'train=0.75', 'val=0.25']) == 0
    assert main(['dataset', 'convert', 'train=parts/train.json', 'val=parts/val.json', 'y', '--to', 'yolo', '--images', str(images),
                 '--place', 'copy']) == 0
    assert len(list((tmp_path / 'y/labels/train').iterdir())) == 6 and len(list((tmp_path / 'y/images/val').iterdir())) == 2
    assert main(['dataset', 'convert', 'y/data.yaml', 'c', '--to', 'coco', '--split', 'train', 'val']) == 0
    assert {p.name for p in (tmp_path / 'c/annotations').iterdir()} == {'train.json', 'val.json'}
    assert main(['dataset', 'merge', 'c/annotations/train.json', 'c/annotations/val.json', 'm.json']) == 0
    assert len(json.loads((tmp_path / 'm.json').read_text())['images']) == 8
    assert main(['dataset', 'sample', 'm.json', 'few.json', '--share', '0.5']) == 0
    assert main(['dataset', 'subset', 'few.json', 'cats.json', '--classes', 'cat']) == 0
    cats = json.loads((tmp_path / 'cats.json').read_text())
    assert len(cats['images']) == 4 == len(cats['annotations'])
    capsys.readouterr()
    for words, message in (('sample m.json x.json', 'one of --count and --share'), ('subset m.json x.json --classes dog', "no class 'dog'"),
                           ('split m.json x --shares train', 'NAME=SHARE'), ('stats none.json', 'no such')):
        assert main(['dataset', *words.split()]) == 2
        assert message in capsys.readouterr().err


def test_boxes_that_readers_would_refuse_are_not_written(tmp_path):
    content = coco_of([[[-5, -5, 60, 60], [1, 1, 0, 5], [50, 50, 9, 9], [1, 2, 10, 10]]])
    for kind, refused in (('yolo', 3), ('voc', 2)):          # VOC holds a box without width
        with pytest.raises(ValueError, match=rf'{refused} boxes leave their image or have no area.*--lossy'):
            write_annotations({'train': content}, tmp_path / kind, kind)
        out = write_annotations({'train': content}, tmp_path / kind, kind, pictures(tmp_path, 1), 'copy', lossy=True)
        found = [box for _, box, _ in plain(read_annotations(out))['p0']]
        assert found == [[0, 0, 40, 30], *([[1, 1, 0, 5]] if kind == 'voc' else []), [1, 2, 10, 10]]
    assert len(content['annotations']) == 4 and content['annotations'][0]['bbox'] == [-5, -5, 60, 60]


@pytest.mark.parametrize('name', ['', 'cat ', 'big\ncat', 'a  b'])
def test_class_names_that_text_files_do_not_keep_are_refused(tmp_path, name):
    content = coco_of([[[1, 1, 5, 5]]])
    content['categories'][0]['name'] = name
    for kind in ('voc', 'yolo'):
        with pytest.raises(ValueError, match='the class name .* Rename it in the source'):
            write_annotations({'train': content}, tmp_path / kind, kind)
        assert not (tmp_path / kind).exists()
    assert write_annotations({'train': content}, tmp_path / 'a.json', 'coco').is_file()


def test_the_tool_loses_no_source_and_no_split(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = coco_of([[[1, 1, 5, 5]]] * 4), coco_of([[[2, 2, 9, 9]]] * 2)
    (tmp_path / 'a.json').write_text(json.dumps(a))
    (tmp_path / 'train.json').write_text(json.dumps(b))
    assert main(['dataset', 'convert', 'train=a.json', 'val=train.json', 'y', '--to', 'yolo', '--images', str(pictures(tmp_path, 4)),
                 '--place', 'copy']) == 0
    assert main(['dataset', 'convert', 'train=y/data.yaml', 'val=y/data.yaml', 'c', '--to', 'coco']) == 0     # each its own split
    assert [len(json.loads((tmp_path / f'c/annotations/{s}.json').read_text())['images']) for s in ('train', 'val')] == [4, 2]
    capsys.readouterr()
    for words, message in (('convert train=a.json train=train.json z --to yolo', "'train' stands twice"),
                           ('convert train=y/data.yaml val=y/data.yaml z --to coco --split train val', 'names the splits of one data.yaml'),
                           ('subset a.json ./a.json --classes cat', 'is the source itself'),
                           ('split train.json . --shares train=.5 val=.5', 'is the source itself'),
                           ('split a.json z --shares ../x=.5 val=.5', "without '/'"),
                           ('split a.json z --shares a=.5 a=.5', 'a name of its own')):
        assert main(['dataset', *words.split()]) == 2
        assert message in capsys.readouterr().err
    assert json.loads((tmp_path / 'a.json').read_text()) == a and json.loads((tmp_path / 'train.json').read_text()) == b
    assert not (tmp_path / 'z').exists()
