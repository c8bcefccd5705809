"""The same model, weights and images give what MMDetection 3.3.0 gave: keys, features, predictions, losses, gradients.

The recorded cases are described in tests/parity/README.md.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detweights import drawn_images
from reference import COLUMNS, run_case

from detkit.registry import register_all_modules

CASES = sorted((Path(__file__).resolve().parents[1] / 'parity/cases').glob('*.json'))
LONG = ('cascade', 'deformable', 'dino', 'mask-rcnn')
# words in the names of recorded cases
WHOLE = ('retinanet_r18', 'retinanet_r50_fpn_1x', 'faster-rcnn_r50_fpn_1x', 'mask-rcnn_r50_fpn_1x', 'cascade-rcnn', 'tood', 'fcos',
         'centernet', 'gfl', 'yolox', 'rtmdet', 'detr_r50', 'deformable', 'dino', 'mask2former', 'mask-rcnn_swin', 'giou', 'gn-all',
         'libra', 'maskformer', 'rpn_r50', 'sabl')


@pytest.fixture(autouse=True)
def our_scope():
    register_all_modules(init_default_scope=True)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize('path', [pytest.param(path, marks=pytest.mark.slow if path.stem.startswith(LONG) else ()) for path in CASES],
                         ids=[path.stem.removesuffix('__drawn') for path in CASES])
def test_every_column_equals_the_reference(path: Path):
    case = read(path)
    recorded = dict(zip(COLUMNS, (key in case for key in ('keys', 'features', 'predict', 'loss', 'grad_norm'))))
    assert run_case(case, drawn_images()) == {column: 'ok' if there else '-' for column, there in recorded.items()}


def test_another_loss_formula_is_noticed():
    case = read(next(path for path in CASES if 'retinanet_r18' in path.stem))
    assert 'alpha=0.25' in case['model']
    case['model'] = case['model'].replace('alpha=0.25', 'alpha=0.26')
    result = run_case(case, drawn_images())
    assert (result['keys'], result['feat'], result['pred']) == ('ok', 'ok', 'ok')
    assert 'loss_cls' in result['loss'] and 'loss_bbox' not in result['loss']


@pytest.mark.slow
def test_the_reference_cases_beside_the_checkout_pass(shared: Path, root: Path):
    """The reference's own checker, on photographs too."""
    recorded = [path for path in (shared / 'parity/cases').glob('*.json') if any(word in path.stem for word in WHOLE)]
    assert len(recorded) > len(WHOLE)
    done = subprocess.run([sys.executable, str(shared / 'parity/check.py'), *WHOLE], cwd=root, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(root)}, timeout=2400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f'{len(recorded)} passed, 0 failed' in done.stdout
