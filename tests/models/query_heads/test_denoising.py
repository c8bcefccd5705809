import pytest
import torch
from kinds import make_sample

from detkit.models.query_heads.denoising import Denoising, DenoisingQueries, Groups
from detkit.registry import ConfigError
from detkit.tasks.matching import NEGATIVE

BOXES = [[16., 16., 32., 48.], [8., 8., 40., 24.]]                 # of 64 x 64


def draw(samples: list, **dn_cfg: object) -> Denoising:
    return DenoisingQueries(dict(group_cfg=dict(num_dn_queries=4)) | dn_cfg, 80, 8).draw(samples)


def corners(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1) * 64


def test_places_positives_negatives_and_groups():
    """Two groups of two places: positives, then negatives; the image with one object leaves the second place empty."""
    drawn = draw([make_sample(BOXES), make_sample(BOXES[:1])])
    assert drawn.index.tolist() == [[0, 1, NEGATIVE, NEGATIVE] * 2, [0, NEGATIVE, NEGATIVE, NEGATIVE] * 2]
    assert drawn.filled.tolist() == [[True] * 8, [True, False] * 4]
    assert drawn.group.tolist() == [0] * 4 + [1] * 4
    assert drawn.boxes[1, 1].tolist() == [0.5] * 4


def test_without_noise_the_objects_themselves():
    drawn = draw([make_sample(BOXES, [7, 9])], label_noise_scale=0., box_noise_scale=0.)
    torch.testing.assert_close(corners(drawn.boxes[0]), torch.tensor(BOXES).repeat(4, 1))
    assert drawn.labels[0].tolist() == [7, 9] * 4


def test_positives_lie_within_half_a_box_and_negatives_beyond():
    drawn = draw([make_sample([[24., 24., 40., 40.]])], group_cfg=dict(num_dn_queries=500))
    shift = (corners(drawn.boxes[0]) - torch.tensor([24., 24., 40., 40.])).abs().view(500, 2, 4)      # half a box is 8 pixels
    assert 7.9 < shift[:, 0].max() <= 8.001
    whole = (drawn.boxes[0, :, 2:] > 0.01).all(-1).view(500, 2)[:, 1]       # a negative's corners may change sides; then little is left
    assert whole.sum() > 100
    assert shift[whole, 1].min() >= 7.999 and 15.9 < shift[whole, 1].max() <= 16.001


def test_half_of_label_noise_scale_is_drawn_anew():
    drawn = draw([make_sample([BOXES[0]], [3])], label_noise_scale=0.5, group_cfg=dict(num_dn_queries=2000))
    assert (drawn.labels != 3).float().mean().item() == pytest.approx(0.25 * 79 / 80, abs=0.03)
    assert drawn.labels.min() >= 0 and drawn.labels.max() <= 79


def test_noise_follows_from_the_sample():
    first, same, other = (draw([make_sample(BOXES, seed=seed)]).boxes for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_batch_without_objects_has_no_denoising_queries():
    queries = DenoisingQueries(dict(), 80, 8)
    drawn = queries.draw([make_sample([]), make_sample([])])
    assert drawn.boxes.shape == (2, 0, 4) and drawn.index.shape == (2, 0)
    queries(drawn).sum().backward()
    assert queries.label_embedding.weight.grad.abs().sum() == 0     # and still a gradient: all processes have the same


def test_empty_places_ask_nothing():
    queries = DenoisingQueries(dict(group_cfg=dict(num_dn_queries=4)), 80, 8)
    drawn = queries.draw([make_sample(BOXES), make_sample(BOXES[:1])])
    asked = queries(drawn)
    assert asked[1, 1].abs().sum() == 0 and torch.equal(asked[1, 0], queries.label_embedding.weight[drawn.labels[1, 0]])


def test_groups_do_not_see_each_other_and_matched_queries_see_no_denoising():
    seen = Denoising(*[torch.zeros(0)] * 4, torch.tensor([0, 0, 1])).among(2)
    assert seen.int().tolist() == [[1, 1, 0, 1, 1], [1, 1, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


def test_number_of_groups():
    assert [Groups(num_dn_queries=100).count(n) for n in (0, 1, 30, 200)] == [1, 100, 3, 1]
    assert Groups(dynamic=False, num_groups=5).count(30) == 5


@pytest.mark.parametrize('group_cfg', [dict(dynamic=True, num_groups=5), dict(dynamic=False)])
def test_group_settings_that_contradict_each_other(group_cfg: dict):
    with pytest.raises(ConfigError, match='group_cfg has dynamic=.* and num_groups='):
        DenoisingQueries(dict(group_cfg=group_cfg), 80, 8)


def test_a_misspelt_setting():
    with pytest.raises(ConfigError, match="model.dn_cfg has no 'label_noise'. Did you mean 'label_noise_scale'"):
        DenoisingQueries(dict(label_noise=0.5), 80, 8)
