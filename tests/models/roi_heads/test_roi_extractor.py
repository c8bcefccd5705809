"""SingleRoIExtractor: which level, which image, which place."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.models.roi_heads.roi_extractor import SingleRoIExtractor, numbered
from detkit.registry import MODELS, ConfigError

ALIGN = dict(type='RoIAlign', output_size=2, sampling_ratio=2)


def extractor(**cfg: object) -> SingleRoIExtractor:
    return MODELS.build(dict(dict(type='SingleRoIExtractor', roi_layer=ALIGN, out_channels=1, featmap_strides=[4, 8, 16, 32]), **cfg))


def levels_of_two() -> tuple[torch.Tensor, ...]:
    """Two images of 512 x 512: level l of image i holds 10 i + l."""
    return tuple(torch.stack([torch.full((1, 512 // s, 512 // s), 10. * i + level) for i in range(2)])
                 for level, s in enumerate([4, 8, 16, 32]))


@pytest.mark.parametrize(('side', 'level'), [(1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (448, 3), (2000, 3), (0, 0)])
def test_the_level_follows_from_the_size(side: float, level: int):
    assert extractor().levels(torch.tensor([[5., 5., 5 + side, 5 + side]])).tolist() == [level]


def test_wide_rois_count_by_their_area_and_the_scale_may_be_set():
    assert extractor().levels(torch.tensor([[0., 0., 448., 28.]])).tolist() == [1]          # sqrt(448 * 28) = 112
    assert extractor(finest_scale=28).levels(torch.tensor([[0., 0., 112., 112.]])).tolist() == [2]


def test_features_come_in_the_order_of_the_rois():
    rois = [torch.tensor([[0., 0., 450., 450.], [0., 0., 50., 50.]]),
            torch.tensor([[0., 0., 230., 230.], [9., 9., 60., 60.], [0., 0., 120., 120.]])]
    pooled = extractor()(levels_of_two(), numbered(rois))
    assert pooled.shape == (5, 1, 2, 2)
    assert_close(pooled.mean((1, 2, 3)), torch.tensor([3., 0., 12., 10., 11.]))


def test_levels_beyond_the_strides_are_not_looked_at():
    feats = levels_of_two()
    rois = numbered([torch.tensor([[0., 0., 500., 500.]])])
    assert_close(extractor()((*feats, torch.full((2, 1, 8, 8), 99.)), rois), torch.full((1, 1, 2, 2), 3.))


def test_no_rois_still_reach_every_level():
    feats = tuple(x.requires_grad_() for x in levels_of_two())
    pooled = extractor()(feats, numbered([torch.zeros(0, 4), torch.zeros(0, 4)]))
    assert pooled.shape == (0, 1, 2, 2)
    pooled.sum().backward()
    assert all(x.grad is not None for x in feats)


def test_an_image_without_rois_shifts_nothing():
    rois = [torch.zeros(0, 4), torch.tensor([[0., 0., 50., 50.]])]
    assert_close(extractor()(levels_of_two(), numbered(rois)), torch.full((1, 1, 2, 2), 10.))


def test_a_deformable_layer_has_weights_for_each_level():
    pool = extractor(roi_layer=dict(type='ModulatedDeformRoIPoolPack', output_size=2, output_channels=1, deform_fc_channels=4))
    assert {k.split('.')[1] for k in pool.state_dict()} == {'0', '1', '2', '3'}
    rois = numbered([torch.tensor([[0., 0., 450., 450.]]), torch.tensor([[9., 9., 60., 60.]])])
    assert_close(pool(levels_of_two(), rois).mean((1, 2, 3)), torch.tensor([1.5, 5.]))          # half of the values: the shares


@pytest.mark.parametrize(('layer', 'said'), [
    (dict(type='RoIPool', output_size=7), "roi_layer.type: roi_layer type 'RoIPool' is unknown. Known: RoIAlign, DeformRoIPoolPack, "
     'ModulatedDeformRoIPoolPack.'),
    (dict(type='DeformRoIPoolPack', output_size=7), "roi_layer: DeformRoIPool needs 'output_channels'."),
    (dict(type='RoIAlign', output_sise=7), "roi_layer: RoIAlign takes no argument 'output_sise'. Did you mean "
     "'output_size'? It takes: output_size, sampling_ratio, aligned, pool_mode, use_torchvision."),
    (dict(type='RoIAlign'), "roi_layer: RoIAlign needs 'output_size'."),
    (dict(type='RoIAlign', output_size=7, pool_mode='max'), "roi_layer.pool_mode: is 'max'; it should be 'avg'.")])
def test_wrong_settings_are_refused(layer: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        extractor(roi_layer=layer)
    assert str(caught.value) == said
