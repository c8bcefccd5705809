"""Box heads: losses and detections by hand."""
from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detkit.models.roi_heads.bbox_head import ConvFCBBoxHead
from detkit.models.settings import RoIPostprocess
from detkit.registry import MODELS

ROIS = torch.tensor([[0., 0., 10., 10.], [20., 0., 30., 10.], [40., 0., 50., 10.]])
LABELS = torch.tensor([1, 0, 2])                       # the last: background
GT = torch.tensor([[1., 0., 11., 10.], [20., 0., 30., 10.]])
CFG = RoIPostprocess(nms=dict(type='nms', iou_threshold=.5), score_thr=.1)


def head(**cfg: object) -> ConvFCBBoxHead:
    return MODELS.build(dict(dict(type='Shared2FCBBoxHead', in_channels=2, roi_feat_size=2, fc_out_channels=5, num_classes=2), **cfg))


def losses(h: ConvFCBBoxHead, logits: torch.Tensor, deltas: torch.Tensor, pos_weight: float = -1.) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(logits, deltas, ROIS, LABELS, GT, pos_weight).items()}


def test_shapes_and_names():
    logits, deltas = head()(torch.randn(3, 2, 2, 2))
    assert (logits.shape, deltas.shape) == ((3, 3), (3, 2, 4))
    assert head(reg_class_agnostic=True)(torch.randn(3, 2, 2, 2))[1].shape == (3, 1, 4)
    assert {k: tuple(v.shape) for k, v in head().state_dict().items() if k.endswith('weight')} == {
        'shared_fcs.0.weight': (5, 8), 'shared_fcs.1.weight': (5, 5), 'fc_cls.weight': (3, 5), 'fc_reg.weight': (8, 5)}
    assert head(num_shared_fcs=0).fc_cls.in_features == 8


def test_losses_by_hand():
    # a third for every class; the first box is 1 pixel off, a tenth of its RoI, a whole standard deviation: smooth L1 = 0.5
    found = losses(head(), torch.zeros(3, 3), torch.zeros(3, 2, 4))
    assert found == pytest.approx(dict(loss_cls=math.log(3), acc=100 / 3, loss_bbox=.5 / 3), rel=1e-5)


def test_each_roi_is_judged_by_the_deltas_of_its_class():
    deltas = torch.full((3, 2, 4), 100.)
    deltas[0, 1] = torch.tensor([1., 0., 0., 0.])
    deltas[1, 0] = 0.
    assert losses(head(), torch.zeros(3, 3), deltas)['loss_bbox'] == pytest.approx(0, abs=1e-6)
    agnostic = losses(head(reg_class_agnostic=True), torch.zeros(3, 3), deltas[[0, 1, 2], [1, 0, 0]][:, None])
    assert agnostic['loss_bbox'] == pytest.approx(0, abs=1e-6)


def test_positives_may_weigh_more():
    logits = torch.zeros(3, 3)
    assert losses(head(), logits, torch.zeros(3, 2, 4), 4.)['loss_cls'] == pytest.approx(3 * math.log(3), rel=1e-5)     # (4 + 4 + 1) / 3


def test_a_box_loss_may_see_boxes():
    h = head(reg_decoded_bbox=True, loss_bbox=dict(type='IoULoss', mode='linear'))
    assert losses(h, torch.zeros(3, 3), torch.zeros(3, 2, 4))['loss_bbox'] == pytest.approx((1 - 9 / 11) / 3, rel=1e-5)


def test_accuracy_is_in_percent():
    logits = nn.functional.one_hot(torch.tensor([1, 0, 0]), 3).float()
    assert losses(head(), logits, torch.zeros(3, 2, 4))['acc'] == pytest.approx(200 / 3)


def test_no_rois_cost_nothing():
    h = head()
    logits, deltas = h(torch.zeros(0, 2, 2, 2))
    found = h.loss(logits, deltas, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), -1)
    assert {k: v.item() for k, v in found.items()} == dict(loss_cls=0, acc=0, loss_bbox=0)
    (found['loss_cls'] + found['loss_bbox']).backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_background_alone_costs_no_boxes():
    h = head()
    found = h.loss(torch.zeros(3, 3), torch.zeros(3, 2, 4), ROIS, torch.full((3,), 2), torch.zeros(0, 4), -1)
    assert (found['loss_cls'].item(), found['loss_bbox'].item()) == (pytest.approx(math.log(3)), 0)


def test_detections_by_hand():
    p = torch.tensor([[.6, .3, .1], [.05, .25, .7], [.09, .01, .9]])
    deltas = torch.zeros(3, 2, 4)
    deltas[0, 1, 0] = 1.                                # class 1 of the first RoI lies a pixel further
    found = head().predict(p.log(), deltas, ROIS, (8, 100), CFG)
    assert_close(found.scores, torch.tensor([.6, .3, .25]))
    assert found.labels.tolist() == [0, 1, 1]           # background, highest in two rows, is none
    assert_close(found.bboxes, torch.tensor([[0., 0., 10., 8.], [1., 0., 11., 8.], [20., 0., 30., 8.]]))


def test_nms_is_within_a_class_and_the_count_bounded():
    rois, p = ROIS[[0, 0]], torch.tensor([[.6, .3, .1], [.5, .4, .1]])
    found = head().predict(p.log(), torch.zeros(2, 2, 4), rois, (50, 50), CFG)
    assert_close(found.scores, torch.tensor([.6, .4]))
    few = RoIPostprocess(nms=dict(type='nms', iou_threshold=.5), score_thr=.1, max_per_img=1)
    assert len(head().predict(p.log(), torch.zeros(2, 2, 4), rois, (50, 50), few)) == 1
    agnostic = RoIPostprocess(nms=dict(type='nms', iou_threshold=.5, class_agnostic=True), score_thr=.1)
    assert len(head().predict(p.log(), torch.zeros(2, 2, 4), rois, (50, 50), agnostic)) == 1


def test_one_box_for_all_classes():
    found = head(reg_class_agnostic=True).predict(torch.tensor([[.5, .4, .1]]).log(), torch.zeros(1, 1, 4), ROIS[:1], (50, 50), CFG)
    assert found.bboxes.tolist() == [[0, 0, 10, 10]] * 2


def test_no_rois_no_detections():
    found = head().predict(torch.zeros(0, 3), torch.zeros(0, 2, 4), torch.zeros(0, 4), (50, 50), CFG)
    assert (found.bboxes.shape, found.scores.shape, found.labels.dtype) == ((0, 4), (0,), torch.int64)


def test_initial_weights_are_mmdetections():
    torch.manual_seed(0)
    h = head(in_channels=64, fc_out_channels=256, num_classes=80)
    h.init_weights()
    assert h.fc_cls.weight.std().item() == pytest.approx(.01, rel=.05)
    assert h.fc_reg.weight.std().item() == pytest.approx(.001, rel=.05)
    bound = math.sqrt(6 / (256 + 256))                  # Xavier, uniform
    assert h.shared_fcs[0].weight.abs().max().item() == pytest.approx(bound, rel=.01)


@pytest.mark.parametrize(('cfg', 'widths'), [
    (dict(type='BBoxHead', with_avg_pool=True), (2, 2)),
    (dict(type='BBoxHead'), (8, 8)),
    (dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=3, norm_cfg=dict(type='BN')), (5, 5)),
    (dict(type='ConvFCBBoxHead', num_shared_convs=1, conv_out_channels=3), (12, 12)),
    (dict(type='ConvFCBBoxHead', num_shared_convs=1, num_cls_convs=1, num_cls_fcs=2, num_reg_convs=2, conv_out_channels=3), (5, 12)),
    (dict(type='ConvFCBBoxHead', num_cls_fcs=1, num_reg_convs=1, conv_out_channels=3, with_avg_pool=True), (5, 3)),
    (dict(type='Shared2FCBBoxHead', num_cls_fcs=1), (5, 5))])
def test_layers_are_counted_by_branch(cfg: dict, widths: tuple[int, int]):
    h = head(**cfg)
    assert (h.fc_cls.in_features, h.fc_reg.in_features) == widths
    logits, deltas = h(torch.randn(3, 2, 2, 2))
    assert (logits.shape, deltas.shape) == ((3, 3), (3, 2, 4))
    for branch in ('shared', 'cls', 'reg'):
        default = dict(zip(('convs', 'fcs'), h.shared_by_default)) if branch == 'shared' else {}
        for kind in ('convs', 'fcs'):
            assert len(getattr(h, f'{branch}_{kind}')) == cfg.get(f'num_{branch}_{kind}', default.get(kind, 0))


def test_names_of_convolutions_are_mmdetections():
    assert set(head(type='Shared4Conv1FCBBoxHead', conv_out_channels=3, norm_cfg=dict(type='BN')).state_dict()) >= {
        'shared_convs.3.conv.weight', 'shared_convs.3.bn.running_mean', 'shared_fcs.0.weight', 'fc_cls.bias', 'fc_reg.bias'}


def test_regions_move_by_their_likeliest_class_or_by_the_one_they_should_have():
    h, logits = head(), torch.tensor([[1., 2., 9.], [2., 1., 9.], [2., 1., 9.]])         # background is likeliest, and is no class
    deltas = torch.zeros(3, 2, 4)
    deltas[:, 0, 0], deltas[:, 1, 0] = 1., 2.                                            # a pixel, two pixels to the right
    assert h.refine(logits, deltas, ROIS, (50, 100))[:, 0].tolist() == pytest.approx([2, 21, 41])
    assert h.refine(logits, deltas, ROIS, (50, 100), LABELS)[:, 0].tolist() == pytest.approx([2, 21, 41])
    assert h.refine(logits, deltas, ROIS, (50, 100), LABELS.flip(0))[:, 0].tolist() == pytest.approx([2, 21, 42])
    assert head(reg_class_agnostic=True).refine(logits, deltas[:, 1:], ROIS, (50, 100))[:, 0].tolist() == pytest.approx([2, 22, 42])


@pytest.mark.parametrize('agnostic', [False, True])
def test_decoding_a_batch_is_predicting_its_images(agnostic: bool):
    h, draw = head(reg_class_agnostic=agnostic), torch.Generator().manual_seed(0)
    rois = torch.rand(2, 6, 4, generator=draw) * 40
    rois[..., 2:] += 40
    logits, deltas = torch.randn(2, 6, 3, generator=draw), torch.randn(2, 6, 1 if agnostic else 2, 4, generator=draw)
    valid = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    sizes = [(70, 75), (60, 50)]
    found = h.decode(logits, deltas, rois, valid, torch.tensor(sizes), CFG)
    for i, size in enumerate(sizes):
        want = h.predict(logits[i][valid[i]], deltas[i][valid[i]], rois[i][valid[i]], size, CFG)
        count = len(want)
        assert 0 < count < 12
        assert_close(found.boxes[i, :count], want.bboxes)
        assert_close(found.scores[i, :count], want.scores)
        assert found.labels[i].tolist() == want.labels.tolist() + [-1] * (100 - count)
        assert found.scores[i, count:].abs().sum() == found.boxes[i, count:].abs().sum() == 0
