"""A sound data set of photographs on disk, into which tests put faults."""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from detkit.doctor import doctor
from detkit.doctor.findings import Report

CLASSES = ('RBC', 'WBC', 'Platelets')


@pytest.fixture
def bccd(shared, tmp_path) -> Path:
    """Twelve images of BCCD for training and six for validation, all sound."""
    source = shared / 'data/bccd'
    (tmp_path / 'images').mkdir()
    for split, count in (('train', 12), ('val', 6)):
        content = json.loads((source / f'annotations/{split}.json').read_text())
        content['images'] = content['images'][:count]
        ids = {i['id'] for i in content['images']}
        content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
        for image in content['images']:
            shutil.copy(source / 'images' / image['file_name'], tmp_path / 'images')
        (tmp_path / f'{split}.json').write_text(json.dumps(content))
    return tmp_path


def data_config(root: Path, splits=('train', 'val'), ann_file='{}.json', classes=CLASSES, images='images/', **options) -> dict:
    """A config with data sets alone."""
    return {f'{split}_dataloader': dict(dataset=dict(
        type='CocoDataset', data_root=str(root), ann_file=ann_file.format(split), data_prefix=dict(img=images), pipeline=[],
        metainfo=dict(classes=classes), **options)) for split in splits}


@pytest.fixture
def examine(bccd) -> Callable[..., Report]:
    """``examine(change)``: the report after ``change(content)`` of the training annotations."""
    def run(change: Callable[[dict], None] = lambda content: None, **options) -> Report:
        content = json.loads((bccd / 'train.json').read_text())
        change(content)
        (bccd / 'train.json').write_text(json.dumps(content))
        return doctor(data_config(bccd), model=False, **options)
    return run
