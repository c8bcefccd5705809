"""What is written loads, and what it says reaches every place, for every kind of recipe and every format."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from detkit.config import load_config
from detkit.data.discover import find_dataset
from detkit.data.exchange import write_annotations
from detkit.data.formats.coco import read_coco
from detkit.newconfig.recipe import default_model, innermost, read_recipe
from detkit.newconfig.run import make_plan
from detkit.newconfig.text import broken_code, code_of, text_of
from detkit.registry import DATASETS, METRICS, ConfigError

CLASSES = ('circle', 'square', 'triangle', 'star')
RECIPES = ['cascade-mask-rcnn_r50_fpn_1x_coco', 'centernet_r18_8xb16-crop512-140e_coco', 'dino-4scale_r50_8xb2-12e_coco',
           'faster-rcnn_r50_fpn_1x_coco', 'fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco', 'mask2former_r50_8xb2-lsj-50e_coco',
           'rpn_r50_fpn_1x_coco', 'rtmdet-ins_tiny_8xb32-300e_coco', 'rtmdet_nano_small-data', 'yolox_tiny_8xb8-300e_coco']   # of each kind


def written(model: str, data: Path, out: Path):
    """The config that is written for ``data``, loaded, and its messages."""
    messages: list[str] = []
    plan = make_plan(find_dataset([data]), read_recipe(model, out), out, False, messages.append)
    for name, split in plan.splits.items():
        if split.dataset is None:
            plan.written_file(name).write_text(json.dumps(split.content))
    out.write_text(text_of(plan))
    return load_config(out), messages


def class_counts(node) -> list[int]:
    """All ``num_classes`` in a model's config, and the count of things of a mask head."""
    if isinstance(node, (list, tuple)):
        return [n for item in node for n in class_counts(item)]
    if not isinstance(node, dict):
        return []
    return [n for k, v in node.items() for n in ([v] if k in ('num_classes', 'num_things_classes') else class_counts(v))]


@pytest.mark.parametrize('model', RECIPES)
def test_everything_reaches_its_place(model: str, shapes: Path, tmp_path: Path):
    cfg, _ = written(model, shapes, tmp_path / 'my.py')
    for split, file in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = innermost(cfg, split)
        assert (dataset.data_root, dataset.ann_file, dataset.data_prefix.img) == (f'{shapes}/', f'annotations/{file}.json', 'images/')
        assert dataset.metainfo.classes == CLASSES
        pipeline = json.dumps(cfg[f'{split}_dataloader'].to_dict(), default=str)
        assert not re.search(r'\b(1333|800|640|1024|512|320)\b', pipeline), 'a size of the recipe is left'
    assert 'test_size' not in cfg or tuple(cfg.test_size) == tuple(cfg.image_size)         # YOLOX-tiny, Mask2Former: another share of it
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file == f'{shapes}/annotations/val.json'
    assert cfg.train_dataloader.batch_size in (2, 3)              # 12 images: an epoch has four steps or more
    if not model.startswith('rpn'):
        assert set(class_counts(cfg.model)) == {4}
    loop = cfg.train_cfg
    assert loop.get('max_epochs') == 300 or loop.max_iters == 300 * 6
    schedulers = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    assert schedulers[-1]['end'] == loop.get('max_epochs', loop.get('max_iters'))
    assert all(s['end'] <= 180 for s in schedulers[:-1] if not s['by_epoch'])        # a tenth of the steps, at most 6 an epoch


def as_yolo(shapes: Path, out: Path) -> Path:
    contents = {s: read_coco(str(shapes / f'annotations/{s}.json')) for s in ('train', 'val')}
    return write_annotations(contents, out, 'yolo', shapes / 'images', 'link', lossy=True)


def as_voc(shapes: Path, out: Path) -> Path:
    contents = {s: read_coco(str(shapes / f'annotations/{s}.json')) for s in ('train', 'val')}
    return write_annotations(contents, out, 'voc', shapes / 'images', 'link', lossy=True)


def as_csv(shapes: Path, out: Path) -> Path:
    out.mkdir()
    (out / 'images').symlink_to(shapes / 'images')
    for split in ('train', 'val'):
        content = read_coco(str(shapes / f'annotations/{split}.json'))
        names, files = ({e['id']: e[key] for e in content[part]} for part, key in (('categories', 'name'), ('images', 'file_name')))
        lines = [f"{files[a['image_id']]},{x},{y},{x + w},{y + h},{names[a['category_id']]}\n"
                 for a in content['annotations'] for x, y, w, h in [a['bbox']]]
        (out / f'{split}.csv').write_text(''.join(lines))
    return out


@pytest.mark.parametrize(('make', 'kind'), [(as_yolo, 'YOLODataset'), (as_voc, 'XMLDataset'), (as_csv, 'CSVDataset')])
@pytest.mark.parametrize('model', ['rtmdet_nano_small-data', 'yolox_nano_bccd'])
def test_other_formats_are_read_by_their_data_set(make, kind: str, model: str, shapes: Path, tmp_path: Path):
    """yolox_nano_bccd wraps its data set."""
    cfg, _ = written(model, make(shapes, tmp_path / 'data'), tmp_path / 'my.py')
    for split, count in (('train', 12), ('val', 6), ('test', 6)):
        described = innermost(cfg, split)
        assert described.type == kind
        dataset = DATASETS.build(dict(described, pipeline=[dict(type='LoadImageFromFile')]))
        assert len(dataset) in (count, count - 1) and set(dataset.metainfo['classes']) == set(CLASSES)   # an image may have no object
        assert dataset[0]['img'].shape == (64, 64, 3)
    assert METRICS.build(cfg.val_evaluator).truth is None            # the data set's objects are the truth


def test_masks_of_yolo_are_written_as_coco_files(shapes: Path, tmp_path: Path):
    contents = {s: read_coco(str(shapes / f'annotations/{s}.json')) for s in ('train', 'val')}
    for content in contents.values():                              # YOLO holds an object of one polygon, as wide as its box
        for a in content['annotations']:
            x, y, w, h = a['bbox']
            a['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    data = write_annotations(contents, tmp_path / 'data', 'yolo', shapes / 'images', 'link')
    cfg, _ = written('rtmdet-ins_tiny_nuclei', data, tmp_path / 'my.py')
    assert innermost(cfg, 'train').type == 'CocoDataset' and innermost(cfg, 'train').ann_file == str(tmp_path / 'my_train.json')
    assert cfg.val_evaluator.ann_file == str(tmp_path / 'my_val.json') and cfg.val_evaluator.metric == ['bbox', 'segm']
    assert METRICS.build(cfg.val_evaluator).truth['annotations'][0]['segmentation']


def test_a_config_of_ones_own_without_variables_gets_sections(shapes: Path, tmp_path: Path):
    """As MMDetection's own configs are read: their variables are used before the new file is read."""
    cfg = load_config('mask-rcnn_r50_fpn_1x_coco')
    for name in list(cfg):
        if name in ('data_root', 'classes', 'num_classes', 'image_size', 'metainfo'):
            cfg.pop(name)
    (tmp_path / 'own.py').write_text(cfg.pretty_text)
    new, messages = written(str(tmp_path / 'own.py'), shapes, tmp_path / 'my.py')
    assert innermost(new, 'test').data_root == f'{shapes}/' and innermost(new, 'test').metainfo.classes == CLASSES
    assert new.val_evaluator.ann_file == f'{shapes}/annotations/val.json'
    assert set(class_counts(new.model)) == {4} and new.train_dataloader.batch_size == 2
    assert "_base_ = 'own.py'" in (tmp_path / 'my.py').read_text()
    assert messages == ['note: own.py has no variable image_size nor max_epochs: it keeps its own.']


@pytest.mark.parametrize(('model', 'test_cfg'), [
    ('faster-rcnn_r50_fpn_1x_coco', 'rcnn'), ('rtmdet_nano_small-data', None), ('dino-4scale_r50_8xb2-12e_coco', '')])
def test_images_of_many_objects_raise_the_limits(model: str, test_cfg: str | None, shapes: Path, tmp_path: Path):
    """COCO's AP counts 100 detections an image. A query detector has no more than its queries."""
    content = read_coco(str(shapes / 'annotations/train.json'))
    first = content['images'][0]['id']
    content['annotations'] += [dict(id=1000 + n, image_id=first, category_id=1, bbox=[n % 50, n // 50, 9, 9]) for n in range(130)]
    (tmp_path / 'train.json').write_text(json.dumps(content))
    (tmp_path / 'val.json').write_bytes((shapes / 'annotations/val.json').read_bytes())
    plan = make_plan(find_dataset([tmp_path / 'train.json'], images=shapes / 'images'), read_recipe(model, tmp_path / 'my.py'),
                     tmp_path / 'my.py', False, print)
    (tmp_path / 'my.py').write_text(text_of(plan))
    cfg = load_config(tmp_path / 'my.py')
    assert METRICS.build(cfg.val_evaluator).proposal_nums == METRICS.build(cfg.test_evaluator).proposal_nums == (200,)
    if test_cfg != '':
        assert (cfg.model.test_cfg[test_cfg] if test_cfg else cfg.model.test_cfg).max_per_img == 200


def test_models_that_do_not_fit_are_refused_with_the_reason(shapes: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match='learns panoptic maps, which need a map of segments'):
        read_recipe('mask2former_r50_8xb2-lsj-50e_coco-panoptic', tmp_path / 'my.py')
    with pytest.raises(ConfigError, match="no config 'rtmdet_nona_bccd'.*Did you mean 'rtmdet_nano_bccd'"):
        read_recipe('rtmdet_nona_bccd', tmp_path / 'my.py')
    with pytest.raises(ConfigError, match="has no 'model'; name a whole recipe"):
        read_recipe('_base_/datasets/coco_detection.py', tmp_path / 'my.py')
    content = read_coco(str(shapes / 'annotations/train.json'))
    for a in content['annotations']:
        a['segmentation'] = []
    (tmp_path / 'train.json').write_text(json.dumps(content))
    found = find_dataset([tmp_path / 'train.json'], images=shapes / 'images')
    with pytest.raises(ValueError, match='train.json: none of its objects has a mask, which detkit::mask_rcnn.* learns. Choose'):
        make_plan(found, read_recipe('mask-rcnn_r50_fpn_1x_coco', tmp_path / 'my.py'), tmp_path / 'my.py', False, print)


def test_the_default_models_exist_and_aspect_ratios_are_kept(shapes: Path, tmp_path: Path):
    for on_gpu in (False, True):
        recipe = read_recipe(default_model(on_gpu), tmp_path / 'my.py')
        assert recipe.has('classes') and not recipe.with_masks
    cfg, _ = written('rtmdet_nano_bccd', shapes, tmp_path / 'my.py')       # which stretches BCCD's images
    assert cfg.keep_ratio is True and '"keep_ratio": false' not in json.dumps(cfg.test_dataloader.to_dict(), default=str)


def test_the_new_file_is_not_its_own_base(tmp_path: Path):
    (tmp_path / 'my.py').write_text("_base_ = 'detkit::rtmdet/rtmdet_nano_small-data.py'\n")
    with pytest.raises(ConfigError, match='my.py is the file of --model. Choose another --out'):
        read_recipe(str(tmp_path / 'my.py'), tmp_path / 'my.py')


def test_code_is_python():
    value = dict(a=1, b=[(1,), "it's"], c=dict(d=None, e=Path('/x')))
    assert code_of(value) == 'dict(a=1, b=[(1,), "it\'s"], c=dict(d=None, e=\'/x\'))'
    assert eval(code_of(value)) == dict(a=1, b=[(1,), "it's"], c=dict(d=None, e='/x'))


def test_a_long_list_of_classes_keeps_the_spaces_in_its_names():
    classes = tuple(f'{first} {second}' for first in ('traffic', 'potted', 'hot', "teddy's")
                    for second in ('light', 'plant', 'dog', 'sign  post'))
    lines = broken_code(classes).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 113          # the bracket that closes comes after the last entry
    assert eval(broken_code(classes)) == classes
    assert eval(broken_code(list(classes))) == list(classes)
