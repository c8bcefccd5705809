"""From mask queries to instances and a panoptic map: by hand, and against MaskFormer's rules on whole masks."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import detkit.ops.masks as masks_module
from detkit.models.query_heads.mask_fusion import MaskFormerFusionHead, extent
from detkit.registry import ConfigError

VOID = 3        # two things, one stuff
BIG = 20.


def fusion(**cfg) -> MaskFormerFusionHead:
    return MaskFormerFusionHead(2, 1, test_cfg=dict(panoptic_on=True, instance_on=True) | cfg)


def sure(*labels: int, logit: float = BIG) -> torch.Tensor:
    """(Q, 4) logits, each query's class at ``logit`` above the others."""
    return F.one_hot(torch.tensor(labels), 4).float() * logit


def rows(*masks: str) -> torch.Tensor:
    """(Q, 1, W): '#' is BIG inside, '.' outside, '-' barely outside, '+' barely inside."""
    return torch.tensor([[[{'#': BIG, '.': -BIG, '-': -0.1, '+': 0.1}[c] for c in m]] for m in masks])


def same(width: int) -> list:
    return [((1, width), (1, width))]


def test_things_are_numbered_and_stuff_is_not():
    got = fusion().panoptic(sure(2, 1, 3, 0), rows('##....', '..##..', '######', '....#.'), same(6))
    assert got.tolist() == [[2, 2, 1001, 1001, 2000, 2]] and got.dtype == torch.int32     # the last: of equals the first


def test_two_queries_of_one_stuff_class_are_one_segment():
    assert fusion().panoptic(sure(2, 2), rows('##..', '..##'), same(4)).tolist() == [[2, 2, 2, 2]]


def test_a_pixel_goes_to_the_larger_score_and_the_first_of_equals():
    got = fusion(iou_thr=0.5).panoptic(torch.cat([sure(0), sure(1, logit=5.), sure(1)]), rows('###..', '..##.', '...##'), same(5))
    assert got.tolist() == [[1000, 1000, 1000, 2001, 2001]]        # the second query is left with nothing


def test_a_segment_that_keeps_too_little_of_its_mask_is_dropped():
    logits, masks = torch.cat([sure(0), sure(1, logit=5.)]), rows('###..', '.####')     # the second keeps 2 of 4
    assert fusion(iou_thr=0.5).panoptic(logits, masks, same(5)).tolist() == [[1000, 1000, 1000, 2001, 2001]]
    assert fusion(iou_thr=0.51).panoptic(logits, masks, same(5)).tolist() == [[1000, 1000, 1000, VOID, VOID]]


def test_queries_without_a_class_or_below_the_threshold_take_no_part():
    logits = torch.cat([sure(3), sure(0, logit=1.), sure(1)])
    assert fusion().panoptic(logits, rows('####', '##..', '..#.'), same(4))[0, 2] == 1001
    nothing = fusion().panoptic(logits[:2], rows('####', '##..'), same(4))
    assert nothing.tolist() == [[VOID] * 4] and nothing.dtype == torch.int32


def test_pixels_of_a_low_mask_score_become_void_when_asked_to():
    logits, masks = sure(0, 1), rows('##--..', '....##')
    assert fusion().panoptic(logits, masks, same(6)).tolist() == [[1000, 1000, 1000, 1000, 2001, 2001]]
    assert fusion(filter_low_score=True).panoptic(logits, masks, same(6)).tolist() == [[1000, 1000, VOID, VOID, 2001, 2001]]


def test_instances_by_hand():
    got = fusion(max_per_image=3).instances(sure(0, 1, 2), rows('.##...', '...+++', '######'), same(6))
    assert got.labels.tolist() == [0, 1] and got.bboxes.tolist() == [[1, 0, 3, 1], [3, 0, 6, 1]]
    assert_close(got.scores, torch.tensor([1., torch.tensor(0.1).sigmoid().item()]), rtol=1e-5, atol=1e-5)
    assert got.masks.to_tensor().tolist() == [[[False, True, True, False, False, False]], [[False] * 3 + [True] * 3]]


def test_stuff_takes_places_among_the_best_but_is_no_instance():
    assert fusion(max_per_image=2).instances(sure(2, 0), rows('##', '#.'), same(2)).labels.tolist() == [0]
    assert len(fusion(max_per_image=1).instances(sure(2, logit=50.), rows('##'), same(2))) == 0


def test_one_query_may_be_several_instances_of_one_mask():
    logits = torch.tensor([[2., 1.9, 0., 0.]])
    got = fusion(max_per_image=2).instances(logits, rows('.#'), same(2))
    assert got.labels.tolist() == [0, 1] and got.bboxes.tolist() == [[1, 0, 2, 1]] * 2
    assert_close(got.scores, logits.softmax(-1)[0, :2], rtol=1e-5, atol=1e-5)


def test_an_empty_mask_has_no_score_and_an_empty_box():
    got = fusion(max_per_image=1).instances(sure(1), rows('..'), same(2))
    assert got.scores.tolist() == [0] and got.bboxes.tolist() == [[0, 0, 0, 0]]


def whole_panoptic(logits: torch.Tensor, masks: torch.Tensor, steps: list, head: MaskFormerFusionHead) -> torch.Tensor:
    """MaskFormer's inference (Sec. 3.4) with all masks at full size at once, a segment at a time."""
    for stretched, (height, width) in steps:
        masks = F.interpolate(masks[None], stretched, mode='bilinear', align_corners=False)[0, :, :height, :width]
    scores, labels = logits.softmax(-1).max(-1)
    kept = [q for q in range(len(logits)) if labels[q] != head.num_classes and scores[q] > head.test_cfg.object_mask_thr]
    result = torch.full(masks.shape[1:], head.num_classes)
    if not kept:
        return result
    p = masks[kept].sigmoid()
    owner, number = (p * scores[kept, None, None]).argmax(0), 0
    for k, q in enumerate(kept):
        mine, mask = owner == k, p[k] >= 0.5
        if mine.any() and mask.any() and mine.sum() / mask.sum() >= head.test_cfg.iou_thr:
            thing = labels[q] < head.num_things_classes
            number += int(thing)
            result[mine & mask if head.test_cfg.filter_low_score else mine] = labels[q] + 1000 * number * int(thing)
    return result


@pytest.mark.parametrize('chunk', [1, 3000, 2**23])
@pytest.mark.parametrize('seed', range(4))
def test_masks_enlarged_a_few_at_a_time_give_the_map_of_all_at_once(chunk, seed, monkeypatch):
    monkeypatch.setattr(masks_module, 'CHUNK', chunk)
    g = torch.Generator().manual_seed(seed)
    logits, masks = torch.randn(9, 4, generator=g) * 3, torch.randn(9, 6, 8, generator=g) * 3
    steps = [((24, 32), (22, 30)), ((33, 47), (33, 47))]
    head = fusion(object_mask_thr=0.4, iou_thr=0.3, filter_low_score=bool(seed % 2))
    got = head.panoptic(logits, masks, steps)
    assert torch.equal(got.long(), whole_panoptic(logits, masks, steps, head)) and len(got.unique()) > 2
    several, monolith = head.instances(logits, masks, steps), None
    monkeypatch.undo()
    monolith = head.instances(logits, masks, steps)
    assert_close(several.scores, monolith.scores)
    assert torch.equal(several.bboxes, monolith.bboxes) and several.masks.codes == monolith.masks.codes


def test_coarse_detections_are_those_of_the_small_masks():
    masks = torch.full((1, 2, 8, 8), -BIG)
    masks[0, 0, 2:5, 1:7] = BIG
    logits = torch.stack([torch.tensor([0., 3., 0., 0.]), torch.tensor([9., 0., 0., 0.])])[None]
    boxes, scores, labels, small = fusion(max_per_image=3).coarse(logits, masks, 4, torch.tensor([[32, 30]]))
    assert scores.shape == (1, 3) and scores[0, 0] == pytest.approx(logits[0, 0].softmax(0)[1].item(), abs=1e-5)
    assert boxes[0, 0].tolist() == [4, 8, 28, 20] and labels[0].tolist()[:1] == [1]       # the empty mask has no row
    assert labels[0, 1:].tolist() in ([0, -1], [0, 0], [-1, -1]) and small.shape == (1, 3, 8, 8)
    assert small[0, 0].sum() == pytest.approx(18, abs=1e-3)


def test_what_lies_in_the_padding_is_not_detected():
    """Of an image of 9 x 13 pixels: cells that begin inside it count, boxes end at its last pixel."""
    masks = torch.full((1, 1, 8, 8), BIG)
    boxes, scores, _, small = fusion(max_per_image=1).coarse(torch.tensor([[[0., 3., 0., 0.]]]), masks, 4, torch.tensor([[9, 13]]))
    assert boxes[0, 0].tolist() == [0, 0, 13, 9] and scores[0, 0] > 0.8
    assert small[0, 0].sum() == 12 and small[0, 0, :3, :4].all()


def test_an_extent_is_found_between_the_cells():
    profile = torch.tensor([[[-1., 1., -3., -3.]]])                # crosses zero half way from the first cell, a quarter to the third
    low, high = extent(profile, 4, torch.tensor([16]))
    assert (low.item(), high.item()) == (4, 7)
    assert [e.item() for e in extent(profile.abs(), 4, torch.tensor([14]))] == [0, 14]


@pytest.mark.parametrize('cfg, words', [
    (dict(semantic_on=True), 'semantic_on=True is not supported'),
    (dict(panoptic_on=False, instance_on=False), 'nothing is left to predict'),
    (dict(iou_threshold=0.5), "has no 'iou_threshold'. Did you mean 'iou_thr'")])
def test_settings_are_checked(cfg, words):
    with pytest.raises(ConfigError, match=words):
        fusion(**cfg)


def test_a_loss_is_refused():
    with pytest.raises(ConfigError, match='loss_panoptic must be None'):
        MaskFormerFusionHead(loss_panoptic=dict(type='CrossEntropyLoss'))
