"""Mask2Former as a detector: what it predicts, in which frame, and what it refuses."""
from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from detkit.registry import MODELS, ConfigError
from detkit.structures.panoptic import INSTANCE_OFFSET


@pytest.fixture
def predict(detector, images, batch):
    def run(kind: str, samples: list, rescale: bool = True, **cfg):
        model = detector(kind)
        with torch.no_grad():
            data = batch(model, [images(1, s.img_shape)[0] for s in samples], samples, training=False)
            return model.predict(**data, rescale=rescale)
    return run


def test_masks_boxes_and_map_are_in_the_original_images_frame(predict, sample):
    made = sample([], size=(64, 48), ori_shape=(128, 96), scale_factor=(0.5, 0.5))
    out, = predict('mask2former_panoptic', [made])
    found, seg = out.pred_instances, out.pred_panoptic_seg.sem_seg
    assert found.masks.shape == (len(found), 128, 96) and seg.shape == (1, 128, 96) and seg.dtype == torch.int32
    assert torch.equal(found.bboxes, torch.from_numpy(found.masks.get_bboxes()))
    assert (found.scores[:-1] >= found.scores[1:]).all() and found.labels.max() < 3
    small, = predict('mask2former_panoptic', [made], rescale=False)
    assert small.pred_instances.masks.shape[1:] == (64, 48) == small.pred_panoptic_seg.sem_seg.shape[1:]
    assert_close(small.pred_instances.bboxes * 2, found.bboxes, atol=4, rtol=0)
    assert ((seg % INSTANCE_OFFSET) <= 4).all()


def test_what_is_turned_off_is_not_predicted(predict, sample):
    out, = predict('mask2former', [sample([])])
    assert 'pred_panoptic_seg' not in out and 'pred_instances' in out


def test_padding_is_no_part_of_the_masks(predict, sample):
    wide, tall = predict('mask2former_panoptic', [sample([], size=(32, 64)), sample([], size=(64, 40))])
    assert wide.pred_instances.masks.shape[1:] == (32, 64) and tall.pred_panoptic_seg.sem_seg.shape == (1, 64, 40)


def test_detect_is_near_to_predict_without_full_size_masks(detector, sample, images, batch):
    model = detector('mask2former')
    data = batch(model, images(2), [sample([]), sample([])], training=False)
    with torch.no_grad():
        quick, full = model.find(**data), model.predict(**data)
    for q, f in zip(quick, full):
        f = f.pred_instances
        assert q.masks.shape[1:] == (16, 16) and len(q) >= (f.scores > 0.01).sum()
        assert_close(q.scores, f.scores[:len(q)], atol=0.05, rtol=0)


def test_decode_gives_what_detect_gives(detector, sample, images, batch):
    model = detector('mask2former_panoptic')
    data = batch(model, images(2, (64, 96)), [sample([], size=(64, 96))] * 2, training=False)
    with torch.no_grad():
        out = model.network(data['inputs'])
        found, rows = model.detect(out, data['data_samples']), model.decode(out, torch.tensor([[64, 96]] * 2))
    for i, instances in enumerate(found):
        n = len(instances)
        assert_close((rows.boxes[i, :n], rows.scores[i, :n], rows.labels[i, :n], rows.masks[i, :n]),
                     (instances.bboxes, instances.scores, instances.labels, instances.masks))
        assert not rows.scores[i, n:].any() and (rows.labels[i, n:] == -1).all() and not rows.boxes[i, n:].any()


@pytest.mark.parametrize('change, words', [
    (dict(panoptic_fusion_head=dict(type='MaskFormerFusionHead', num_things_classes=3, num_stuff_classes=1)), 'num_stuff_classes of'),
    (dict(test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=37)), 'max_per_image=37 exceeds num_queries=12 times 3 classes'),
    (dict(test_cfg=dict(score_thr=0.5)), "has no 'score_thr'")])
def test_parts_that_do_not_fit_are_refused(config, change, words):
    with pytest.raises(ConfigError, match=words):
        MODELS.build(config('mask2former') | change)


def test_network_in_bfloat16_has_losses_in_float32(detector, sample, images, batch):
    model = detector('mask2former')
    data = batch(model, images(1), [sample([[4, 4, 40, 40]])])
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**data, mode='loss')
    plain = model(**data, mode='loss')
    assert all(v.dtype == torch.float32 and v.isfinite() for v in losses.values()) and set(losses) == set(plain)


def test_samples_are_not_changed_by_a_loss(detector, sample, images, batch):
    model = detector('mask2former_panoptic')
    data = batch(model, images(1), [sample([[4, 4, 40, 40]])])
    before = copy.deepcopy(data['data_samples'][0])
    model(**data, mode='loss')
    after = data['data_samples'][0]
    assert after.gt_instances.masks.masks.shape == before.gt_instances.masks.masks.shape
    assert torch.equal(after.gt_sem_seg.sem_seg, before.gt_sem_seg.sem_seg) and set(after.keys()) == set(before.keys())
