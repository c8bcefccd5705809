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


def inputs_of(count: int, size: tuple[int, int], *smaller: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Normalised images and their sizes: ``smaller``, the others as large as the batch. Padding is 0."""
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))
    sizes = torch.tensor([*smaller, *[size] * (count - len(smaller))])
    for image, (height, width) in zip(images, sizes):
        image[:, height:], image[:, :, width:] = 0, 0
    return images, sizes


def detected(model: nn.Module, images: Tensor, sizes: Tensor) -> list[InstanceData]:
    batch = tuple(images.shape[2:])
    with torch.no_grad():
        return model.find(images, [make_sample([], size=tuple(size), pad_shape=batch, batch_input_shape=batch) for size in sizes.tolist()])


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
            masks = got.masks[i, None, :count, :expected.masks.shape[-2], :expected.masks.shape[-1]]      # these end at the image
            apart = (masks - expected.masks[:, None]).abs().flatten(2).amax(-1)
            assert (apart.masked_fill(~same, 1.).amin(1) < 1e-2).all()


# Another batch and size than the program was made from, and what is padded in it.
SECOND = 3, (192, 320), (192, 201), (135, 320)


@pytest.mark.parametrize('smaller', [[], [(64, 70), (41, 96)]], ids=['whole', 'padded'])
def test_decoding_in_tensors_of_one_shape_is_detection(kind: str, smaller: list):
    model, (images, sizes) = small_detector(kind), inputs_of(3, (64, 96), *smaller)
    with torch.no_grad():
        assert_same_detections(model.exportable()(images, sizes), detected(model, images, sizes))


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    batch, height, width = (torch.export.Dim(name, min=1, max=64) for name in ('batch', 'height', 'width'))
    return torch.export.export(model.exportable(), inputs_of(2, (160, 192), (150, 192)),
                               dynamic_shapes=({0: batch, 2: 32 * height, 3: 32 * width}, {0: batch}))


@pytest.mark.slow
def test_an_exported_program_detects_the_same_at_another_batch_and_size(kind: str, tmp_path: Path):
    """In torch, and in ONNX Runtime from a file; images of different sizes in one batch."""
    onnxruntime = pytest.importorskip('onnxruntime')
    model, (images, sizes) = small_detector(kind), inputs_of(*SECOND)
    want = detected(model, images, sizes)
    with torch.no_grad():
        program = exported(model)
        assert_same_detections(program.module()(images, sizes), want)
        torch.onnx.export(program, dynamo=True, opset_version=21, input_names=['images', 'sizes']).save(tmp_path / 'detector.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'detector.onnx'), providers=['CPUExecutionProvider'])
    inputs = {i.name: x.numpy() for i, x in zip(session.get_inputs(), (images, sizes))}      # YOLOX and CenterNet ask for no sizes
    found = [torch.from_numpy(np.asarray(x)) for x in session.run(None, inputs)]
    assert_same_detections(found, want)
    assert found[2].dtype == torch.int64
