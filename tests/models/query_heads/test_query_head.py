import math

import pytest
import torch
from kinds import make_sample

from detkit.models.query_heads.deformable_detr_head import DeformableDETRHead
from detkit.models.query_heads.detr_head import ConditionalDETRHead, DETRHead
from detkit.models.query_heads.outputs import QueryOutputs
from detkit.registry import ConfigError
from detkit.tasks.matching import NEGATIVE

ASSIGNER = dict(assigner=dict(type='HungarianAssigner', match_costs=dict(type='BBoxL1Cost')))


def detr_head(**options: object) -> DETRHead:
    return DETRHead(**dict(num_classes=2, embed_dims=8, train_cfg=ASSIGNER) | options)


def sigmoid_head(**options: object) -> DeformableDETRHead:
    return DeformableDETRHead(**dict(num_classes=2, embed_dims=8, num_pred_layer=2, train_cfg=ASSIGNER) | options)


def one_object() -> QueryOutputs:
    """One layer, one image of 100 x 200, two queries; the first is (in shares) at the object but 0.1 too wide."""
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.4], [0.9, 0.9, 0.1, 0.1]])[None, None]
    return QueryOutputs(torch.zeros(1, 1, 2, 3), boxes)


SAMPLE = make_sample([[80., 30., 120., 70.]], [1], (100, 200))     # centre 0.5, 0.5; size 0.2, 0.4


def test_losses_worked_out_by_hand():
    """Three even logits cost ln 3; the object weighs 1, no object 0.1, and so does the divisor, 1 + 0.1.
    The box is 0.1 too wide: L1 0.1 times 5. It covers 60 x 40 of which the object has 40 x 40: GIoU 2/3, times 2."""
    losses = detr_head().loss(one_object(), [SAMPLE])
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_iou'}
    assert losses['loss_cls'].item() == pytest.approx(math.log(3.))
    assert losses['loss_bbox'].item() == pytest.approx(0.5)
    assert losses['loss_iou'].item() == pytest.approx(2 / 3)


def test_terms_of_layers_proposals_and_denoising_are_apart():
    """The denoising query, exact but for its class, belongs to the object of the image that it says."""
    found = one_object()
    denoising = torch.tensor([[0.5, 0.5, 0.2, 0.4]]).expand(2, 1, 1, 4)
    out = QueryOutputs(torch.zeros(2, 1, 3, 2), torch.cat([denoising, found.boxes.expand(2, -1, -1, -1)], 2),
                       torch.zeros(1, 2, 2), found.boxes[0], torch.tensor([[0]]))
    losses = sigmoid_head(proposals_have_classes=True).loss(out, [SAMPLE])
    assert list(losses) == [f'{layer}{kind}loss_{term}' for kind, layers in (('', ('d0.', '')), ('enc_', ('',)), ('dn_', ('d0.', '')))
                            for layer in layers for term in ('cls', 'bbox', 'iou')]
    assert losses['dn_loss_bbox'].item() == pytest.approx(0., abs=1e-6) == losses['d0.dn_loss_iou'].item()
    assert losses['loss_bbox'].item() == losses['d0.loss_bbox'].item() == losses['enc_loss_bbox'].item() == pytest.approx(0.5)
    # focal loss of even scores: 0.25 * 0.25 ln 2 for the object's class, 0.75 * 0.25 ln 2 for each other; weight 2
    assert losses['dn_loss_cls'].item() == pytest.approx(2 * (0.0625 + 0.1875) * math.log(2.))
    assert losses['loss_cls'].item() == pytest.approx(2 * (0.0625 + 3 * 0.1875) * math.log(2.))


def test_proposals_without_classes_learn_class_0():
    found = one_object()
    sure = torch.tensor([[[20., -20.], [-20., -20.]]])                 # of class 0, though the object's is 1
    out = QueryOutputs(torch.zeros(1, 1, 2, 2), found.boxes, sure, found.boxes[0])
    assert sigmoid_head().loss(out, [SAMPLE])['enc_loss_cls'].item() == pytest.approx(0., abs=1e-5)
    assert sigmoid_head(proposals_have_classes=True).loss(out, [SAMPLE])['enc_loss_cls'].item() > 1.


@pytest.mark.parametrize('head', [detr_head(), sigmoid_head()], ids=['softmax', 'sigmoid'])
def test_an_image_without_objects_costs_its_classes_alone(head: torch.nn.Module):
    out = one_object()
    losses = head.loss(QueryOutputs(out.logits[..., :head.cls_out_channels].requires_grad_(), out.boxes.requires_grad_()),
                       [make_sample([], size=(100, 200))])
    assert losses['loss_bbox'] == losses['loss_iou'] == 0 and losses['loss_cls'] > 0
    assert all(value.requires_grad for value in losses.values())


def test_quality_focal_loss_learns_the_overlap():
    head = sigmoid_head(loss_cls=dict(type='QualityFocalLoss'))
    logits = torch.full((1, 1, 2, 2), -30.)
    logits[0, 0, 0, 1] = math.log(2.)                                   # sigmoid 2/3, the IoU of the first box with the object
    assert head.loss(QueryOutputs(logits, one_object().boxes), [SAMPLE])['loss_cls'].item() == pytest.approx(0., abs=1e-6)


def test_the_best_queries_of_a_softmax_and_of_sigmoids():
    boxes = one_object().boxes
    softmax = detr_head(test_cfg=dict(max_per_img=1))
    found = softmax.predict(QueryOutputs(torch.tensor([[[[0., 2., 9.], [1., 0., 0.]]]]), boxes), [SAMPLE])[0]
    assert found.labels.tolist() == [0] and found.bboxes[0].tolist() == pytest.approx([170., 85., 190., 95.])    # the first is no object
    sigmoid = sigmoid_head(test_cfg=dict(max_per_img=3))
    found = sigmoid.predict(QueryOutputs(torch.tensor([[[[3., 2.], [-5., 1.]]]]), boxes), [SAMPLE])[0]
    assert found.labels.tolist() == [0, 1, 1]
    assert found.bboxes[:, 0].tolist() == pytest.approx([70., 70., 170.])
    torch.testing.assert_close(found.scores, torch.tensor([3., 2., 1.]).sigmoid())


def test_boxes_end_at_the_image():
    out = QueryOutputs(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.1, 0.9, 0.4, 0.4]]]]))
    head = sigmoid_head(test_cfg={})
    assert head.predict(out, [SAMPLE])[0].bboxes[0].tolist() == pytest.approx([0., 70., 60., 100.])
    assert head.decode(out, torch.tensor([[100, 200]])).boxes[0, 0].tolist() == pytest.approx([0., 70., 60., 100.])


def test_more_detections_than_queries_can_give_are_refused():
    with pytest.raises(ConfigError, match=r'max_per_img=101 asks for more detections than the 100 that num_queries=100 can give '
                                          r'\(each query gives one\)'):
        detr_head(test_cfg=dict(max_per_img=101)).check_queries(100)
    with pytest.raises(ConfigError, match='the 200 that num_queries=100 can give .*num_classes=2'):
        sigmoid_head(test_cfg=dict(max_per_img=201)).check_queries(100)
    sigmoid_head(test_cfg=dict(max_per_img=200)).check_queries(100)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="model.test_cfg has no 'max_per_image'. Did you mean 'max_per_img'"):
        detr_head(test_cfg=dict(max_per_image=5))
    with pytest.raises(ConfigError, match="model.train_cfg has no 'sampler'"):
        detr_head(train_cfg=dict(ASSIGNER, sampler=dict(type='RandomSampler')))
    with pytest.raises(ConfigError, match=r'class_weight: is .*; it should be a number'):
        detr_head(loss_cls=dict(type='CrossEntropyLoss', class_weight=[1., 1.]))
    with pytest.raises(ConfigError, match='bg_cls_weight but no class_weight'):
        detr_head(loss_cls=dict(type='CrossEntropyLoss', bg_cls_weight=0.1))
    with pytest.raises(ConfigError, match='model.train_cfg is missing'):
        detr_head(train_cfg=None).loss(one_object(), [SAMPLE])


def test_no_object_weighs_what_bg_cls_weight_says():
    head = detr_head()
    assert head.loss_cls.class_weight == [1., 1., 0.1] and head.background_weight == 0.1
    assert detr_head(loss_cls=dict(type='CrossEntropyLoss')).background_weight == 0.


def test_initial_scores_and_boxes():
    state, point = torch.randn(1, 3, 8), torch.full((1, 3, 2), 0.3)
    head = sigmoid_head()
    boxes = head(0, state, point)[1]
    assert head.cls_branches[0].bias.sigmoid().tolist() == pytest.approx([0.01, 0.01])
    assert boxes[0, 0].tolist() == pytest.approx([0.3, 0.3, 1 / (1 + math.exp(2.)), 1 / (1 + math.exp(2.))])
    start = torch.tensor([0.3, 0.4, 0.5, 0.6]).expand(1, 3, 4)
    torch.testing.assert_close(sigmoid_head(as_two_stage=True)(0, state, start)[1], start)
    assert ConditionalDETRHead(2, 8).fc_cls.bias.sigmoid().tolist() == pytest.approx([0.01, 0.01])


def test_layers_share_their_branches_only_when_told():
    assert len({id(b) for b in sigmoid_head(share_pred_layer=True).reg_branches}) == 1
    assert len({id(b) for b in sigmoid_head().reg_branches}) == 2


def test_negative_is_what_a_query_without_object_has():
    head, out = detr_head(), one_object()
    assert head.match(out.logits, out.boxes, [SAMPLE]).tolist() == [[[0, NEGATIVE]]]
