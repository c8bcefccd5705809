"""Between a dense head's convolutions and its loss or its boxes."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mmengine.structures import InstanceData
from torch.testing import assert_close

from detkit.losses.classification import CrossEntropyLoss, FocalLoss
from detkit.models.dense_heads.outputs import (
    DenseOutputs,
    DenseScores,
    PriorSet,
    best_pairs,
    best_pairs_padded,
    dense_targets,
    detections,
    flatten_level,
    padded_detections,
    prior_set,
    refuse_background_score,
    sigmoid_scores,
    within_border,
)
from detkit.models.settings import DensePostprocess, DenseTraining
from detkit.registry import ConfigError
from detkit.tasks.assigners import MaxIoUAssigner
from detkit.tasks.coders import DistancePointBBoxCoder
from detkit.tasks.dynamic_soft_label import DynamicSoftLabelAssigner
from detkit.tasks.priors import MlvlPointGenerator
from detkit.tasks.samplers import PseudoSampler, RandomSampler

PRIORS = torch.tensor([[0., 0., 10., 10.], [0., 0., 10., 4.], [30., 0., 40., 10.], [60., 0., 70., 10.]])
ALL = torch.ones(4, dtype=torch.bool)


def logit(*p: float) -> torch.Tensor:
    return torch.logit(torch.tensor(p))


def targets(samples: list, valid: list | None = None, sampler: object = None, **training: object) -> object:
    assigner = MaxIoUAssigner(.5, .4, match_low_quality=False)
    priors = PriorSet(PRIORS, [3, 1], torch.stack(valid or [ALL] * len(samples)))
    return dense_targets(priors, samples, 3, assigner, sampler or PseudoSampler(), DenseTraining(assigner=assigner, **training))


# ------------------------------------------------------------------------------------------------------------- flatten
def test_a_level_is_flattened_cell_by_cell_and_anchor_by_anchor():
    x = torch.arange(2 * 6 * 2 * 2).reshape(2, 6, 2, 2)                  # 2 anchors x 3 channels
    flat = flatten_level(x, 3)
    assert flat.shape == (2, 8, 3)
    assert flat[1, 0].tolist() == x[1, :3, 0, 0].tolist()                # cell (0, 0), anchor 0
    assert flat[1, 1].tolist() == x[1, 3:, 0, 0].tolist()                # anchor 1
    assert flat[1, 2].tolist() == x[1, :3, 0, 1].tolist()                # cell (0, 1)
    assert flat[1, 4].tolist() == x[1, :3, 1, 0].tolist()


def test_outputs_go_up_to_float32():
    half = DenseOutputs([torch.zeros(1, 2, 3).bfloat16()], [torch.zeros(1, 2, 4).bfloat16()], [(1, 2)], [torch.zeros(1, 2).bfloat16()])
    whole = half.float()
    assert {x.dtype for x in (*whole.cls, *whole.reg, *whole.quality)} == {torch.float32}
    assert whole.sizes == [(1, 2)]
    assert DenseOutputs([], [], []).float().quality is None


def test_softmax_losses_are_refused():
    with pytest.raises(ConfigError, match=r'XHead loss_cls is a softmax loss \(CrossEntropyLoss\).*Set use_sigmoid=True'):
        refuse_background_score(CrossEntropyLoss(), 'XHead')
    refuse_background_score(CrossEntropyLoss(use_sigmoid=True), 'XHead')
    refuse_background_score(FocalLoss(), 'XHead')


# ------------------------------------------------------------------------------------------------------------- targets
def test_targets_by_hand(sample: Callable):
    t = targets([sample([[0, 0, 10, 9], [30, 0, 40, 20]], [2, 1]), sample([])])
    # IoU .9 and .44 (between) with the first object, .5 with the second
    assert t.labels.tolist() == [[2, 3, 1, 3], [3, 3, 3, 3]]
    assert t.label_weights.tolist() == [[1, 0, 1, 1], [1, 1, 1, 1]]
    assert t.positive.tolist() == [[True, False, True, False], [False] * 4]
    assert t.boxes[0].tolist() == [[0, 0, 10, 9], [0] * 4, [30, 0, 40, 20], [0] * 4]
    assert t.boxes[1].abs().max() == 0
    assert t.avg_factor == 2 + 1


def test_priors_left_out_are_neither_object_nor_background(sample: Callable):
    left_out = torch.tensor([False, True, True, True])
    t = targets([sample([[0, 0, 10, 9]], [2])], [left_out])
    assert t.labels.tolist() == [[3, 3, 3, 3]]
    assert t.label_weights.tolist() == [[0, 0, 1, 1]]


def test_the_border_is_the_images_not_the_batchs(sample: Callable):
    inside = targets([sample([], size=(20, 50))], allowed_border=0)
    assert inside.label_weights.tolist() == [[1, 1, 1, 0]]
    assert targets([sample([], size=(20, 50))], allowed_border=25).label_weights.tolist() == [[1, 1, 1, 1]]
    assert targets([sample([], size=(20, 50))], allowed_border=-1).label_weights.tolist() == [[1, 1, 1, 1]]


def test_within_border_by_hand():
    anchors = torch.tensor([[0., 0., 9., 9.], [-1., 0., 9., 9.], [0., 0., 10., 9.], [0., 0., 20., 4.]])
    assert within_border(anchors, ALL, (10, 21), 0).tolist() == [True, False, True, True]
    assert within_border(anchors, ALL, (10, 20), 0).tolist() == [True, False, True, False]
    assert within_border(anchors, ~ALL, (10, 21), 5).tolist() == [False] * 4


def test_positives_may_weigh_more(sample: Callable):
    assert targets([sample([[0, 0, 10, 9]], [2])], pos_weight=3.).label_weights.tolist() == [[3, 0, 1, 1]]


def test_targets_name_the_objects_that_can_be_learnt_sampled_or_not(sample: Callable):
    objects = [[0, 0, 10, 9], [50, 50, 60, 60], [30, 0, 40, 20]]
    t = targets([sample(objects), sample([]), sample(objects[1:])])
    assert [m.tolist() for m in t.matched_objects] == [[0, 2], [], [1]] and t.assigned_by == 'geometry'
    assert t.priors.shape == (3, 4, 4)
    nothing_drawn = targets([sample(objects)], sampler=RandomSampler(2, 0.))
    assert nothing_drawn.positive.sum() == 0 and nothing_drawn.matched_objects[0].tolist() == [0, 2]


def test_priors_may_differ_between_images(sample: Callable):
    objects = sample([[0, 0, 10, 9]], [2])
    shifted = PRIORS + torch.tensor([5., 0, 5, 0])
    assigner = MaxIoUAssigner(.5, .4, match_low_quality=False)
    priors = PriorSet(torch.stack([PRIORS, shifted]), [3, 1], torch.stack([ALL, ALL]))
    t = dense_targets(priors, [objects, objects], 3, assigner, PseudoSampler(), DenseTraining(assigner))
    assert t.labels.tolist() == [[2, 3, 3, 3], [3, 3, 3, 3]]
    assert t.priors[1].tolist() == shifted.tolist()


def test_an_assigner_sees_how_many_priors_of_each_level_are_left():
    around = PRIORS[:, None].repeat(1, 2, 1)
    priors = PriorSet(PRIORS, [3, 1], ALL[None], around)
    seen = priors.candidates(0, torch.tensor([0, 2, 3]))
    assert seen.levels == [2, 1] and seen.priors.tolist() == PRIORS[[0, 2, 3]].tolist()
    assert seen.approximations.tolist() == around[[0, 2, 3]].tolist()
    assert priors.candidates(0, torch.tensor([3])).levels == [0, 1]
    other = PriorSet(torch.stack([PRIORS, PRIORS + 1]), [3, 1], torch.stack([ALL, ALL]), torch.stack([around, around + 1]))
    assert other.candidates(1, torch.tensor([1])).approximations.tolist() == (around[[1]] + 1).tolist()


def test_a_prior_set_leaves_out_each_images_padding(sample: Callable):
    out = DenseOutputs([torch.zeros(2, 6, 1), torch.zeros(2, 2, 1)], [], [(2, 3), (1, 2)])
    samples = [sample([], pad_shape=(16, 24)), sample([], pad_shape=(16, 16))]
    priors = prior_set(MlvlPointGenerator([8, 16]), out, samples)
    assert priors.levels == [6, 2] and priors.priors[-1].tolist() == [24, 8, 16, 16]
    assert priors.valid.tolist() == [[True] * 8, [True, True, False, True, True, False, True, False]]


def test_sampling_follows_from_the_samples_seed(sample: Callable):
    take_two = RandomSampler(2, .5)
    first, same = (targets([sample([], seed=5), sample([], seed=6)], sampler=take_two).label_weights for _ in range(2))
    assert torch.equal(first, same)
    assert first.sum(1).tolist() == [2, 2]
    alone = targets([sample([], seed=6)], sampler=take_two).label_weights
    assert torch.equal(alone[0], first[1])                   # its place in the batch does not matter
    drawn = {tuple(targets([sample([], seed=s)], sampler=take_two).label_weights[0].tolist()) for s in range(20)}
    assert len(drawn) == 6                                   # all pairs of four


def test_an_assigner_that_asks_sees_detached_predictions(sample: Callable):
    seen = {}

    class Spy(DynamicSoftLabelAssigner):

        def __call__(self, candidates: object, *rest: object) -> object:
            seen.update(logits=candidates.logits, boxes=candidates.boxes)
            return super().__call__(candidates, *rest)

    points = torch.tensor([[5., 5., 8., 8.], [35., 5., 8., 8.]])
    logits, boxes = torch.zeros(1, 2, 3, requires_grad=True), torch.tensor([[[0., 0., 10., 8.], [0., 0., 1., 1.]]], requires_grad=True)
    t = dense_targets(PriorSet(points, [2], ALL[None, :2]), [sample([[0, 0, 10, 10]], [1])], 3, Spy(), PseudoSampler(),
                      DenseTraining(None), logits, boxes)
    assert not seen['logits'].requires_grad
    assert not seen['boxes'].requires_grad
    assert_close(t.quality, torch.tensor([[.8, 0.]]))
    assert t.assigned_by == 'predictions'
    assert t.labels.tolist() == [[1, 3]]


# ---------------------------------------------------------------------------------------------------------- detections
def test_candidates_by_hand():
    scores = torch.tensor([[.1, .9, .5, .05, .7, .3]])
    assert best_pairs(scores, .2, -1)[1].tolist() == [[1, 4, 2, 5]]
    assert best_pairs(scores, .2, 2)[1].tolist() == [[1, 4]]
    kept, pairs = best_pairs(scores, 0., -1)
    assert pairs.shape == (1, 6)
    assert_close(kept, scores.sort(descending=True).values)
    assert [x.shape for x in best_pairs(scores, .95, 2)] == [(1, 0), (1, 0)]
    assert best_pairs(scores, .5, -1)[1].tolist() == [[1, 4]]       # above the threshold, not at it


def test_padded_candidates_are_the_same_and_zeros():
    scores = torch.tensor([[.1, .9, .5, .05, .7, .3], [.1, .2, .3, .4, .1, .1]])
    kept, pairs = best_pairs_padded(scores, .2, 3)
    assert pairs.tolist() == [[1, 4, 2], [3, 2, *pairs[1, 2:].tolist()]]
    assert_close(kept, torch.tensor([[.9, .7, .5], [.4, .3, 0.]]))
    assert_close(best_pairs_padded(scores, .2, -1)[0][1], torch.tensor([0., 0., .3, .4, 0., 0.]))


def one_level(scores: list[list[float]], distances: list[list[float]]) -> DenseOutputs:
    logits = logit(*(s for row in scores for s in row)).reshape(1, len(scores), -1)
    return DenseOutputs([logits], [torch.tensor([distances])], [(1, len(scores))])


POINTS = [torch.tensor([[8., 8., 8., 8.], [9., 8., 8., 8.], [40., 8., 8., 8.]])]
DISTANCES = [[4., 4., 4., 4.], [4., 4., 4., 4.], [4., 4., 40., 4.]]
DECODE = DistancePointBBoxCoder().decode
NMS = dict(type='nms', iou_threshold=.5)


def detect(scores: list[list[float]], sample: object, group_by: str = 'class', **cfg: object) -> InstanceData:
    postprocess = DensePostprocess(**dict(dict(nms=NMS), **cfg))
    return detections(one_level(scores, DISTANCES), sigmoid_scores, POINTS, DECODE, postprocess, [sample], group_by)[0]


def test_detections_by_hand(sample: Callable):
    found = detect([[.9, .1], [.8, .7], [.3, .6]], sample([]), score_thr=.25)
    # the second's first class falls to the first; boxes end at the image's border, 64
    assert_close(found.scores, torch.tensor([.9, .7, .6, .3]))
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert_close(found.bboxes, torch.tensor([[4., 4., 12., 12.], [5., 4., 13., 12.], [36., 4., 64., 12.], [36., 4., 64., 12.]]))
    assert len(detect([[.9, .1], [.8, .7], [.3, .6]], sample([]), score_thr=.25, max_per_img=2)) == 2


def test_nms_may_look_across_classes(sample: Callable):
    found = detect([[.9, .1], [.8, .7], [.3, .6]], sample([]), score_thr=.25, nms=dict(NMS, class_agnostic=True))
    assert found.labels.tolist() == [0, 1]


def test_small_boxes_are_dropped(sample: Callable):
    scores = [[.9], [.2], [.6]]
    assert len(detect(scores, sample([], size=(64, 37)), score_thr=.5, min_bbox_size=0)) == 2
    assert len(detect(scores, sample([], size=(64, 37)), score_thr=.5, min_bbox_size=1)) == 1      # clipped to one pixel of width
    assert len(detect(scores, sample([], size=(64, 30)), score_thr=.5, min_bbox_size=0)) == 1      # clipped away
    assert len(detect(scores, sample([], size=(64, 30)), score_thr=.5, min_bbox_size=-1)) == 2


def test_nothing_above_the_threshold_is_nothing(sample: Callable):
    found = detect([[.1], [.2], [.3]], sample([]), score_thr=.9)
    assert (found.bboxes.shape, found.scores.shape, found.labels.shape, found.labels.dtype) == ((0, 4), (0,), (0,), torch.int64)


def test_levels_have_a_limit_each_and_suppress_each_other_within_a_class_only_then(sample: Callable):
    out = DenseOutputs([logit(.9, .8, .7).reshape(1, 3, 1), logit(.6).reshape(1, 1, 1)],
                       [torch.tensor([DISTANCES]), torch.tensor([DISTANCES[:1]])], [(1, 3), (1, 1)])
    priors = [POINTS[0], POINTS[0][:1]]

    def scores(group_by: str, **cfg: object) -> list[float]:
        return detections(out, sigmoid_scores, priors, DECODE, DensePostprocess(nms=NMS, **cfg), [sample([])], group_by)[0].scores.tolist()

    assert scores('class') == pytest.approx([.9, .7])
    assert scores('level') == pytest.approx([.9, .7, .6])
    assert scores('level', nms_pre=1) == pytest.approx([.9, .6])


def test_a_quality_multiplies_scores_after_the_threshold(sample: Callable):
    out = one_level([[.9], [.2], [.6]], DISTANCES)
    weighed = DenseOutputs(out.cls, out.reg, out.sizes, [logit(.5, .9, .9)[None]])
    found = detections(weighed, sigmoid_scores, POINTS, DECODE, DensePostprocess(nms=NMS, score_thr=.5), [sample([])])[0]
    assert_close(found.scores, torch.tensor([.54, .45]))


def test_boxes_are_decoded_from_each_images_own_priors(sample: Callable):
    out = DenseOutputs([logit(.9, .8).reshape(2, 1, 1)], [torch.tensor([[DISTANCES[0]], [DISTANCES[0]]])], [(1, 1)])
    priors = [torch.tensor([[[8., 8., 8., 8.]], [[40., 8., 8., 8.]]])]
    cfg = DensePostprocess(nms=NMS, max_per_img=2)
    one, two = detections(out, sigmoid_scores, priors, DECODE, cfg, [sample([]), sample([])])
    assert one.bboxes.tolist() == [[4, 4, 12, 12]] and two.bboxes.tolist() == [[36, 4, 44, 12]]
    padded = padded_detections(out, sigmoid_scores, priors, DECODE, cfg, torch.tensor([[64, 64], [64, 64]]))
    assert padded.boxes[:, 0].tolist() == [[4, 4, 12, 12], [36, 4, 44, 12]]
    assert_close(padded.scores[:, 0], torch.tensor([.9, .8]))


@pytest.mark.parametrize('threshold', [0., .3])
def test_scores_of_zero_are_no_candidates_whatever_the_threshold(sample: Callable, threshold: float):
    out = one_level([[.9, .8], [.8, .7], [.4, .6]], DISTANCES)
    def confident(out: DenseOutputs) -> DenseScores:
        return DenseScores([x.sigmoid() * torch.tensor([[0.], [1.], [1.]]) for x in out.cls])
    cfg = DensePostprocess(nms=None, score_thr=threshold, max_per_img=6)
    found = detections(out, confident, POINTS, DECODE, cfg, [sample([])])[0]
    assert_close(found.scores, torch.tensor([.8, .7, .6, .4]))
    padded = padded_detections(out, confident, POINTS, DECODE, cfg, torch.tensor([[64, 64]]))
    assert_close(padded.scores[0], torch.tensor([.8, .7, .6, .4, 0., 0.]))
    assert padded.labels[0].tolist() == [*found.labels.tolist(), -1, -1]
