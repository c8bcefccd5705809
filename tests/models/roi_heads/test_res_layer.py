"""ResLayer: a stage of ResNet behind the pooled features."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from detkit.models.roi_heads.res_layer import ResLayer
from detkit.registry import MODELS, ConfigError


def test_it_is_the_stage_of_the_backbone():
    torch.manual_seed(0)
    layer = ResLayer(depth=18, stage=1).eval()
    net = MODELS.build(dict(type='ResNet', depth=18, num_stages=2, out_indices=(0, 1), strides=(1, 2), dilations=(1, 1))).eval()
    net.load_state_dict(layer.state_dict(), strict=False)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        first, second = net(images)
        assert_close(layer(first), second)
    assert [k for k in layer.state_dict() if not k.startswith('layer2.')] == []


def test_bottlenecks_of_caffe_stride_in_the_first_convolution():
    layer = ResLayer(depth=50, style='caffe')
    assert (layer.layer4[0].conv1.stride, layer.layer4[0].conv2.stride) == ((2, 2), (1, 1))
    assert (ResLayer(depth=50).layer4[0].conv1.stride, layer.layer4[1].conv1.in_channels) == ((1, 1), 2048)


@pytest.mark.parametrize('norm_eval', [True, False])
def test_batch_statistics_are_kept_if_asked(norm_eval: bool):
    layer = ResLayer(depth=18, norm_eval=norm_eval).train()
    assert layer.layer4[0].bn1.training is not norm_eval


def test_recomputing_gives_the_same_gradient():
    torch.manual_seed(0)
    layer, grads = ResLayer(depth=18, stage=1), []
    for layer.with_cp in (False, True):
        x = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        layer.train()(x).sum().backward()
        grads.append(x.grad)
    assert_close(*grads)


@pytest.mark.parametrize('wrong', [dict(depth=51), dict(depth=50, stage=0), dict(depth=50, stage=4)])
def test_other_stages_are_refused(wrong: dict):
    with pytest.raises(ConfigError, match='ResLayer depth='):
        ResLayer(**wrong)


def test_a_c4_detector_shares_it_between_boxes_and_masks(config: Callable, batch: Callable, sample: Callable, images: Callable):
    """Without mask_roi_extractor, masks are made from the features of the boxes."""
    cfg = config('mask_rcnn')
    cfg['backbone'] = dict(type='ResNet', depth=18, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    cfg['neck'] = None
    cfg['rpn_head'].update(in_channels=256, anchor_generator=dict(type='AnchorGenerator', scales=[1, 2, 4], ratios=[1.0], strides=[16]))
    extractor = dict(cfg['roi_head']['bbox_roi_extractor'], out_channels=256, featmap_strides=[16])
    extractor['roi_layer'] = dict(type='RoIAlign', output_size=8, sampling_ratio=2)
    cfg['roi_head'].update(
        shared_head=dict(type='ResLayer', depth=18), bbox_roi_extractor=extractor, mask_roi_extractor=None,
        bbox_head=dict(type='BBoxHead', with_avg_pool=True, roi_feat_size=4, in_channels=512, num_classes=3),
        mask_head=dict(type='FCNMaskHead', num_convs=0, in_channels=512, conv_out_channels=8, num_classes=3))
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    assert 'roi_head.bbox_head.fc_cls.weight' in model.state_dict()
    losses = model(**batch(model, images(2), [sample([[4., 6., 40., 44.]]), sample([])]), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        found = model.eval()(**batch(model, images(1), [sample([])], False), mode='predict')[0].pred_instances
    assert found.masks.shape == (len(found), 64, 64)
