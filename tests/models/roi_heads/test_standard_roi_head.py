"""StandardRoIHead: which regions are taken, and a batch against its images."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mmengine.structures import InstanceData
from torch.testing import assert_close

from detkit.models.roi_heads.standard_roi_head import StandardRoIHead
from detkit.registry import MODELS, ConfigError

PROPOSALS = torch.tensor([[0., 0., 20., 20.], [0., 0., 20., 16.], [40., 0., 60., 20.], [40., 40., 60., 60.]])
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.5, match_low_quality=False)


def head(num: int = 64, add_gt: bool = True, **training: object) -> StandardRoIHead:
    torch.manual_seed(0)
    sampler = dict(type='RandomSampler', num=num, pos_fraction=.5, add_gt_as_proposals=add_gt)
    return MODELS.build(dict(
        type='StandardRoIHead', bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=4, featmap_strides=[8], roi_layer=dict(
            type='RoIAlign', output_size=2, sampling_ratio=2)),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=4, roi_feat_size=2, fc_out_channels=8, num_classes=3),
        train_cfg=dict(dict(assigner=ASSIGNER, sampler=sampler), **training),
        test_cfg=dict(score_thr=.05, nms=dict(type='nms', iou_threshold=.5), max_per_img=20)))


def proposals(count: int = 1) -> list[InstanceData]:
    return [InstanceData(bboxes=PROPOSALS.clone(), scores=torch.ones(4)) for _ in range(count)]


def test_positives_come_first_and_background_is_the_last_label(sample: Callable):
    taken = head(add_gt=False).sample_rois(PROPOSALS, sample([[0, 0, 20, 18], [41, 0, 61, 20]], [2, 0]))
    assert taken.boxes.tolist() == PROPOSALS.tolist()
    assert taken.labels.tolist() == [2, 2, 0, 3]
    assert taken.matched.tolist() == [0, 0, 1]
    assert taken.added.tolist() == [False] * 4


def test_objects_join_the_proposals(sample: Callable):
    objects = [[10, 30, 20, 40], [1, 50, 9, 60]]
    taken = head().sample_rois(PROPOSALS, sample(objects, [1, 2]))
    assert taken.boxes[:2].tolist() == objects
    assert taken.labels.tolist() == [1, 2, 3, 3, 3, 3]
    assert taken.matched.tolist() == [0, 1]
    assert taken.added.tolist() == [True, True, False, False, False, False]


def test_without_objects_all_is_background(sample: Callable):
    taken = head().sample_rois(PROPOSALS, sample([]))
    assert (len(taken.boxes), taken.labels.tolist(), taken.matched.shape) == (4, [3] * 4, (0,))


def test_without_proposals_the_objects_are_looked_at(sample: Callable):
    taken = head().sample_rois(PROPOSALS[:0], sample([[10, 30, 20, 40]], [1]))
    assert (taken.boxes.tolist(), taken.labels.tolist()) == ([[10, 30, 20, 40]], [1])
    taken = head().sample_rois(PROPOSALS[:0], sample([]))
    assert (taken.boxes.shape, taken.labels.shape) == ((0, 4), (0,))


def test_samples_follow_from_the_seed(sample: Callable):
    boxes = torch.rand(200, 4) * 30
    boxes[:, 2:] += 31
    h = head(num=16)
    before = torch.get_rng_state()
    first, same, other = (h.sample_rois(boxes, sample([], seed=s)).boxes for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_batch_of_equal_images_costs_what_one_costs(sample: Callable):
    h, feats = head(), torch.randn(1, 4, 8, 8)
    one = sample([[0, 0, 20, 18]], [2])
    single = h.loss((feats,), proposals(), [one])
    double = h.loss((feats.repeat(2, 1, 1, 1),), proposals(2), [one, one])
    assert set(single) == {'loss_cls', 'loss_bbox', 'acc'}
    for key in single:
        assert_close(single[key], double[key])


def test_a_batch_predicts_what_its_images_do(sample: Callable):
    h, feats, samples = head(), torch.randn(3, 4, 8, 8), [sample([]) for _ in range(3)]
    several = proposals(3)
    several[1] = several[1][:0]                                     # one image without proposals
    together = h.predict((feats,), several, samples)
    for i in range(3):
        alone = h.predict((feats[i:i + 1],), several[i:i + 1], samples[i:i + 1])[0]
        assert_close(together[i].bboxes, alone.bboxes)
        assert_close(together[i].scores, alone.scores)
        assert torch.equal(together[i].labels, alone.labels)
    assert [len(x) > 0 for x in together] == [True, False, True]


def test_nothing_at_all_still_gives_every_parameter_a_gradient(sample: Callable):
    h = head()
    found = h.loss((torch.randn(1, 4, 8, 8),), [InstanceData(bboxes=torch.zeros(0, 4))], [sample([])])
    assert {k: v.item() for k, v in found.items()} == dict(loss_cls=0, loss_bbox=0, acc=0)
    (found['loss_cls'] + found['loss_bbox']).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_an_assigner_that_needs_predictions_is_refused():
    with pytest.raises(ConfigError, match='train_cfg.assigner: an assigner that looks at predictions cannot assign proposals'):
        head(assigner=dict(type='DynamicSoftLabelAssigner'))
