"""What every kind's heads tell others: strides, and which objects something learns, or why that cannot be said."""
from __future__ import annotations

import pytest
import torch
from kinds import DETECTORS, make_batch, make_images, make_sample, small_detector
from torch import nn

from detkit.models.targets import targets_or_reason

BOXES = [[[4., 6., 40., 44.], [30., 30., 60., 58.]], [], [[2., 30., 30., 62.]]]
STRIDES = dict(fcos=(8, 16, 32, 64, 128), centernet=(4,), yolox=(8, 16, 32), rtmdet=(8, 16, 32), maskformer=(4,), mask2former=(4,), dino=())


@pytest.mark.parametrize('kind', DETECTORS)
def test_every_head_has_strides_and_targets_or_a_reason(kind: str):
    model = small_detector(kind)
    batch = make_batch(model, make_images(3), [make_sample(b) for b in BOXES])
    inputs, samples = batch['inputs'], batch['data_samples']
    with torch.no_grad():
        told = model.targets(model.network(inputs, **model.context(samples, training=True)), samples)
    heads = [name for name, module in model.named_children() if callable(getattr(module, 'loss', None))]
    assert sorted(told) == sorted(heads)
    for name, found in told.items():
        head = getattr(model, name)
        assert head.strides == STRIDES.get(kind, head.strides) and all(isinstance(s, int) for s in head.strides)
        if isinstance(found, str):
            assert name == 'roi_head' and found == head.no_targets
            continue
        objects = [[i for i in m.tolist() if i < len(b)] for m, b in zip(found.matched_objects, BOXES)]
        assert found.assigned_by in ('geometry', 'predictions', 'queries')
        if found.assigned_by != 'predictions':
            assert objects == [[0, 1], [], [0]]
        assert objects[1] == []


def test_a_head_without_either_is_named():
    class Plain(nn.Module):
        pass

    class Bag(Plain):
        no_targets = 'every anchor of a bag may learn an object'

    assert targets_or_reason(Plain(), None, []) == 'Plain has no targets(out, samples)'
    assert targets_or_reason(Bag(), None, []) == Bag.no_targets
