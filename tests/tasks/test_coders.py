"""Boxes <-> numbers: by hand, and there and back again."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from detkit.registry import ConfigError
from detkit.tasks.coders import BucketingBBoxCoder, DeltaXYWHBBoxCoder, DistancePointBBoxCoder

coordinate = st.floats(-100, 400)
side = st.floats(2, 60)       # the largest ratio of two sides, 30, is below the coder's bound of 62.5


@st.composite
def boxes(draw: st.DrawFn, count: int = 4) -> Tensor:
    rows = [(draw(coordinate), draw(coordinate), draw(side), draw(side)) for _ in range(count)]
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(boxes(), boxes(), st.sampled_from([((0.,) * 4, (1.,) * 4), ((.1, -.2, .3, 0.), (.1, .1, .2, .2))]))
def test_decoding_undoes_encoding(priors: Tensor, gt: Tensor, moments: tuple):
    coder = DeltaXYWHBBoxCoder(*moments)
    assert_close(coder.decode(priors, coder.encode(priors, gt)), gt, atol=1e-6, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(boxes(), boxes())
def test_distances_there_and_back(points: Tensor, gt: Tensor):
    coder = DistancePointBBoxCoder()
    assert_close(coder.decode(points, coder.encode(points, gt)), gt, atol=1e-9, rtol=1e-12)


def test_deltas_by_hand():
    prior = torch.tensor([[0., 0., 10., 20.]])            # centre (5, 10)
    box = torch.tensor([[5., 10., 25., 20.]])             # centre (15, 15), 20 x 10
    expected = torch.tensor([[1., .25, math.log(2), -math.log(2)]])
    assert_close(DeltaXYWHBBoxCoder().encode(prior, box), expected)
    normalised = DeltaXYWHBBoxCoder(target_means=[1., 0., 0., 0.], target_stds=[.1, .1, .2, .2])
    assert_close(normalised.encode(prior, box), torch.tensor([[0., 2.5, 5 * math.log(2), -5 * math.log(2)]]))


def test_no_deltas_are_the_prior():
    prior = torch.tensor([[3., 4., 10., 20.]])
    assert_close(DeltaXYWHBBoxCoder().decode(prior, torch.zeros(1, 4)), prior)


def test_a_size_changes_at_most_by_the_bound():
    prior = torch.tensor([[0., 0., 10., 10.]])
    grown = DeltaXYWHBBoxCoder(wh_ratio_clip=.5).decode(prior, torch.tensor([[0., 0., 50., -50.]]))
    assert_close(grown, torch.tensor([[-5., 2.5, 15., 7.5]]))
    default = DeltaXYWHBBoxCoder().decode(prior, torch.tensor([[0., 0., 50., 0.]]))
    assert (default[0, 2] - default[0, 0]).item() == pytest.approx(625, rel=1e-5)


def test_a_clamped_centre_moves_in_pixels_and_leaves_small_sizes_free():
    prior = torch.tensor([[0., 0., 100., 100.]])
    coder = DeltaXYWHBBoxCoder(add_ctr_clamp=True, ctr_clamp=8, wh_ratio_clip=.5)
    assert_close(coder.decode(prior, torch.tensor([[.5, -.5, 0., 0.]])), torch.tensor([[8., -8., 108., 92.]]))
    shrunk = coder.decode(prior, torch.tensor([[0., 0., math.log(.1), 9.]]))
    assert_close(shrunk, torch.tensor([[45., -50., 55., 150.]]))


def test_boxes_end_at_the_border_only_if_asked():
    prior = torch.tensor([[-5., -5., 50., 50.]])
    assert DeltaXYWHBBoxCoder().decode(prior, torch.zeros(1, 4), max_shape=(20, 30)).tolist() == [[0, 0, 30, 20]]
    assert DeltaXYWHBBoxCoder(clip_border=False).decode(prior, torch.zeros(1, 4), max_shape=(20, 30)).tolist() == prior.tolist()
    assert DeltaXYWHBBoxCoder().decode(prior, torch.zeros(1, 4)).tolist() == prior.tolist()
    far = torch.full((1, 4), 100.)
    points = torch.tensor([[10., 10., 8., 8.]])
    assert DistancePointBBoxCoder().decode(points, far, max_shape=(20, 30)).tolist() == [[0, 0, 30, 20]]
    assert DistancePointBBoxCoder(clip_border=False).decode(points, far, max_shape=(20, 30)).tolist() == [[-90, -90, 110, 110]]


BATCH_SIZES = [[(20, 30), (40, 50)], [(20, 30, 3), (40, 50, 3)], torch.tensor([[20, 30], [40, 50]]), [torch.tensor([20, 30]), (40, 50)]]


@pytest.mark.parametrize('size', [(20, 30), (20, 30, 3), [20, 30], torch.tensor([20, 30]), torch.tensor([20., 30., 3.]), *BATCH_SIZES],
                         ids=str)
def test_boxes_end_at_the_border_of_one_image_or_of_each(size):
    """As MMDetection's coders: (height, width), a tensor, or one for each image of a batch."""
    is_batch = any(size is s for s in BATCH_SIZES)
    expected = [[[0., 0., 30., 20.]], [[0., 0., 50., 40.]] if is_batch else [[0., 0., 30., 20.]]]
    priors, points = torch.tensor([[[-5., -5., 90., 90.]]] * 2), torch.full((2, 1, 2), 10.)
    assert DeltaXYWHBBoxCoder().decode(priors, torch.zeros(2, 1, 4), size).tolist() == expected
    assert DistancePointBBoxCoder().decode(points, torch.full((2, 1, 4), 100.), size).tolist() == expected
    assert DeltaXYWHBBoxCoder(clip_border=False).decode(priors, torch.zeros(2, 1, 4), size).tolist() == priors.tolist()
    buckets, _ = BucketingBBoxCoder(7, 3.).decode(priors, (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)), size)
    assert buckets[..., 2:].tolist() == [[[box[0][2] - 1, box[0][3] - 1]] for box in expected]
    if not is_batch:
        assert DeltaXYWHBBoxCoder().decode(priors[0], torch.zeros(1, 4), size).tolist() == expected[0]


@pytest.mark.parametrize('size', [[(20, 30)] * 3, torch.zeros(3, 2), torch.zeros(4), (20,), [(20,), (30,)], torch.tensor(3.)], ids=str)
def test_sizes_that_fit_no_batch_are_refused(size):
    for coder in (DeltaXYWHBBoxCoder(), DistancePointBBoxCoder()):
        with pytest.raises(ValueError, match='image size'):
            coder.decode(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4), size)
    with pytest.raises(ValueError, match='image size'):
        DeltaXYWHBBoxCoder().decode(torch.zeros(2, 4), torch.zeros(2, 4), [(20, 30), (40, 50)])       # which box is of which image?


def test_distances_by_hand():
    points, gt = torch.tensor([[10., 20., 8., 8.]]), torch.tensor([[4., 5., 30., 21.]])
    assert DistancePointBBoxCoder().encode(points, gt).tolist() == [[6, 15, 20, 1]]
    assert_close(DistancePointBBoxCoder().encode(points, gt, max_dis=16), torch.tensor([[6., 15., 15.9, 1.]]))
    outside = torch.tensor([[0., 0., 8., 8.]])
    assert DistancePointBBoxCoder().encode(outside, gt, max_dis=16)[0, :2].tolist() == [0, 0]


def test_any_leading_dimensions_are_decoded_alike():
    torch.manual_seed(0)
    priors, deltas = torch.rand(5, 4) * 20, torch.randn(2, 5, 4) * .3
    priors[:, 2:] += priors[:, :2] + 1
    for coder in (DeltaXYWHBBoxCoder(), DistancePointBBoxCoder()):
        assert_close(coder.decode(priors, deltas)[1], coder.decode(priors, deltas[1]))


def test_nothing_is_coded_as_nothing():
    for coder in (DeltaXYWHBBoxCoder(), DistancePointBBoxCoder()):
        assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
        assert coder.decode(torch.zeros(0, 4), torch.zeros(0, 4), max_shape=(8, 8)).shape == (0, 4)


def test_buckets_by_hand():
    coder = BucketingBBoxCoder(num_buckets=4, scale_factor=2.)
    centers, width = coder.buckets(torch.tensor([[10., 20., 18., 24.]]))        # enlarged: 6, 18, 22, 26
    assert width.flatten().tolist() == [4, 4, 2, 2]
    assert centers[0].tolist() == [[8, 12], [20, 16], [19, 21], [25, 23]]       # left, right, top, bottom, from the outside in


def test_encoding_names_the_nearest_bucket_of_each_side():
    coder = BucketingBBoxCoder(num_buckets=4, scale_factor=2.)
    right, right_weights, offsets, offset_weights = coder.encode(torch.tensor([[10., 20., 18., 24.]]), torch.tensor([[9., 18.5, 16., 24.]]))
    assert right[0].tolist() == [[1, 0], [0, 1], [1, 0], [1, 0]]                # the last: a tie
    assert offsets[0].tolist() == [[-.25, .75], [1, 0], [.25, 1.25], [.5, -.5]]
    assert right_weights[0].tolist() == [[1, 0], [1, 1], [1, 1], [1, 0]]        # a neighbour within a bucket's width is left out
    assert offset_weights[0].tolist() == [[1, 1], [0, 1], [1, 0], [1, 1]]


@settings(max_examples=60, deadline=None)
@given(boxes(), st.sampled_from([6, 7, 14]))
def test_buckets_there_and_back(priors: Tensor, count: int):
    gt = torch.stack([priors[:, 0] - 1, priors[:, 1] + 1, priors[:, 2] + .5, priors[:, 3] + .25], -1)
    coder = BucketingBBoxCoder(num_buckets=count, scale_factor=3.)
    right, _, offsets, _ = coder.encode(priors, gt)
    found, sure = coder.decode(priors, (right * 50, offsets))
    assert_close(found, gt, atol=1e-9, rtol=1e-9)
    assert_close(sure, torch.ones_like(sure))


def test_how_sure_the_buckets_are():
    coder = BucketingBBoxCoder(num_buckets=8, scale_factor=1.)
    share = torch.tensor([[.5, .3, .1, .1], [.5, .1, .3, .1], [.96, .02, .01, .01], [.1, .1, .3, .5]])
    boxes, sure = coder.decode(torch.tensor([[0., 0., 8., 8.]]), (share.log()[None], torch.zeros(1, 4, 4)), max_shape=(4, 20))
    assert sure.item() == pytest.approx((.8 + .5 + .98 + .8) / 4)                # with a neighbour, without, with, with
    assert boxes.tolist() == [[.5, .5, 7.5, 3]]                                  # the last pixel of four
    assert BucketingBBoxCoder(14, 3.).encode_size == 28
    with pytest.raises(ConfigError, match='num_buckets=1 must be at least 2'):
        BucketingBBoxCoder(1, 3.)
