"""CascadeRoIHead: what its stages hand on, their losses and their mean."""
from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch.testing import assert_close

from detkit.models.roi_heads.cascade_roi_head import CascadeRoIHead, SampledRoIs
from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks

PROPOSALS = torch.tensor([[0., 0., 20., 20.], [0., 0., 20., 16.], [40., 0., 60., 20.], [40., 40., 60., 60.]])


def training(iou: float) -> dict:
    return dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou, match_low_quality=False),
                sampler=dict(type='RandomSampler', num=64, pos_fraction=.5), mask_size=4)


def head(weights: tuple = (1, .5), masks: bool = True, **changes: object) -> CascadeRoIHead:
    torch.manual_seed(0)
    extractor = dict(type='SingleRoIExtractor', out_channels=4, featmap_strides=[8], roi_layer=dict(
        type='RoIAlign', output_size=2, sampling_ratio=2))
    parts = dict(mask_roi_extractor=extractor, mask_head=dict(
        type='FCNMaskHead', num_convs=1, in_channels=4, conv_out_channels=4, num_classes=3)) if masks else {}
    return MODELS.build(dict(
        type='CascadeRoIHead', num_stages=2, stage_loss_weights=list(weights), bbox_roi_extractor=extractor,
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=4, roi_feat_size=2, fc_out_channels=8, num_classes=3),
        train_cfg=[training(.5), training(.6)],
        test_cfg=dict(score_thr=.05, nms=dict(type='nms', iou_threshold=.5), max_per_img=20)) | parts | changes)


def proposals(count: int = 1) -> list[InstanceData]:
    return [InstanceData(bboxes=PROPOSALS.clone(), scores=torch.ones(4)) for _ in range(count)]


def test_layers_and_losses_bear_their_stage(sample: Callable):
    h = head()
    assert {k.split('.')[0] + '.' + k.split('.')[1] for k in h.state_dict()} == {f'{n}_head.{i}' for n in ('bbox', 'mask') for i in (0, 1)}
    losses = h.loss((torch.randn(1, 4, 8, 8),), proposals(), [sample([[0, 0, 20, 18]], [2])])
    assert set(losses) == {f's{i}.{n}' for n in ('loss_cls', 'loss_bbox', 'loss_mask', 'acc') for i in (0, 1)}
    assert set(head(masks=False).loss((torch.randn(1, 4, 8, 8),), proposals(), [sample([])])) == {
        f's{i}.{n}' for n in ('loss_cls', 'loss_bbox', 'acc') for i in (0, 1)}


def test_losses_are_weighed_by_stage_and_accuracy_is_not(sample: Callable):
    feats, samples = (torch.randn(1, 4, 8, 8),), [sample([[0, 0, 20, 18]], [2])]
    plain, weighed = (head(w).loss(feats, proposals(), samples) for w in ((1, 1), (2, .25)))
    for name, factor in (('s0.loss_cls', 2), ('s0.loss_mask', 2), ('s1.loss_cls', .25), ('s1.loss_bbox', .25), ('s1.loss_mask', .25),
                         ('s0.acc', 1), ('s1.acc', 1)):
        assert_close(weighed[name], plain[name] * factor)


def test_what_a_stage_hands_on_are_its_moved_rois_without_the_objects(sample: Callable):
    h = head()
    taken = SampledRoIs(boxes=torch.tensor([[0., 0., 20., 18.], [0., 0., 20., 20.], [40., 40., 60., 60.]]),
                        labels=torch.tensor([2, 2, 3]), matched=torch.tensor([0, 0]), added=torch.tensor([True, False, False]))
    logits, deltas = torch.zeros(3, 4), torch.zeros(3, 3, 4)
    logits[:, 1] = 5.                                # the background moves by its likeliest class, 1; a positive by its object's, 2
    deltas[1, 2, 0], deltas[2, 1, 1] = 1., -2.       # a tenth of the width to the right, two tenths of the height up
    moved, = h.refined(h.bbox_head[0], logits, deltas, [taken], [sample([[0, 0, 20, 18]], [2])])
    assert_close(moved, torch.tensor([[2., 0., 22., 20.], [40., 36., 60., 56.]]))


def test_moved_rois_end_at_the_image(sample: Callable):
    h = head()
    moved = h.bbox_head[0].refine(torch.zeros(1, 4), torch.full((1, 3, 4), 20.), PROPOSALS[:1], (16, 30))
    assert moved.tolist() == [[0, 0, 30, 16]]


def test_a_batch_predicts_what_its_images_do(sample: Callable):
    h, feats, samples = head(), torch.randn(3, 4, 8, 8), [sample([]) for _ in range(3)]
    several = proposals(3)
    several[1] = several[1][:0]                                     # one image without proposals
    together = h.predict((feats,), several, samples)
    for i in range(3):
        alone = h.predict((feats[i:i + 1],), several[i:i + 1], samples[i:i + 1])[0]
        for field in ('bboxes', 'scores', 'labels', 'masks'):
            assert_close(together[i][field], alone[field])
    assert [len(x) > 0 for x in together] == [True, False, True]


def test_scores_and_masks_are_means_over_the_stages(sample: Callable):
    """With stages that leave the boxes where they are."""
    h, feats = head(), (torch.randn(1, 4, 8, 8),)
    for stage in h.bbox_head:
        torch.nn.init.zeros_(stage.fc_reg.weight)
        torch.nn.init.zeros_(stage.fc_reg.bias)
    found = h.predict(feats, proposals(), [sample([])])[0]
    rois = torch.cat([torch.zeros(len(found), 1), found.bboxes], 1)
    logits = torch.stack([b(h.bbox_roi_extractor[0](feats, rois))[0] for b in h.bbox_head]).mean(0)
    assert_close(found.scores, logits.softmax(-1).gather(1, found.labels[:, None])[:, 0])
    masks = torch.stack([m(h.mask_roi_extractor[0](feats, rois)) for m in h.mask_head]).sigmoid().mean(0)
    assert_close(found.masks, masks[torch.arange(len(found)), found.labels])


def test_masks_without_an_extractor_of_their_own_are_made_from_the_features_of_the_boxes(sample: Callable):
    feats, samples = (torch.randn(1, 4, 8, 8),), [sample([[0, 0, 20, 18]], [2])]
    own, shared = head(), head(mask_roi_extractor=None)
    for name, value in own.loss(feats, proposals(), samples).items():
        assert_close(shared.loss(feats, proposals(), samples)[name], value)


def test_nothing_at_all_still_gives_every_parameter_a_gradient(sample: Callable):
    h = head()
    losses = h.loss((torch.randn(1, 4, 8, 8),), [InstanceData(bboxes=torch.zeros(0, 4))], [sample([])])
    assert all(v.item() == 0 for v in losses.values())
    sum(v.sum() for k, v in losses.items() if 'loss' in k).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_a_sample_without_masks_is_named(sample: Callable):
    one = sample([[0, 0, 20, 18]], [2], img_path='a/b.png')
    del one.gt_instances.masks
    with pytest.raises(ConfigError, match=r"image 'a/b.png' came without masks, .* with_mask=True in the LoadAnnotations"):
        head().loss((torch.randn(1, 4, 8, 8),), proposals(), [one])


@pytest.mark.parametrize(('size', 'fits'), [((64, 64), True), ((96, 128), True), ((64, 128), True), ((64, 63), False), ((32, 32), False)])
def test_masks_of_another_size_than_the_image_are_named(sample: Callable, size: tuple[int, int], fits: bool):
    one = sample([[0, 0, 20, 18]], [2], img_path='a/b.png', pad_shape=(64, 128), batch_input_shape=(96, 128))
    one.gt_instances.masks = BitmapMasks(np.ones((1, *size)), *size)
    with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=(
            rf"image 'a/b.png' has masks of {size[0]}x{size[1]} pixels .height x width., and the image has 64x64")):
        head().loss((torch.randn(1, 4, 8, 8),), proposals(), [one])


@pytest.mark.parametrize(('change', 'said'), [
    (dict(stage_loss_weights=[1]), 'stage_loss_weights of num_stages=2 must be a list of 2.'),
    (dict(train_cfg=training(.5)), 'it should be a list or None.'),
    (dict(bbox_head=[dict(type='Shared2FCBBoxHead')]), 'bbox_head has 1 entries, num_stages is 2.'),
    (dict(shared_head=dict(type='ResLayer', depth=18)), "CascadeRoIHead takes no argument 'shared_head'."),
    (dict(test_cfg=dict(nms=None, mask_thr_binary=-1)), 'mask_thr_binary: is -1; it should be in (0, 1].')])
def test_wrong_settings_are_refused(change: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        head(**change)
    assert said in str(caught.value)
