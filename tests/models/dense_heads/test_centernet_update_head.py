"""CenterNetUpdateHead: targets and losses worked out by hand."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn
from torch.testing import assert_close

from detkit.models.dense_heads.centernet_update_head import CenterNetUpdateHead
from detkit.nn.deform_conv import ModulatedDeformConv2d
from detkit.registry import MODELS, ConfigError

FEATS = (torch.zeros(1, 4, 3, 4),)                       # points at 4, 12, 20, 28 x 4, 12, 20
SIZE, BOX = (24, 32), [4., 4., 20., 20.]                 # the object of all tests: around the point (12, 12), index 5


def head(**cfg: object) -> CenterNetUpdateHead:
    """One level of stride 8; class scores 0.5, all distances one stride."""
    built = MODELS.build(dict(dict(type='CenterNetUpdateHead', num_classes=2, in_channels=4, stacked_convs=1, feat_channels=4,
                                   norm_cfg=None, strides=[8], regress_ranges=((0, 1e8),),
                                   test_cfg=dict(nms=dict(type='nms', iou_threshold=.5))), **cfg))
    for conv, value in ((built.conv_cls, 0.), (built.conv_reg, 1.)):
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, value)
    return built


def prior_grid(h: CenterNetUpdateHead) -> tuple[torch.Tensor, torch.Tensor]:
    priors = h.prior_generator([(3, 4)])[0]
    return priors, torch.tensor([h.regress_ranges[0]]).expand(len(priors), 2)


def test_the_heatmap_is_a_gaussian_in_pixels(sample: Callable):
    h = head()
    heat, distances, which = h.targets_of_image(*prior_grid(h), sample([BOX], [1], size=SIZE).gt_instances)
    near, far = math.exp(-64 / 16), math.exp(-128 / 16)                       # the least radius is 4; exp(-16) is under the floor
    assert_close(heat[:, 1].view(3, 4), torch.tensor([[far, near, far, 0], [near, 1, near, 0], [far, near, far, 0]]))
    assert (heat[:, 0] == 0).all()
    assert distances[5].tolist() == [8, 8, 8, 8]
    assert which.tolist() == [-1] * 5 + [0] + [-1] * 6                        # its neighbours lie on the object's sides, not inside


def test_large_objects_have_wide_gaussians_and_teach_nine_points():
    h, gt = head(), InstanceData(bboxes=torch.tensor([[0., 0., 24., 24.]]), labels=torch.tensor([0]))
    heat, distances, which = h.targets_of_image(*prior_grid(h), gt)
    assert which.view(3, 4).tolist() == [[0, 0, 0, -1]] * 3
    assert distances[0].tolist() == [4, 4, 20, 20]
    wide = (1 / 9)**2 * 2 * 24 * 24                                           # 14.2: still the least, 16
    assert wide < 16 and heat[4, 0].item() == pytest.approx(math.exp(-64 / 16))
    sharp = head(hm_min_radius=1)
    heat, _, _ = sharp.targets_of_image(*prior_grid(sharp), gt)
    assert heat[4, 0].item() == pytest.approx(math.exp(-64 / wide), rel=1e-4)


def test_levels_learn_their_range_alone(sample: Callable):
    gt = sample([BOX], [1], size=SIZE).gt_instances                           # half its diagonal is 11.3
    for ranges, expected in ((((0, 11),), 0), (((11, 12),), 1), (((12, 99),), 0)):
        h = head(regress_ranges=ranges)
        assert int((h.targets_of_image(*prior_grid(h), gt)[2] >= 0).sum()) == expected


def test_positives_are_the_cell_and_neighbours_with_good_boxes(sample: Callable):
    h, gt = head(), sample([BOX], [1], size=SIZE).gt_instances
    priors, reg = h.prior_generator([(3, 4)])[0], torch.zeros(12, 4)
    at, labels = h.good_places(priors, reg, [(3, 4)], gt)
    assert at.tolist() == [5] and labels.tolist() == [1]
    reg[6] = torch.tensor([16., 8., 0., 8.])                                  # from (20, 12) the object's box
    reg[7] = torch.tensor([24., 8., 0., 8.])                                  # two cells away: no candidate
    assert h.good_places(priors, reg, [(3, 4)], gt)[0].tolist() == [5, 6]
    reg[5] = reg.new_tensor([8., 8., 8., 8.])
    assert h.good_places(priors, reg, [(3, 4)], gt)[0].tolist() == [5, 6]
    out_of_range = head(regress_ranges=((100, 200),))                         # the cell itself need not be good on such a level
    assert out_of_range.good_places(priors, torch.zeros(12, 4), [(3, 4)], gt)[0].tolist() == []


def test_losses_by_hand(sample: Callable):
    h = head(soft_weight_on_reg=False)
    found = {k: v.item() for k, v in h.loss(h(FEATS), [sample([BOX], [1], size=SIZE)]).items()}
    near, far = math.exp(-4), math.exp(-8)
    negatives = 12 + 3 + 4 * (1 - near)**4 + 4 * (1 - far)**4                 # of both classes; the object's own cell is none
    cell = .25 * math.log(2)
    assert found['loss_cls'] == pytest.approx(.75 * cell * negatives + .25 * cell, rel=1e-4)
    assert found['loss_bbox'] == pytest.approx(0, abs=1e-5)                   # one stride to each side is its box
    empty = {k: v.item() for k, v in h.loss(h(FEATS), [sample([], size=SIZE)]).items()}
    assert empty == pytest.approx(dict(loss_cls=.75 * cell * 24, loss_bbox=0), rel=1e-4)


def test_a_batch_sums_its_images_over_all_positives(sample: Callable):
    h = head()
    samples = [sample([BOX], [1], size=SIZE), sample([[12., 4., 28., 20.]], [0], size=SIZE)]
    both = h.loss(h((torch.zeros(2, 4, 3, 4),)), samples)
    alone = [h.loss(h(FEATS), [s]) for s in samples]
    for name in both:
        assert_close(both[name], (alone[0][name] + alone[1][name]) / 2)


def test_every_parameter_learns_even_without_objects(sample: Callable):
    h = head()
    sum(h.loss(h(FEATS), [sample([], size=SIZE)]).values()).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_predictions_end_at_the_image(sample: Callable):
    found = head().predict(head()(FEATS), [sample([], size=SIZE)])[0]
    assert [0, 0, 12, 12] in found.bboxes.tolist() and found.scores[0].item() == .5


def test_settings_that_cannot_be_are_named():
    assert isinstance(head(dcn_on_last_conv=True).reg_convs[-1].conv, ModulatedDeformConv2d)
    for cfg, said in ((dict(train_cfg=dict(a=1)), 'train_cfg is not offered'), (dict(strides=[8, 16]), 'regress_ranges has 1 entries'),
                      (dict(more_pos_topk=10), 'more_pos_topk=10 must lie between 1 and 9 cells on each of 1 levels'),
                      (dict(loss_cls=dict(type='CrossEntropyLoss')), 'CenterNetUpdateHead loss_cls')):
        with pytest.raises(ConfigError, match=said):
            head(**cfg)
