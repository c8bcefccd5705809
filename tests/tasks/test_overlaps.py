"""Overlaps by hand; the same values come from MMDetection 3.3.0."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.registry import ConfigError
from detkit.tasks.overlaps import BboxOverlaps2D

A = torch.tensor([[0., 0., 10., 10.], [0., 0., 10., 10.]])
B = torch.tensor([[5., 0., 15., 20.], [20., 0., 30., 10.]])     # 50 of 100 and 200 shared; nothing shared
PAIRS = dict(iou=[[.2, 0.], [.2, 0.]], iof=[[.5, 0.], [.5, 0.]], giou=[[.2 - 50 / 300, -1 / 3]] * 2)


@pytest.mark.parametrize('options', [{}, dict(dtype='fp16'), dict(dtype='fp16', scale=8.)], ids=str)
@pytest.mark.parametrize('mode', PAIRS)
def test_every_mode_is_computed(mode, options):
    overlap = BboxOverlaps2D(**options)
    tolerance = dict(atol=1e-6 if not options else 2e-3, rtol=0)
    assert_close(overlap(A, B, mode), torch.tensor(PAIRS[mode]), **tolerance)
    assert_close(overlap(A, B, mode, is_aligned=True), torch.tensor(PAIRS[mode]).diagonal(), **tolerance)
    assert_close(overlap(A[None], B[None], mode), torch.tensor([PAIRS[mode]]), **tolerance)
    with_scores = torch.cat([A, torch.ones(2, 1)], 1)
    assert_close(overlap(with_scores, B, mode), torch.tensor(PAIRS[mode]), **tolerance)


def test_no_box_overlaps_with_nothing():
    overlap = BboxOverlaps2D()
    for mode in PAIRS:
        assert overlap(A[:0], B, mode).shape == (0, 2) and overlap(A, B[:0], mode).shape == (2, 0)
        assert overlap(A[:0], B[:0], mode, is_aligned=True).shape == (0,)


@pytest.mark.parametrize('call,message', [
    (lambda: BboxOverlaps2D()(A, B, 'diou'), "mode='diou' is unknown. Known: iou, iof, giou"),
    (lambda: BboxOverlaps2D()(A, B[:1], is_aligned=True), 'as many boxes on both sides, given 2 and 1'),
    (lambda: BboxOverlaps2D()(A[:, :3], B), r'given shape \(2, 3\)'), (lambda: BboxOverlaps2D(dtype='fp8'), "dtype='fp8' is unknown"),
    (lambda: BboxOverlaps2D(scale=2.), 'scale=2.0 must be positive, and needs'), (lambda: BboxOverlaps2D(0., 'fp16'), 'scale=0.0')])
def test_what_has_no_meaning_is_refused(call, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        call()
