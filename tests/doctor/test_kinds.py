"""The doctor looks at every kind of detector: what it can examine, and what it says of the rest."""
from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from kinds import DETECTORS, make_batch, make_images, make_sample, small_detector

from detkit.doctor.findings import Report
from detkit.doctor.run import examine_matching

BOXES = [[[4., 6., 40., 44.], [30., 30., 60., 58.]], [[20., 10., 60., 30.], [2., 30., 30., 62.]]]


def examined(name: str) -> Report:
    torch.manual_seed(0)
    model, report = small_detector(name), Report()

    def batch_of(count: int) -> Iterator[dict]:
        yield copy.deepcopy(make_batch(model, make_images(2), [make_sample(b) for b in BOXES]))
    examine_matching(model, batch_of, report)
    return report


@pytest.mark.parametrize('name', DETECTORS)
def test_every_kind_is_examined_or_told_why_not(name: str):
    report = examined(name)
    assert report.kinds('fault') == set(), report.text()
    not_examined = [p for f in report.findings if f.kind == 'matching not examined' for p in f.places]
    assert report.facts.get('matching') or not_examined, report.text()
