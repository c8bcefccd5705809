"""Batches through shared buffers are the batches, and stay what they were for who keeps them."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

from detkit.engine import ring
from detkit.engine.ring import RingLoader, dumped, make_buffers
from detkit.structures import DetDataSample


class Images:
    """Of different sizes, whose pixels tell which they are."""

    def __init__(self, count: int = 14, largest: int = 9, dtype: torch.dtype = torch.uint8) -> None:
        self.count, self.largest, self.dtype = count, largest, dtype

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        height, width = 4 + index % 5, self.largest - index % 3
        sample = DetDataSample(metainfo=dict(img_id=index, seed=index))
        sample.gt_instances = InstanceData(bboxes=torch.full((index % 3, 4), float(index)), labels=torch.arange(index % 3))
        image = np.arange(height * width * 3).reshape(height, width, 3) + index
        return dict(inputs=torch.from_numpy(image).to(self.dtype).permute(2, 0, 1), data_samples=sample)


def loader(data: Images, workers: int = 2, prefetch: int = 2, **options: object) -> RingLoader:
    buffers = make_buffers(data, 3, workers, prefetch)
    return RingLoader(data, buffers, pseudo_collate, **{**dict(batch_size=3, num_workers=workers, prefetch_factor=prefetch), **options})


def check(batches: list[dict], data: Images) -> None:
    index = 0
    for batch in batches:
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            expected = data[index]
            assert torch.equal(image, expected['inputs'])
            assert (sample.img_id, sample.seed) == (index, index)
            assert torch.equal(sample.gt_instances.bboxes, expected['data_samples'].gt_instances.bboxes)
            assert torch.equal(sample.gt_instances.labels, expected['data_samples'].gt_instances.labels)
            index += 1
    assert index == len(data)


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_a_batch_that_is_used_at_once_is_right(workers: int, context: str):
    data = Images()
    for _ in range(2):
        seen = 0
        for batch in loader(data, workers, multiprocessing_context=context):
            for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
                assert torch.equal(image, data[sample.img_id]['inputs'])
                seen += 1
        assert seen == len(data)


def test_kept_batches_stay_what_they_were():
    data = Images(count=40)
    check(list(loader(data)), data)


def test_persistent_workers_and_a_pass_that_is_broken_off():
    data = Images(count=40)
    for persistent in (True, False):
        source, held = loader(data, persistent_workers=persistent), []
        for batch in source:
            held.append(batch)
            if len(held) == 4:
                break
        check(list(source), data)
        check(held, Images(count=12))
        check(list(source), data)


def test_images_travel_in_the_buffers():
    source = loader(Images())
    batches = iter(source)
    first = next(batches)['inputs'][0]
    starts = {b.untyped_storage().data_ptr() for buffers in source.buffers for b in buffers}
    assert first.untyped_storage().data_ptr() in starts
    batches.close()                                                     # whoever gives up the pass keeps the image
    assert first.untyped_storage().data_ptr() not in starts
    assert torch.equal(first, Images()[0]['inputs'])


def test_a_batch_that_does_not_fit_comes_in_the_plain_way(monkeypatch: pytest.MonkeyPatch):
    data = Images()
    monkeypatch.setattr(ring, 'SPARE', 0.1)
    check(list(loader(data)), data)


def test_float_images_and_a_full_shared_memory_have_no_buffers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert make_buffers(Images(dtype=torch.float32), 3, 2, 2) is None
    monkeypatch.setattr(ring.shutil, 'disk_usage', lambda path: type('Usage', (), dict(free=1000))())
    assert make_buffers(Images(), 3, 2, 2) is None


def test_tensors_are_pickled_as_arrays():
    import pickle
    values = dict(a=torch.arange(3), empty=torch.zeros(0, 4), half=torch.ones(2, dtype=torch.bfloat16), flag=torch.tensor([True]))
    for key, value in pickle.loads(dumped(values)).items():
        assert torch.equal(value, values[key]) and value.dtype == values[key].dtype
