"""DetDataSample: typed fields, and generators that follow from its seed alone."""
from __future__ import annotations

import pickle

import pytest
import torch
from kinds import make_sample
from mmengine.structures import InstanceData, PixelData

from detkit.structures import DetDataSample
from detkit.structures.random_streams import RandomStream
from detkit.structures.sample import generator_of, moved, padded_sizes

FIELDS = ['gt_instances', 'ignored_instances', 'pred_instances', 'proposals', 'gt_sem_seg', 'pred_sem_seg', 'gt_panoptic_seg',
          'pred_panoptic_seg']


def value_for(name: str) -> InstanceData | PixelData:
    return PixelData(sem_seg=torch.zeros(1, 2, 3)) if name.endswith('_seg') else InstanceData(bboxes=torch.rand(2, 4))


@pytest.mark.parametrize('name', FIELDS)
def test_a_field_is_absent_until_set_and_after_deletion(name: str):
    sample, value = DetDataSample(), value_for(name)
    assert name not in sample
    assert sample.get(name) is None
    setattr(sample, name, value)
    assert name in sample
    assert getattr(sample, name) is value
    delattr(sample, name)
    assert name not in sample
    with pytest.raises(AttributeError):
        getattr(sample, name)


@pytest.mark.parametrize('name', FIELDS)
def test_a_field_refuses_another_type(name: str):
    other = InstanceData() if name.endswith('_seg') else PixelData()
    for wrong in (other, None, dict(bboxes=torch.zeros(0, 4))):
        with pytest.raises(AssertionError):
            setattr(DetDataSample(), name, wrong)


def test_metainfo_reads_as_attributes():
    sample = DetDataSample(metainfo=dict(img_shape=(4, 6), scale_factor=(.5, .25)))
    assert (sample.img_shape, sample.scale_factor, sample.get('flip', False)) == ((4, 6), (.5, .25), False)
    assert 'img_shape' in sample


def test_moving_a_sample_moves_its_fields():
    sample = DetDataSample(gt_instances=InstanceData(bboxes=torch.zeros(1, 4)))
    assert sample.to('meta').gt_instances.bboxes.device.type == 'meta'
    assert sample.gt_instances.bboxes.device.type == 'cpu'


def test_a_moved_sample_is_a_copy_on_another_device():
    sample = DetDataSample(metainfo=dict(img_id=3))
    sample.gt_instances = InstanceData(bboxes=torch.rand(2, 4), kinds=['a', 'b'])
    other = moved(sample, torch.device('meta'))
    assert (other.img_id, other.gt_instances.bboxes.device.type, other.gt_instances.kinds) == (3, 'meta', ['a', 'b'])
    assert len(other.gt_instances) == 2
    other.set_metainfo(dict(pad_shape=(8, 8)))
    other.gt_instances.labels = torch.zeros(2)
    other.pred_instances = InstanceData()
    assert 'pad_shape' not in sample
    assert 'pred_instances' not in sample
    assert sorted(sample.gt_instances.keys()) == ['bboxes', 'kinds']
    assert sample.gt_instances.bboxes.device.type == 'cpu'


def test_a_sample_survives_a_worker_process():
    sample = DetDataSample(metainfo=dict(seed=5), gt_instances=InstanceData(bboxes=torch.rand(2, 4)))
    again = pickle.loads(pickle.dumps(sample))
    assert again.seed == 5
    assert torch.equal(again.gt_instances.bboxes, sample.gt_instances.bboxes)


def draw(sample: DetDataSample, stream: RandomStream = RandomStream.PRIOR_SAMPLING) -> list[int]:
    return torch.randperm(1000, generator=generator_of(sample, stream))[:20].tolist()


def test_the_generator_follows_from_seed_and_stream_alone():
    a, same, b = (DetDataSample(metainfo=dict(seed=s)) for s in (7, 7, 8))
    assert draw(a) == draw(same) == draw(a)
    assert draw(a) != draw(b)
    assert draw(a, RandomStream.PRIOR_SAMPLING) != draw(a, RandomStream.ROI_SAMPLING)


def test_a_sample_without_a_seed_draws_from_torchs_own_generator():
    assert generator_of(DetDataSample(), RandomStream.DENOISING) is None


def test_any_seed_makes_a_generator():
    for seed in (0, 2**40, 2**63 - 1, -3):
        assert len(draw(DetDataSample(metainfo=dict(seed=seed)))) == 20


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    draw(DetDataSample(metainfo=dict(seed=1)))
    assert torch.equal(torch.get_rng_state(), before)



def test_sizes_are_handed_on_where_an_image_is_padded():
    small = make_sample([], size=(40, 64), batch_input_shape=(64, 64))
    assert padded_sizes([make_sample([])]) is None
    assert padded_sizes([make_sample([]), small]).tolist() == [[64, 64], [40, 64]]
