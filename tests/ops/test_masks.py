"""Mask paste-back and run-length codes."""
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco

from detkit.ops import masks as ops
from detkit.ops.masks import encode_masks, paste_masks, resize_masks, resized


def pasted_whole(mask, box, size, threshold):
    """Every pixel of the frame sampled, as Mask R-CNN defines it."""
    height, width = size
    y = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= threshold


def test_full_mask_covers_the_pixels_whose_centres_lie_in_the_box():
    code, = paste_masks(torch.ones(1, 28, 28), torch.tensor([[1., 2., 4., 4.]]), (6, 5))
    want = np.zeros((6, 5), np.uint8)
    want[2:4, 1:4] = 1
    np.testing.assert_array_equal(coco.decode(code), want)


@pytest.mark.parametrize('threshold', [0.2, 0.5, 0.8])
def test_pasting_the_reachable_part_equals_sampling_the_whole_frame(threshold, monkeypatch):
    monkeypatch.setattr(ops, 'STRIP', 100)       # several strips an object
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(40, 7, 9, generator=draw)
    corner, extent = torch.rand(40, 2, generator=draw) * 60 - 10, torch.rand(40, 2, generator=draw) * 50 + 0.1
    boxes = torch.cat([corner, corner + extent], 1)
    for code, mask, box in zip(paste_masks(masks, boxes, (37, 43), threshold), masks, boxes):
        np.testing.assert_array_equal(coco.decode(code), pasted_whole(mask, box, (37, 43), threshold).numpy())


@pytest.mark.parametrize('box', [[3., 3., 3., 5.], [5., 1., 2., 4.], [-9., -9., -2., -2.], [50., 1., 60., 4.]])
def test_box_without_area_or_outside_the_frame_has_an_empty_mask(box):
    code, = paste_masks(torch.ones(1, 4, 4), torch.tensor([box]), (8, 8))
    assert code['size'] == [8, 8]
    assert coco.area(code) == 0


def test_codes_are_those_of_pycocotools():
    masks = np.random.default_rng(0).random((20, 11, 7)) > np.linspace(0, 1, 20)[:, None, None]
    masks[0], masks[1], masks[2, :, :3], masks[3, 4:] = 1, 0, 1, 1
    want = [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    assert [c['counts'] for c in encode_masks(masks)] == [w['counts'].decode() for w in want]


@pytest.mark.parametrize('window', [(0, 0, 7, 11), (2, 0, 5, 11), (2, 0, 5, 4), (3, 5, 7, 11), (1, 2, 3, 4)])
def test_region_in_a_frame_is_coded_as_the_whole_frame(window):
    x1, y1, x2, y2 = window
    frame = np.zeros((11, 7), bool)
    frame[y1:y2, x1:x2] = np.random.default_rng(1).random((y2 - y1, x2 - x1)) > 0.3
    frame[y2 - 1, x2 - 1] = frame[y1, x1] = True
    want = coco.encode(np.asfortranarray(frame.astype(np.uint8)))
    assert ops.encode(np.ascontiguousarray(frame[y1:y2, x1:x2].T), (x1, y1), (11, 7))['counts'] == want['counts'].decode()


def test_resizing_in_chunks_equals_resizing_at_once(monkeypatch):
    masks = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(0))
    steps = [((24, 32), (20, 30)), ((50, 70), (50, 70))]
    x = F.interpolate(masks[None], (24, 32), mode='bilinear', align_corners=False)[..., :20, :30]
    want = F.interpolate(x, (50, 70), mode='bilinear', align_corners=False)[0]
    monkeypatch.setattr(ops, 'CHUNK', 2 * 50 * 70)
    assert [len(part) for part in resized(masks, steps)] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(list(resized(masks, steps))), want)
    codes = resize_masks(masks, steps, 0.3)
    np.testing.assert_array_equal(np.stack([coco.decode(c) for c in codes]), (want > 0.3).numpy())


def test_no_masks_give_no_codes():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (8, 8)) == []
    assert resize_masks(torch.zeros(0, 4, 4), [((8, 8), (8, 8))], 0.5) == []
    assert encode_masks(torch.zeros(0, 4, 4, dtype=torch.bool)) == []


MEASURED = '''
import resource, torch
from detkit.ops.masks import paste_masks, resize_masks

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

draw = torch.Generator().manual_seed(0)
corner, extent = torch.rand(100, 2, generator=draw) * 2000, torch.rand(100, 2, generator=draw) * 1000
masks, boxes = torch.rand(100, 28, 28, generator=draw), torch.cat([corner, corner + extent], 1)
boxes[0] = torch.tensor([0., 0., 4000., 3000.])
paste_masks(masks[:1], boxes[:1] / 100, (30, 40)), resize_masks(masks[:1], [((40, 40), (30, 40))], 0.5)
before = peak_mb()
assert len(paste_masks(masks, boxes, (3000, 4000))) == 100
pasted = peak_mb() - before
assert len(resize_masks(masks[:4], [((750, 1000), (750, 1000)), ((3000, 4000), (3000, 4000))], 0.5)) == 4
print(pasted, peak_mb() - before)
'''


@pytest.mark.skipif(sys.platform != 'linux', reason='the peak of the memory is read as Linux counts it')
def test_a_hundred_masks_of_twelve_megapixels_take_the_memory_of_a_few():
    """As bool masks they would take 1200 MB, as float masks four times that."""
    run = subprocess.run([sys.executable, '-c', MEASURED], capture_output=True, text=True, check=True)
    pasted, resized_too = map(float, run.stdout.split())
    assert pasted < 150
    assert resized_too < 300
