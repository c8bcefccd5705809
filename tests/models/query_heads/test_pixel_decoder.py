"""Mask2Former's pixel decoder: which maps come out, in which order, and how it starts."""
from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detkit.models.query_heads.pixel_decoder import MSDeformAttnPixelDecoder
from detkit.registry import ConfigError

CHANNELS = (4, 6, 8, 10)


def decoder(levels: int = 3, **changes: object) -> MSDeformAttnPixelDecoder:
    torch.manual_seed(0)
    layer = dict(self_attn_cfg=dict(embed_dims=16, num_heads=2, num_levels=levels, num_points=2, dropout=0.),
                 ffn_cfg=dict(embed_dims=16, feedforward_channels=32))
    return MSDeformAttnPixelDecoder(**dict(
        encoder=dict(num_layers=1, layer_cfg=layer), in_channels=list(CHANNELS), feat_channels=16, out_channels=12,
        norm_cfg=dict(type='GN', num_groups=4), positional_encoding=dict(num_feats=8, normalize=True)) | changes).eval()


def maps(count: int = 2) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(count, c, 24 // 2**i, 32 // 2**i, generator=g) for i, c in enumerate(CHANNELS))


def test_the_finest_map_makes_masks_and_queries_look_at_the_coarse_ones_from_the_coarsest():
    features, coarse = decoder()(maps())
    assert features.shape == (2, 12, 24, 32)
    assert [tuple(x.shape) for x in coarse] == [(2, 16, 3, 4), (2, 16, 6, 8), (2, 16, 12, 16)]


@pytest.mark.parametrize('levels', [1, 2, 4])
def test_maps_that_attention_does_not_take_pass_the_fpn(levels):
    made = decoder(levels, num_outs=4)
    assert len(made.lateral_convs) == len(made.output_convs) == 4 - levels
    features, outs = made(maps())
    assert [x.shape[-2:] for x in outs] == [(3, 4), (6, 8), (12, 16), (24, 32)] and features.shape == (2, 12, 24, 32)


def test_a_batch_is_its_images_one_by_one():
    made, feats = decoder(), maps()
    both, (one, _) = made(feats)[0], made(tuple(f[1:] for f in feats))
    assert_close(both[1:], one, rtol=1e-4, atol=1e-5)


def test_attention_starts_by_looking_around_and_not_at_random():
    attention = decoder().encoder.layers[0].self_attn
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
    first = attention.sampling_offsets.bias.view(2, 3, 2, 2)[0, 0]            # the first head looks to the right: one cell, two
    assert_close(first, torch.tensor([[1., 0.], [2., 0.]]))


@pytest.mark.parametrize('change, words', [
    (dict(levels=5), 'num_levels=5 and num_outs=3 at most'), (dict(num_outs=5), 'num_outs=5 at most'),
    (dict(strides=[4, 8]), r'strides=\[4, 8\] must be as many'), (dict(positional_encoding=dict(num_feats=5)), 'num_feats=5 must be half')])
def test_arguments_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        decoder(**change)
