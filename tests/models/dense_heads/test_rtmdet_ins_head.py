"""RTMDetInsSepBNHead: dynamic convolutions one by one, mask losses by hand, masks at full size."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from detkit.models.dense_heads import rtmdet_ins_head
from detkit.models.dense_heads.rtmdet_ins_head import InstanceOutputs, RTMDetInsSepBNHead
from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks, PolygonMasks

NMS = dict(type='nms', iou_threshold=.6)


def head(**cfg: object) -> RTMDetInsSepBNHead:
    torch.manual_seed(0)
    return MODELS.build(dict(dict(
        type='RTMDetInsSepBNHead', num_classes=2, in_channels=4, feat_channels=4, stacked_convs=1,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8]),
        train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13)), test_cfg=dict(nms=NMS)), **cfg)).eval()


def all_parameters(h: RTMDetInsSepBNHead) -> int:
    return sum(o * i + o for o, i in h.dynamic_layers)


# ------------------------------------------------------------------------------------------------ dynamic convolutions
def one_mask(h: RTMDetInsSepBNHead, prototypes: Tensor, kernel: Tensor, prior: Tensor) -> Tensor:
    """(C, h, w), (P,), (4,) -> (h, w), convolution by convolution, as the paper describes it."""
    height, width = prototypes.shape[1:]
    y, x = torch.meshgrid(torch.arange(height) * 8., torch.arange(width) * 8., indexing='ij')
    offsets = (prior[:2, None, None] - torch.stack([x, y])) / (prior[2] * 8)
    out, weights, biases = torch.cat([offsets, prototypes])[None], [], []
    start = 0
    for o, i in h.dynamic_layers:                          # all weights come before all biases
        weights.append(kernel[start:start + o * i].reshape(o, i, 1, 1))
        start += o * i
    for o, _ in h.dynamic_layers:
        biases.append(kernel[start:start + o])
        start += o
    for layer, (weight, bias) in enumerate(zip(weights, biases)):
        out = F.conv2d(out if layer == 0 else out.relu(), weight, bias)
    return out[0, 0]


@pytest.mark.parametrize('cfg', [{}, dict(num_prototypes=3, dyconv_channels=5, num_dyconvs=4), dict(num_dyconvs=2)])
def test_two_matrix_products_are_the_convolutions_of_every_mask(cfg: dict):
    h = head(**cfg)
    prototypes = torch.randn(2, cfg.get('num_prototypes', 8), 3, 5)
    kernels, priors = torch.randn(2, 4, all_parameters(h)), torch.rand(2, 4, 4) * 40
    priors[..., 2:] = torch.tensor([8., 16., 32., 8.])[:, None]
    found = h.dynamic_masks(prototypes, kernels, priors)
    for n in range(2):
        for m in range(4):
            assert_close(found[n, m], one_mask(h, prototypes[n], kernels[n, m], priors[n, m]), rtol=1e-4, atol=1e-4)


def test_no_prior_has_no_mask():
    h = head()
    assert h.dynamic_masks(torch.randn(1, 8, 3, 5), torch.zeros(1, 0, all_parameters(h)), torch.zeros(1, 0, 4)).shape == (1, 0, 3, 5)


def test_masks_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch):
    h = head()
    out = h((torch.randn(2, 4, 4, 6),))
    index = torch.arange(10)[None]
    whole = h.masks_in_parts(out, slice(1, 2), index)
    assert_close(whole, h.masks_of(out, slice(1, 2), index))
    monkeypatch.setattr(rtmdet_ins_head, 'CHUNK', 8 * 24 * 3)          # three masks of 8 channels and 24 pixels
    sizes = []
    monkeypatch.setattr(h, 'masks_of', lambda out, images, part: sizes.append(part.shape[1]) or
                        RTMDetInsSepBNHead.masks_of(h, out, images, part))
    assert_close(h.masks_in_parts(out, slice(1, 2), index), whole)
    assert sizes == [3, 3, 3, 1]


# -------------------------------------------------------------------------------------------------------------- losses
def constant(h: RTMDetInsSepBNHead, logit: float) -> RTMDetInsSepBNHead:
    """Whose masks are ``logit`` everywhere and whose boxes reach half a stride to every side."""
    for convs, bias in ((h.rtm_kernel, torch.zeros(all_parameters(h))), (h.rtm_reg, torch.full((4,), .5)), (h.rtm_cls, torch.zeros(2))):
        for conv in convs:
            nn.init.zeros_(conv.weight)
            conv.bias.data.copy_(bias)
    h.rtm_kernel[0].bias.data[-1] = logit                              # the last convolution's bias
    return h


def losses(h: RTMDetInsSepBNHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 4, 2, 3),)), list(samples)).items()}


def dice(logit: float, covered: int) -> float:
    """Of 24 pixels with ``logit`` and ``covered`` of them in the object."""
    p = 1 / (1 + math.exp(-logit))
    return 2 * (1 - 2 * p * covered / (24 * p * p + covered + 1e-5))


def test_masks_are_compared_at_stride_four(sample: Callable):
    # 16x24 pixels are 4x6 at stride 4; the object, 4..12 x 4..12, covers 2x2 of them: those around (6, 6), (10, 6), ...
    found = losses(constant(head(), 1.), sample([[4, 4, 12, 12]], [0], size=(16, 24)))
    assert found['loss_mask'] == pytest.approx(dice(1., 4), rel=1e-4)
    assert found['loss_bbox'] == pytest.approx(0, abs=1e-6)


def test_mask_losses_are_a_mean_over_the_positives_of_the_batch(sample: Callable):
    one, other = sample([[4, 4, 12, 12]], [0], size=(16, 24)), sample([[4, 4, 12, 12]], [1], size=(16, 24))
    other.gt_instances.masks = BitmapMasks(np.ones((1, 16, 24), np.uint8), 16, 24)
    found = losses(constant(head(), 1.), one, other, sample([], size=(16, 24)))
    assert found['loss_mask'] == pytest.approx((dice(1., 4) + dice(1., 24)) / 2, rel=1e-4)


def test_polygons_and_smaller_images_in_the_batch(sample: Callable):
    one = sample([[4, 4, 12, 12]], [0], size=(16, 16))                 # its masks end where the batch's padding begins
    one.gt_instances.masks = PolygonMasks([[np.array([4, 4, 12, 4, 12, 12, 4, 12.])]], 16, 16)
    assert losses(constant(head(), 1.), one)['loss_mask'] == pytest.approx(dice(1., 4), rel=1e-4)


def test_the_samples_masks_stay_as_they_are(sample: Callable):
    one = sample([[4, 4, 12, 12]], [0], size=(16, 24))
    losses(head(), one)
    assert isinstance(one.gt_instances.masks, BitmapMasks)


def test_so_many_masks_of_an_image_are_learnt_as_are_allowed(sample: Callable, monkeypatch: pytest.MonkeyPatch):
    boxes = [[x - 3, y - 3, x + 3, y + 3] for y in (8,) for x in (8, 16)]
    seen = []

    def drawn(limit: int, seed: int) -> list:
        h = constant(head(max_masks_to_train=limit), 1.)
        monkeypatch.setattr(h, 'dynamic_masks', lambda prototypes, kernels, priors: seen.append(priors[0, :, 0].tolist()) or
                            RTMDetInsSepBNHead.dynamic_masks(h, prototypes, kernels, priors))
        losses(h, sample(boxes, [0, 1], size=(16, 24), seed=seed))
        return seen[-1]
    assert drawn(-1, 0) == drawn(2, 0) == [8, 16]
    assert drawn(1, 3) == drawn(1, 3) and {tuple(drawn(1, seed)) for seed in range(8)} == {(8,), (16,)}


def test_every_parameter_learns_even_without_objects(sample: Callable):
    for objectness in (False, True):
        h = head(with_objectness=objectness).train()
        sum(h.loss(h((torch.randn(2, 4, 2, 3),)), [sample([], size=(16, 24))] * 2).values()).backward()
        assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_data_without_masks_is_refused(sample: Callable):
    one = sample([[4, 4, 12, 12]], [0], size=(16, 24))
    del one.gt_instances.masks
    with pytest.raises(ConfigError, match='the training data has none. Set with_mask=True'):
        losses(head(), one)


# ------------------------------------------------------------------------------------------------------------ full size
def test_masks_are_enlarged_by_the_stride_then_to_the_image_then_cut(sample: Callable):
    h = head(test_cfg=dict(nms=NMS, mask_thr_binary=.6))
    logits = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    one = sample([], size=(30, 44), ori_shape=(45, 88), scale_factor=(.5, 2 / 3))
    found = h.full_masks(type('Found', (), dict(masks=logits)), one, (45, 88), (2., 1.5))
    large = F.interpolate(F.interpolate(logits[None], scale_factor=8, mode='bilinear'), (48, 96), mode='bilinear')[0, :, :45, :88]
    assert found.shape == (3, 45, 88)
    assert (found.to_tensor() == (large.sigmoid() > .6)).all()


def test_empty_rows_hold_no_mask():
    h = head(test_cfg=dict(nms=NMS, score_thr=.5, max_per_img=8)).eval()
    for conv in h.rtm_cls:
        nn.init.zeros_(conv.weight)
        conv.bias.data.copy_(torch.tensor([-3., -3.]))
    found = h.decode(h((torch.randn(2, 4, 4, 6),)), torch.tensor([[32, 48]] * 2))
    assert found.scores.tolist() == [[0.] * 8] * 2 and (found.masks.sigmoid() < 1e-6).all()


# -------------------------------------------------------------------------------------------------------------- layers
def two_levels(**cfg: object) -> RTMDetInsSepBNHead:
    return head(anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16]), **cfg)


def test_boxes_come_from_the_tower_of_the_classes_and_kernels_share_nothing():
    h = two_levels()
    assert h.reg_convs is h.cls_convs and h.cls_convs[0][0].conv is h.cls_convs[1][0].conv
    assert h.cls_convs[0][0].bn is not h.cls_convs[1][0].bn
    assert h.kernel_convs[0][0].conv is not h.kernel_convs[1][0].conv
    assert two_levels(share_conv=False).cls_convs[0][0].conv is not two_levels(share_conv=False).cls_convs[1][0].conv
    assert {'reg_convs.1.0.conv.weight', 'mask_head.fusion_conv.bias', 'mask_head.stacked_convs.3.bn.weight',
            'mask_head.projection.weight', 'rtm_kernel.1.bias'} <= set(h.state_dict())
    assert h.state_dict()['rtm_kernel.0.bias'].shape == (10 * 8 + 8 * 8 + 8 + 8 + 8 + 1,)


def test_distances_are_strides_and_not_negative():
    h = two_levels()
    for conv, bias in zip(h.rtm_reg, ([1., 2., -3., 0.], [.5] * 4)):
        nn.init.zeros_(conv.weight)
        conv.bias.data.copy_(torch.tensor(bias))
    out = h((torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)))
    assert (out.reg[0].tolist(), out.reg[1].tolist()) == ([[[8., 16., 0., 0.]]], [[[8.] * 4]])


def test_outputs_are_raised_to_float32():
    out = head().to(torch.bfloat16)((torch.zeros(1, 4, 2, 3, dtype=torch.bfloat16),)).float()
    assert isinstance(out, InstanceOutputs)
    assert {x.dtype for x in (*out.cls, *out.reg, *out.kernels, out.prototypes)} == {torch.float32}


def test_weights_begin_as_in_mmdetection():
    h = two_levels(with_objectness=True)
    h.init_weights()
    for layer in (*h.rtm_cls, *h.rtm_obj):
        assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, .01))
    assert {b for layer in h.rtm_reg for b in layer.bias.tolist()} == {1.}
    assert .008 < h.mask_head.stacked_convs[0].conv.weight.std() < .012


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(loss_cls=dict(type='CrossEntropyLoss')), 'RTMDetInsSepBNHead loss_cls is a softmax loss'),
    (dict(num_dyconvs=1), 'num_dyconvs=1 must be at least 2'), (dict(mask_loss_stride=3), 'mask_loss_stride=3 divide the stride 8'),
    (dict(test_cfg=dict(nms=NMS, mask_thr=.5)), "model.test_cfg has no 'mask_thr'. Did you mean 'mask_thr_binary'"),
    (dict(test_cfg=dict(nms=NMS, mask_thr_binary=1.)), 'mask_thr_binary=1.0 must lie between 0 and 1')])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        head(**cfg)
    assert said in str(caught.value)
