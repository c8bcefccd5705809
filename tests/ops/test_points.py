from __future__ import annotations

import torch
from torch.testing import assert_close

from detkit.ops.points import sample_points, uncertain_points

MAP = torch.tensor([[[[0., 4.], [8., 12.]]]])


def test_points_lie_between_cells_and_fade_to_zero_outside():
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.5, 0.75], [1.0, 0.25]]])
    assert sample_points(MAP, points)[0, 0].tolist() == [0, 4, 6, 10, 2]      # the last: half a cell beyond the centre of 4


def test_the_shape_of_the_points_is_kept():
    maps = torch.rand(2, 3, 5, 7)
    points = torch.rand(2, 4, 6, 2)
    got = sample_points(maps, points)
    assert got.shape == (2, 3, 4, 6)
    assert_close(got[1, :, 2, 3], sample_points(maps[1:], points[1:, 2, 3][:, None])[0, :, 0])
    assert sample_points(maps[:0], points[:0]).shape == (0, 3, 4, 6) and sample_points(maps[:, :0], points).shape == (2, 0, 4, 6)


def test_most_points_lie_where_the_mask_is_unsure_and_the_rest_anywhere():
    logits = torch.full((2, 8, 8), 9.)
    logits[:, 3] = 0                                        # a line at y = 3.5 / 8
    points = uncertain_points(logits, 400, 8.0, 0.75, torch.Generator().manual_seed(0))      # 300 of 3200: within 0.38 cells of it
    assert points.shape == (2, 400, 2) and points.min() >= 0 and points.max() <= 1
    distance = sample_points(logits[:, None], points)[:, 0].abs()
    assert (distance[:, :300] < 4).all() and 9 * 0.6 < distance[:, 300:].mean() < 9
    assert_close(points, uncertain_points(logits, 400, 8.0, 0.75, torch.Generator().manual_seed(0)))


def test_uncertainty_is_looked_at_between_the_cells():
    logits = torch.tensor([[[-1., 1.]]]).expand(1, 4, 2)    # no cell is unsure; x = 0.5 is
    points = uncertain_points(logits, 100, 8.0, 1.0, torch.Generator().manual_seed(0))
    assert (points[0, :, 0] - 0.5).abs().lt(0.1).sum() > 90      # of points anywhere it would be 20


def test_no_mask_has_no_points():
    assert uncertain_points(torch.zeros(0, 4, 4), 10, 3.0, 0.75).shape == (0, 10, 2)
