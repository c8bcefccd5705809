"""FCNMaskHead: shapes, the loss by hand, mask targets by hand."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detkit.models.roi_heads.fcn_mask_head import FCNMaskHead, mask_targets
from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks, PolygonMasks


def head(**cfg: object) -> FCNMaskHead:
    return MODELS.build(dict(dict(type='FCNMaskHead', num_convs=2, in_channels=3, conv_out_channels=4, num_classes=2), **cfg))


def test_names_and_shapes():
    h = head()
    assert {k: tuple(v.shape) for k, v in h.state_dict().items() if k.endswith('weight')} == {
        'convs.0.conv.weight': (4, 3, 3, 3), 'convs.1.conv.weight': (4, 4, 3, 3), 'upsample.weight': (4, 4, 2, 2),
        'conv_logits.weight': (2, 4, 1, 1)}
    assert h(torch.randn(5, 3, 7, 7)).shape == (5, 2, 14, 14)
    assert h(torch.zeros(0, 3, 7, 7)).shape == (0, 2, 14, 14)
    assert head(class_agnostic=True)(torch.randn(5, 3, 7, 7)).shape == (5, 1, 14, 14)
    assert head(num_convs=0)(torch.randn(5, 3, 7, 7)).shape == (5, 2, 14, 14)


@pytest.mark.parametrize(('upsample', 'side', 'width'), [
    (dict(type=None), 7, 3), (dict(type='nearest', scale_factor=2), 14, 3), (dict(type='bilinear', scale_factor=3), 21, 3),
    (dict(type='deconv', scale_factor=3), 21, 4)])
def test_upsampling(upsample: dict, side: int, width: int):
    h = head(num_convs=0, upsample_cfg=upsample)
    assert h(torch.randn(1, 3, 7, 7)).shape == (1, 2, side, side)
    assert h.conv_logits.in_channels == width


@pytest.mark.parametrize(('upsample', 'said'), [
    (dict(type='carafe', scale_factor=2, up_kernel=5), "upsample_cfg.type: upsample_cfg type 'carafe' is unknown. Known: deconv, nearest, "
                                                       'bilinear, and classes registered in MODELS.'),
    (dict(type='nearest', scale_facto=2), "upsample_cfg: upsample_cfg has no 'scale_facto'. Did you mean 'scale_factor'? It has: type, "
                                          'scale_factor.'),
    (dict(type='deconv'), "upsample_cfg: upsample_cfg type 'deconv' needs 'scale_factor'.")])
def test_other_upsampling_is_refused_by_name(upsample: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        head(upsample_cfg=upsample)
    assert str(caught.value) == said


def test_a_loss_that_is_not_per_pixel_is_refused():
    with pytest.raises(ConfigError, match='loss_mask is CrossEntropyLoss; it takes CrossEntropyLoss with use_mask=True'):
        head(loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True))


def test_loss_looks_at_the_mask_of_the_label_alone():
    logits = torch.full((2, 2, 2, 2), 50.)
    logits[0, 1] = logits[1, 0] = 0                       # undecided: ln 2 a pixel
    labels, targets = torch.tensor([1, 0]), torch.tensor([[[1., 0.], [0., 1.]], [[1., 1.], [1., 1.]]])
    assert head().loss(logits, labels, targets).item() == pytest.approx(math.log(2), rel=1e-6)
    agnostic = head(class_agnostic=True)
    assert agnostic.loss(torch.zeros(2, 1, 2, 2), labels, targets).item() == pytest.approx(math.log(2), rel=1e-6)


def test_masks_of_the_label_are_taken():
    logits = torch.arange(16.).reshape(2, 2, 2, 2)
    assert_close(head().of_class(logits, torch.tensor([1, 0])), torch.stack([logits[0, 1], logits[1, 0]]))
    assert_close(head(class_agnostic=True).of_class(logits[:, :1], torch.tensor([1, 0])), logits[:, 0])


def test_no_positives_cost_nothing_and_reach_every_parameter():
    h = head()
    loss = h.loss(h(torch.zeros(0, 3, 7, 7)), torch.zeros(0, dtype=torch.long), torch.zeros(0, 14, 14))
    assert loss.item() == 0
    loss.sum().backward()
    assert [n for n, p in h.named_parameters() if p.grad is None] == []


def test_another_mask_size_is_named():
    with pytest.raises(ConfigError, match='mask_size is 28x28, and the mask head predicts 14x14: they must be equal'):
        head().loss(torch.zeros(1, 2, 14, 14), torch.zeros(1, dtype=torch.long), torch.zeros(1, 28, 28))


def bar() -> np.ndarray:
    """The left half of a box from (2, 2) to (6, 6), in 8x10 pixels."""
    mask = np.zeros((8, 10), np.uint8)
    mask[2:6, 2:4] = 1
    return mask


LEFT = [[1., 1., 0., 0.]] * 4
SQUARE = [np.array([2., 2., 4., 2., 4., 6., 2., 6.])]


@pytest.mark.parametrize('masks', [BitmapMasks([np.zeros((8, 10)), bar()], 8, 10),
                                   PolygonMasks([[np.array([0., 0., 1., 0., 1., 1.])], SQUARE], 8, 10)], ids=['bitmap', 'polygon'])
def test_targets_are_the_mask_inside_the_box(masks: BitmapMasks | PolygonMasks):
    boxes = torch.tensor([[2., 2., 6., 6.], [4., 2., 8., 6.], [0., 2., 8., 6.]])
    targets = mask_targets(boxes, torch.tensor([1, 1, 1]), masks, (4, 4))
    assert_close(targets, torch.tensor([LEFT, [[0.] * 4] * 4, [[0., 1., 0., 0.]] * 4]))
    assert mask_targets(boxes[:0], torch.zeros(0, dtype=torch.long), masks, (4, 4)).shape == (0, 4, 4)


def test_boxes_end_at_the_border_of_the_masks():
    masks = BitmapMasks(np.ones((1, 8, 10)), 8, 10)
    targets = mask_targets(torch.tensor([[-20., -20., 30., 30.]]), torch.tensor([0]), masks, (4, 4))
    assert_close(targets, torch.ones(1, 4, 4))                   # of the whole frame, not of a box that is mostly outside


def test_soft_targets_are_the_covered_share():
    masks = BitmapMasks([bar()], 8, 10)
    targets = mask_targets(torch.tensor([[2., 2., 6., 6.]]), torch.tensor([0]), masks, (1, 1), soft=True)
    assert_close(targets, torch.full((1, 1, 1), 0.5), atol=0.05, rtol=0)
    assert mask_targets(torch.tensor([[2., 2., 6., 6.]]), torch.tensor([0]), masks, (1, 1)).item() in (0., 1.)


def test_initial_weights_follow_the_fan_out():
    torch.manual_seed(0)
    h = head(in_channels=64, conv_out_channels=64, num_classes=50)
    h.init_weights()
    assert h.upsample.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 4)), rel=0.05)
    assert h.conv_logits.weight.std().item() == pytest.approx(math.sqrt(2 / 50), rel=0.05)
    assert h.conv_logits.bias.abs().sum() == 0
