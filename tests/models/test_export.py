"""Every kind leaves torch as it is in it: through torch.export and ONNX, with any number of images of any size."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kinds import DETECTORS, make_sample, small_detector
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detkit.structures.detections import Detections


@pytest.fixture(params=list(DETECTORS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def images_of(count: int, size: tuple[int, int]) -> Tensor:
    """Normalised."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))


def detected(model: nn.Module, images: Tensor) -> list[InstanceData]:
    with torch.no_grad():
        return model.find(images, [make_sample([], size=tuple(images.shape[2:])) for _ in images])


def assert_same_detections(got: tuple[Tensor, ...], want: list[InstanceData]) -> None:
    """Rows of each image, as sets: where scores tie, the order is nobody's. Empty rows hold nothing and come last."""
    got = Detections(*got)
    assert len(got.boxes) == len(want)
    for i, expected in enumerate(want):
        held = got.labels[i] >= 0
        count = int(held.sum())
        assert count == len(expected) > 0
        assert held[:count].all()
        assert got.scores[i, count:].abs().sum() == got.boxes[i, count:].abs().sum() == 0
        assert (got.scores[i, :-1] >= got.scores[i, 1:]).all()
        same = (got.labels[i, None, :count] == expected.labels[:, None]) \
            & torch.isclose(got.scores[i, None, :count], expected.scores[:, None], atol=1e-3, rtol=0) \
            & torch.isclose(got.boxes[i, None, :count], expected.bboxes[:, None], atol=2e-2, rtol=1e-3).all(-1)
        assert same.any(0).all() and same.any(1).all()
        assert (got.masks is not None) == ('masks' in expected)
        if got.masks is not None:
            apart = (got.masks[i, None, :count] - expected.masks[:, None]).abs().flatten(2).amax(-1)
            assert (apart.masked_fill(~same, 1.).amin(1) < 1e-2).all()


SECOND = 3, (192, 320)     # another batch and size than the program was made from


def test_decoding_in_tensors_of_one_shape_is_detection(kind: str):
    model, images = small_detector(kind), images_of(2, (64, 96))
    with torch.no_grad():
        assert_same_detections(model.exportable()(images), detected(model, images))


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    batch, height, width = (torch.export.Dim(name, min=1, max=64) for name in ('batch', 'height', 'width'))
    return torch.export.export(model.exportable(), (images_of(2, (160, 192)),),
                               dynamic_shapes=({0: batch, 2: 32 * height, 3: 32 * width},))


@pytest.mark.slow
def test_an_exported_program_detects_the_same_at_another_batch_and_size(kind: str, tmp_path: Path):
    """In torch, and in ONNX Runtime from a file."""
    onnxruntime = pytest.importorskip('onnxruntime')
    model, images = small_detector(kind), images_of(*SECOND)
    want = detected(model, images)
    with torch.no_grad():
        program = exported(model)
        assert_same_detections(program.module()(images), want)
        torch.onnx.export(program, dynamo=True, opset_version=21, input_names=['images']).save(tmp_path / 'detector.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'detector.onnx'), providers=['CPUExecutionProvider'])
    found = [torch.from_numpy(np.asarray(x)) for x in session.run(None, {'images': images.numpy()})]
    assert_same_detections(found, want)
    assert found[2].dtype == torch.int64
