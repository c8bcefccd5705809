"""Deformable RoI pooling as a layer: mmcv's parameter names; begins as RoIAlign."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.nn.deform_roi_pool import DeformRoIPool, ModulatedDeformRoIPool
from detkit.ops.roi_align import roi_align

ROIS = torch.tensor([[0., 4, 4, 40, 36], [0, 0, 8, 16, 60]])


def test_keys_and_shapes_are_mmcvs():
    shapes = {k: tuple(v.shape) for k, v in ModulatedDeformRoIPool(7, 4, 0.25, deform_fc_channels=8).state_dict().items() if 'weight' in k}
    assert shapes == {'offset_fc.0.weight': (8, 196), 'offset_fc.2.weight': (8, 8), 'offset_fc.4.weight': (98, 8),
                      'mask_fc.0.weight': (8, 196), 'mask_fc.2.weight': (49, 8)}


@pytest.mark.parametrize(('kind', 'share'), [(DeformRoIPool, 1.), (ModulatedDeformRoIPool, .5)])
def test_it_begins_as_roi_align_and_every_parameter_learns(kind: type[DeformRoIPool], share: float):
    torch.manual_seed(0)
    layer, feature = kind(3, 4, 0.25, deform_fc_channels=8), torch.rand(1, 4, 16, 16)
    found = layer(feature, ROIS)
    assert_close(found, roi_align(feature, ROIS, 3, 0.25) * share)
    found.square().sum().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None] == []
    assert layer.offset_fc[4].bias.grad.abs().sum() > 0


def test_no_rois_reach_every_parameter():
    layer = ModulatedDeformRoIPool(3, 4, 0.25, deform_fc_channels=8)
    layer(torch.rand(1, 4, 16, 16), ROIS[:0]).sum().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None] == []
