"""Images of several sizes -> one normalised, padded batch; batch augmentations."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from torch.testing import assert_close

from detkit.models.preprocess import BatchFixedSizePad, BatchResize, BatchSyncRandomResize, DetDataPreprocessor
from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks, DetDataSample
from detkit.structures.train_state import TrainState


def flat(value: int, height: int, width: int) -> torch.Tensor:
    """A picture whose channels are ``value``, ``value`` + 1 and ``value`` + 2."""
    return torch.stack([torch.full((height, width), value + c, dtype=torch.uint8) for c in range(3)])


def test_channels_are_normalised_in_the_order_after_the_swap():
    image = flat(10, 2, 2)
    plain = DetDataPreprocessor(mean=[10., 10., 10.], std=[1., 2., 4.])
    assert plain(dict(inputs=[image]))['inputs'][0, :, 0, 0].tolist() == [0, .5, .5]
    for swap in ('bgr_to_rgb', 'rgb_to_bgr'):
        swapped = DetDataPreprocessor(mean=[10., 10., 10.], std=[1., 2., 4.], **{swap: True})
        assert swapped(dict(inputs=[image]))['inputs'][0, :, 0, 0].tolist() == [2, .5, 0]


def test_without_mean_only_the_type_changes():
    out = DetDataPreprocessor()(dict(inputs=[flat(10, 2, 2)]))
    assert (out['inputs'].dtype, out['data_samples']) == (torch.float32, None)
    assert out['inputs'][0, :, 0, 0].tolist() == [10, 11, 12]


@pytest.mark.parametrize('normalise', [{}, dict(mean=[5.] * 3, std=[2.] * 3)])
@pytest.mark.parametrize('stacked', [False, True])
def test_images_already_float_are_left_as_they_were(normalise: dict, stacked: bool):
    images = [flat(10, 2, 2).float(), flat(20, 2, 2).float()]
    given = torch.stack(images) if stacked else images + [flat(30, 3, 3).float()]
    before = [image.clone() for image in given]
    DetDataPreprocessor(**normalise)(dict(inputs=given))
    for image, kept in zip(given, before):
        assert torch.equal(image, kept)


def test_smaller_images_are_padded_after_normalisation_below_and_to_the_right():
    preprocess = DetDataPreprocessor(mean=[10.] * 3, std=[2.] * 3, pad_value=7)
    out = preprocess(dict(inputs=[flat(10, 2, 3), flat(12, 3, 2)]))['inputs']
    assert out.shape == (2, 3, 3, 3)
    assert out[0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [7, 7, 7]]
    assert out[1, 0].tolist() == [[1, 1, 7], [1, 1, 7], [1, 1, 7]]


def test_shapes_of_padding_are_written_down(sample: Callable):
    samples = [sample([], size=(33, 60)), sample([], size=(64, 20))]
    preprocess = DetDataPreprocessor(pad_size_divisor=32)
    out = preprocess(dict(inputs=[flat(0, 33, 60), flat(0, 64, 20)], data_samples=samples))
    assert out['inputs'].shape == (2, 3, 64, 64)
    assert [s.pad_shape for s in out['data_samples']] == [(64, 64), (64, 32)]
    assert [s.batch_input_shape for s in out['data_samples']] == [(64, 64)] * 2
    assert [s.img_shape for s in out['data_samples']] == [(33, 60), (64, 20)]


def test_one_size_needs_no_padding_and_may_come_stacked():
    preprocess = DetDataPreprocessor(mean=[10.] * 3, std=[2.] * 3)
    images = [flat(10, 4, 4), flat(20, 4, 4)]
    assert_close(preprocess(dict(inputs=images))['inputs'], preprocess(dict(inputs=torch.stack(images)))['inputs'])


def test_masks_are_padded_in_training_if_asked(sample: Callable):
    def masked() -> object:
        s = sample([[0, 0, 2, 2]], size=(3, 3))
        s.gt_instances.masks = BitmapMasks(np.ones((1, 3, 3), np.uint8), 3, 3)
        return s
    preprocess = DetDataPreprocessor(pad_size_divisor=4, pad_mask=True, mask_pad_value=9)
    masks = preprocess(dict(inputs=[flat(0, 3, 3)], data_samples=[masked()]), True)['data_samples'][0].gt_instances.masks
    assert masks.masks[0].tolist() == [[1, 1, 1, 9]] * 3 + [[9] * 4]
    for other, training in ((preprocess, False), (DetDataPreprocessor(pad_size_divisor=4), True)):
        kept = other(dict(inputs=[flat(0, 3, 3)], data_samples=[masked()]), training)['data_samples'][0].gt_instances.masks
        assert (kept.height, kept.width) == (3, 3)


def test_contradictions_are_refused():
    for wrong in (dict(mean=[1.] * 3), dict(std=[1.] * 3), dict(bgr_to_rgb=True, rgb_to_bgr=True)):
        with pytest.raises(ConfigError, match='DetDataPreprocessor takes mean and std together'):
            DetDataPreprocessor(**wrong)


def test_no_state_is_added_to_checkpoints():
    augment = dict(type='BatchSyncRandomResize', random_size_range=(32, 64))
    preprocess = DetDataPreprocessor(mean=[1.] * 3, std=[1.] * 3, batch_augments=[augment])
    assert preprocess.state_dict() == {}


# --------------------------------------------------------------------------------------------------- batch augmentation
def test_augments_run_in_training_alone(sample: Callable):
    preprocess = DetDataPreprocessor(batch_augments=[dict(type='BatchFixedSizePad', size=(8, 6), img_pad_value=5)])
    data = dict(inputs=[flat(1, 4, 4)], data_samples=[sample([[0, 0, 2, 2]], size=(4, 4))])
    assert preprocess(data, False)['inputs'].shape == (1, 3, 4, 4)
    out = preprocess(data, True)
    assert out['inputs'].shape == (1, 3, 8, 6)
    assert out['inputs'][0, 0, 7].tolist() == [5] * 6
    assert out['data_samples'][0].batch_input_shape == (8, 6)
    assert out['data_samples'][0].gt_instances.bboxes.tolist() == [[0, 0, 2, 2]]


def test_a_fixed_size_is_a_least_size(sample: Callable):
    inputs, samples = BatchFixedSizePad((8, 6))(torch.zeros(1, 3, 10, 4), [sample([])])
    assert inputs.shape == (1, 3, 10, 6)
    assert samples[0].batch_input_shape == (10, 6)


def test_batch_resize_fits_the_scale_and_pads(sample: Callable):
    one = sample([[10, 20, 30, 40]], size=(50, 100), scale_factor=(.5, .5))
    inputs, samples = BatchResize((80, 60), pad_size_divisor=32, pad_value=3)(torch.ones(1, 3, 50, 100), [one])
    assert inputs.shape == (1, 3, 64, 96)              # 0.8: 40 x 80, then to multiples of 32
    assert inputs[0, 0, 39, 79] == 1
    assert (inputs[0, 0, 40:] == 3).all()
    assert samples[0].gt_instances.bboxes.tolist() == [[8, 16, 24, 32]]
    assert (samples[0].img_shape, samples[0].batch_input_shape, samples[0].scale_factor) == ((40, 80), (64, 96), (.4, .4))


def shapes(augment: BatchSyncRandomResize, sample: Callable, count: int) -> list[tuple[int, ...]]:
    return [tuple(augment(torch.zeros(1, 3, 64, 96), [sample([], size=(64, 96))])[0].shape[2:]) for _ in range(count)]


def test_random_sizes_change_each_interval_and_follow_from_seed_and_iteration(sample: Callable):
    first = shapes(BatchSyncRandomResize((32, 256), interval=3), sample, 12)
    assert first[:3] == [(64, 96)] * 3                 # as it comes, until the first interval is over
    assert all(first[i] == first[i + 1] == first[i + 2] for i in (3, 6, 9))
    assert len({first[i] for i in (3, 6, 9)}) > 1
    assert all(h % 32 == 0 and w % 32 == 0 and 32 <= h <= 256 and w == round(1.5 * h / 32) * 32 for h, w in first[3:])
    before = torch.get_rng_state()
    resumed, other = BatchSyncRandomResize((32, 256), interval=3), BatchSyncRandomResize((32, 256), interval=3)
    resumed.train_state = TrainState(iteration=5)
    assert shapes(resumed, sample, 7) == first[5:]
    assert torch.equal(torch.get_rng_state(), before)
    other.train_state = TrainState(seed=50)
    assert shapes(other, sample, 12) != first


def test_boxes_and_sizes_follow_the_random_size(sample: Callable):
    augment = BatchSyncRandomResize((128, 128), interval=1)
    augment(torch.zeros(1, 3, 64, 96), [sample([])])
    one = sample([[8, 4, 16, 12]], size=(60, 90), pad_shape=(64, 96))
    inputs, samples = augment(torch.zeros(1, 3, 64, 96), [one])
    assert inputs.shape == (1, 3, 128, 192)
    assert samples[0].gt_instances.bboxes.tolist() == [[16, 8, 32, 24]]
    assert (samples[0].img_shape, samples[0].pad_shape, samples[0].batch_input_shape) == ((120, 180), (128, 192), (128, 192))
    _, samples = augment(torch.zeros(1, 3, 64, 80), [sample([[8, 4, 16, 12]], size=(64, 80))])     # 160 is five times 32
    assert (samples[0].gt_instances.bboxes.tolist(), samples[0].scale_factor) == ([[16, 8, 32, 24]], (2, 2))
    _, samples = augment(torch.zeros(1, 3, 64, 72), [sample([[9, 4, 18, 12]], size=(64, 72))])     # 144 is rounded to 128
    assert_close(samples[0].gt_instances.bboxes, torch.tensor([[16., 8., 32., 24.]]))
    assert samples[0].scale_factor == pytest.approx((128 / 72, 2))


def test_a_wrong_augment_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"batch_augments\[0\].type: no 'BatchResiz' in the registry 'model'. Did you mean 'BatchResize'"):
        MODELS.build(dict(type='DetDataPreprocessor', batch_augments=[dict(type='BatchResiz')]))


def test_label_maps_are_padded_with_the_batch_when_asked_to():
    samples = [DetDataSample(metainfo=dict(img_shape=(2, 3))), DetDataSample(metainfo=dict(img_shape=(4, 5)))]
    samples[0].gt_sem_seg = PixelData(sem_seg=torch.ones(1, 2, 3, dtype=torch.uint8))     # the other has no map
    images = [torch.zeros(3, *s.img_shape, dtype=torch.uint8) for s in samples]
    augment = dict(type='BatchFixedSizePad', size=(4, 8), pad_seg=True, seg_pad_value=200)
    preprocess = DetDataPreprocessor(pad_seg=True, batch_augments=[augment])
    labels = preprocess(dict(inputs=images, data_samples=samples), training=True)['data_samples'][0].gt_sem_seg.sem_seg
    assert labels.shape == (1, 4, 8) and labels.dtype == torch.uint8
    assert labels[0, :2, :3].eq(1).all() and labels[0, :, 5:].eq(200).all()               # the augmentation's, beyond the batch
    assert labels[0, 2:, :5].eq(255).all() and labels[0, :2, 3:5].eq(255).all()


def test_label_maps_are_resized_with_the_batch():
    sample = DetDataSample(metainfo=dict(img_shape=(2, 2)))
    sample.gt_sem_seg = PixelData(sem_seg=torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8))
    _, (resized,) = BatchResize(scale=(4, 4))(torch.zeros(1, 3, 2, 2), [sample])
    assert resized.gt_sem_seg.sem_seg[0].tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 255, 255]] * 2


@pytest.mark.parametrize('mean, std', [(3, 3), ([1., 2.], [1., 2., 3.]), ([0., 0., 0.], [1., 0., 1.]), (['a'], ['b']),
                                       ([1., 2.], [1., 2.])])
def test_numbers_that_do_not_fit_the_channels_are_refused(mean: object, std: object):
    with pytest.raises(ConfigError, match='takes mean and std as lists of 3 numbers, or of 1 for all channels, and no std of 0'):
        DetDataPreprocessor(mean, std)


def test_a_pipeline_without_its_last_step_is_named():
    with pytest.raises(ConfigError, match=r"a batch has no 'inputs' \(its keys: img\): the pipeline .* end in dict\(type='PackDet"):
        DetDataPreprocessor()(dict(img=[]))
