"""Sketches of heads that ask most of what dense heads share: softmax with background, confidence first, priors of each image, and
assignment by losses. Each is the part of the head that differs; towers and initial values are left out."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.testing import assert_close

from detkit.models.dense_heads.outputs import (
    DenseOutputs,
    DenseScores,
    DenseTargets,
    PriorSet,
    dense_targets,
    detections,
    flatten_level,
    padded_detections,
    prior_set,
    sigmoid_scores,
)
from detkit.models.settings import DensePostprocess, DenseTraining
from detkit.structures import DetDataSample
from detkit.structures.detections import Detections
from detkit.tasks.assigners import MaxIoUAssigner
from detkit.tasks.coders import DeltaXYWHBBoxCoder
from detkit.tasks.matching import NEGATIVE, Candidates, Match
from detkit.tasks.priors import AnchorGenerator
from detkit.tasks.samplers import PseudoSampler

K = 2
OBJECTS = [[0., 0., 15., 17.], [30., 30., 50., 46.]]
POSTPROCESS = DensePostprocess(nms=dict(type='nms', iou_threshold=.5), nms_pre=6, score_thr=.2, max_per_img=5)


class Sketch(nn.Module):
    """One square anchor of two strides at each cell of two levels; ``cls_channels`` class logits, four deltas, ``more`` numbers."""

    strides = (8, 16)

    def __init__(self, cls_channels: int = K, more: int = 0) -> None:
        super().__init__()
        self.cls_channels, self.coder, self.sampler = cls_channels, DeltaXYWHBBoxCoder(), PseudoSampler()
        self.prior_generator = AnchorGenerator(strides=[8, 16], ratios=[1.], scales=[2.], center_offset=.5)
        self.assigner, self.training_cfg = MaxIoUAssigner(.5, .4), DenseTraining(None)
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, cls_channels + 4 + more, 1)
        nn.init.normal_(self.conv.weight, std=.8)

    def forward(self, feats: list[Tensor]) -> DenseOutputs:
        x = [flatten_level(self.conv(f), self.conv.out_channels) for f in feats]
        c = self.cls_channels
        return self.outputs([v[..., :c] for v in x], [v[..., c:c + 4] / 4 for v in x], [tuple(f.shape[-2:]) for f in feats],
                            [v[..., c + 4:] for v in x])

    def outputs(self, cls: list[Tensor], reg: list[Tensor], sizes: list[tuple[int, int]], more: list[Tensor]) -> DenseOutputs:
        return DenseOutputs(cls, reg, sizes)

    def scores(self, out: DenseOutputs) -> DenseScores:
        return sigmoid_scores(out)

    def priors(self, out: DenseOutputs) -> list[Tensor]:
        return self.prior_generator(out.sizes, out.device)

    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        return dense_targets(prior_set(self.prior_generator, out, samples), samples, K, self.assigner, self.sampler, self.training_cfg)

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return detections(out, self.scores, self.priors(out), self.coder.decode, POSTPROCESS, samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        return padded_detections(out, self.scores, self.priors(out), self.coder.decode, POSTPROCESS, sizes)


# ------------------------------------------------------------------------------------------------------------ sketches
class SSDSketch(Sketch):
    """Softmax over the classes and background; of the background the hardest, three for each positive (SSD, Sec. 2.2)."""

    def __init__(self) -> None:
        super().__init__(cls_channels=K + 1)

    def scores(self, out: DenseOutputs) -> DenseScores:
        return DenseScores([x.softmax(-1)[..., :-1] for x in out.cls])

    def loss(self, out: DenseOutputs, samples: list[DetDataSample]) -> dict[str, Tensor]:
        t, cls, reg = self.targets(out, samples), torch.cat(out.cls, 1), torch.cat(out.reg, 1)
        loss = F.cross_entropy(cls.flatten(0, 1), t.labels.flatten(), reduction='none').view_as(t.labels)
        background = loss.masked_fill(t.positive | (t.label_weights == 0), 0)
        hardest = [b.topk(min(3 * int(p.sum()), len(b))).values.sum() for b, p in zip(background, t.positive)]
        target = self.coder.encode(t.priors[t.positive], t.boxes[t.positive])
        return dict(loss_cls=(loss[t.positive].sum() + sum(hardest)) / t.avg_factor,
                    loss_bbox=F.smooth_l1_loss(reg[t.positive], target, reduction='sum') / t.avg_factor)


class CellAssigner:
    """The anchor in whose cell an object's centre lies, on the level where it overlaps the object best (YOLOv3, Sec. 2.1)."""

    looks_at_predictions = False

    def __init__(self, strides: tuple[int, ...]) -> None:
        self.strides, self.overlap = strides, MaxIoUAssigner(.5, .5).overlap

    def __call__(self, candidates: Candidates, gt: InstanceData, ignored: InstanceData | None = None) -> Match:
        index = torch.full((len(candidates),), NEGATIVE)
        if len(gt):
            half = candidates.priors.new_tensor(self.strides).repeat_interleave(torch.tensor(candidates.levels))[:, None, None] / 2
            middle = (candidates.priors[:, None, :2] + candidates.priors[:, None, 2:]) / 2
            inside = ((middle - (gt.bboxes[:, :2] + gt.bboxes[:, 2:]) / 2).abs() <= half).all(-1)          # (A, G)
            best = self.overlap(gt.bboxes, candidates.priors).T.masked_fill(~inside, -1).argmax(0)
            index[best] = torch.arange(len(gt))
        return Match(index)


class YOLOv3Sketch(Sketch):
    """Confidence first: what lies below ``conf_thr`` is no candidate; the best class scores of all levels together are kept, and only then
    multiplied by it."""

    conf_thr = .4

    def __init__(self) -> None:
        super().__init__(more=1)
        self.assigner = CellAssigner(self.strides)

    def outputs(self, cls: list[Tensor], reg: list[Tensor], sizes: list[tuple[int, int]], more: list[Tensor]) -> DenseOutputs:
        return DenseOutputs(cls, reg, sizes, [m.squeeze(-1) for m in more])

    def scores(self, out: DenseOutputs) -> DenseScores:
        confidence = torch.cat(out.quality, 1).sigmoid()
        classes = torch.cat(out.cls, 1).sigmoid()
        return DenseScores([torch.where(confidence[..., None] >= self.conf_thr, classes, 0.)], [confidence])

    def priors(self, out: DenseOutputs) -> list[Tensor]:
        return [torch.cat(super().priors(out))]

    def predict(self, out: DenseOutputs, samples: list[DetDataSample]) -> list[InstanceData]:
        return super().predict(replace(out, reg=[torch.cat(out.reg, 1)]), samples)

    def decode(self, out: DenseOutputs, sizes: Tensor) -> Detections:
        return super().decode(replace(out, reg=[torch.cat(out.reg, 1)]), sizes)


@dataclass(frozen=True, kw_only=True)
class GuidedOutputs(DenseOutputs):
    location: list[Tensor]     # L x (N, A_l) logits of "an object's centre is here"
    shape: list[Tensor]        # L x (N, A_l, 2) logarithms of width and height, in the square anchor's


class GuidedSketch(Sketch):
    """Anchors of predicted sizes, at places that are likely (Guided Anchoring, Sec. 3.2 and 3.3)."""

    def __init__(self) -> None:
        super().__init__(more=3)

    def outputs(self, cls: list[Tensor], reg: list[Tensor], sizes: list[tuple[int, int]], more: list[Tensor]) -> DenseOutputs:
        return GuidedOutputs(cls, reg, sizes, location=[m[..., 0] for m in more], shape=[m[..., 1:] / 4 for m in more])

    def scores(self, out: GuidedOutputs) -> DenseScores:
        return DenseScores([x.sigmoid() * (place >= 0)[..., None] for x, place in zip(out.cls, out.location)])

    def priors(self, out: GuidedOutputs) -> list[Tensor]:
        squares = super().priors(out)
        return [self.coder.decode(s.expand(*x.shape[:2], 4), torch.cat([x * 0, x], -1)) for s, x in zip(squares, out.shape)]

    def targets(self, out: GuidedOutputs, samples: list[DetDataSample]) -> DenseTargets:
        priors, likely = self.priors(out), torch.cat(out.location, 1).detach() >= 0
        guided = PriorSet(torch.cat(priors, 1).detach(), [p.shape[1] for p in priors], likely)
        return dense_targets(guided, samples, K, self.assigner, self.sampler, self.training_cfg)


class PAASketch(Sketch):
    """Of an object's candidates those learn it whose loss is low; the others become background (PAA, Sec. 3.1). The paper splits them by a
    mixture of two Gaussians; here the mean does."""

    def __init__(self) -> None:
        super().__init__()
        self.assigner = MaxIoUAssigner(.1, .1)

    @torch.no_grad()
    def targets(self, out: DenseOutputs, samples: list[DetDataSample]) -> DenseTargets:
        t = super().targets(out, samples)
        loss = self.prior_losses(out, t)
        kept = t.positive.clone()
        for image, objects in enumerate(t.matched_objects):
            for which in objects.tolist():
                candidates = t.positive[image] & (t.matched[image] == which)
                kept[image, candidates] = loss[image, candidates] <= loss[image, candidates].mean()
        return replace(t, positive=kept, labels=t.labels.where(kept, K), avg_factor=kept.sum().float().clamp(min=1))

    def prior_losses(self, out: DenseOutputs, t: DenseTargets) -> Tensor:
        """(N, A): of the class and, where there is an object, of the box."""
        cls = F.binary_cross_entropy_with_logits(torch.cat(out.cls, 1), F.one_hot(t.labels, K + 1)[..., :-1].float(), reduction='none')
        boxes = torch.where(t.positive[..., None], t.boxes, t.priors)
        target = self.coder.encode(t.priors.flatten(0, 1), boxes.flatten(0, 1)).view_as(boxes)
        return cls.sum(-1) + (torch.cat(out.reg, 1) - target).abs().sum(-1) * t.positive


# --------------------------------------------------------------------------------------------------------------- tests
SKETCHES = (SSDSketch, YOLOv3Sketch, GuidedSketch, PAASketch)


@pytest.fixture
def feats() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 4, 8 // s, 8 // s, generator=generator) * 2 for s in (1, 2)]


@pytest.mark.parametrize('kind', SKETCHES)
def test_one_selection_serves_prediction_and_export(kind: type[Sketch], feats: list[Tensor], sample: Callable):
    head = kind()
    with torch.no_grad():
        out = head(feats)
        found = head.predict(out, [sample([]), sample([], size=(64, 48))])
        sizes = torch.tensor([[64, 64], [64, 48]])
        same = head.decode(out, sizes)
    assert all(len(f) for f in found)
    for i, instances in enumerate(found):
        count = len(instances)
        assert_close(same.boxes[i, :count], instances.bboxes)
        assert_close(same.scores[i, :count], instances.scores)
        assert same.labels[i].tolist() == [*instances.labels.tolist(), *[-1] * (5 - count)]
    alone = head.predict(head([f[1:] for f in feats]), [sample([], size=(64, 48))])[0]
    assert_close(alone.bboxes, found[1].bboxes)

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, fine: Tensor, coarse: Tensor, sizes: Tensor) -> Detections:
            return self.head.decode(self.head([fine, coarse]), sizes)
    program = torch.export.export(Exported(), (*feats, sizes))
    assert_close(program.module()(*feats, sizes).boxes, same.boxes)


def test_softmax_scores_leave_background_out_and_hard_negatives_are_learnt(feats: list[Tensor], sample: Callable):
    head = SSDSketch()
    out = head(feats)
    found = head.predict(out, [sample([]), sample([])])[0]
    probabilities = torch.cat(out.cls, 1)[0].softmax(-1)
    assert found.scores[0] == probabilities[:, :K].max() and found.labels.max() < K
    losses = head.loss(out, [sample(OBJECTS, [0, 1]), sample([])])
    t = head.targets(out, [sample(OBJECTS, [0, 1]), sample([])])
    negative = -probabilities[:, K].log()[~t.positive[0] & (t.label_weights[0] > 0)]
    positive = -probabilities[t.positive[0], t.labels[0, t.positive[0]]].log()
    count = int(t.positive.sum())
    assert count >= 2
    assert_close(losses['loss_cls'], (positive.sum() + negative.topk(3 * count).values.sum()) / (count + 1))    # an empty image counts 1
    sum(losses.values()).backward()
    assert head.conv.weight.grad.abs().max() > 0


def test_confidence_comes_before_the_best_class_scores_of_all_levels(feats: list[Tensor], sample: Callable):
    head = YOLOv3Sketch()
    out = head(feats)
    found = head.predict(out, [sample([]), sample([])])[0]
    confidence, classes = torch.cat(out.quality, 1)[0].sigmoid(), torch.cat(out.cls, 1)[0].sigmoid()
    classes = classes[confidence >= head.conf_thr]
    best = classes.flatten().topk(6)                                              # nms_pre, over both levels
    products = best.values * confidence[confidence >= head.conf_thr][best.indices // K]
    assert set(found.scores.tolist()) <= set(products.tolist()) and found.scores[0] == products.max()
    t = head.targets(out, [sample(OBJECTS, [0, 1]), sample([])])
    assert t.positive.sum(1).tolist() == [2, 0] and [m.tolist() for m in t.matched_objects] == [[0, 1], []]
    assert t.positive[0].nonzero().flatten().tolist() == [8, 36]                  # the cells of (7.5, 8.5) and (40, 38), stride 8


def test_guided_anchors_differ_between_images(feats: list[Tensor], sample: Callable):
    head = GuidedSketch()
    out = head(feats)
    priors = torch.cat(head.priors(out), 1)
    assert priors.shape == (2, 80, 4) and not torch.equal(priors[0], priors[1])
    same = [sample(OBJECTS, [0, 1]), sample(OBJECTS, [0, 1])]
    t = head.targets(out, same)
    alone = head.targets(out.image(1), same[1:])
    assert torch.equal(t.priors, priors) and torch.equal(alone.labels[0], t.labels[1]) and not torch.equal(t.labels[0], t.labels[1])
    unlikely = torch.cat(out.location, 1) < 0
    assert t.label_weights[unlikely].max() == 0 and t.label_weights[~unlikely].max() == 1
    assert [m.tolist() for m in t.matched_objects] == [[0, 1], [0, 1]]


def test_losses_may_assign(feats: list[Tensor], sample: Callable):
    head, samples = PAASketch(), [sample(OBJECTS, [0, 1]), sample([])]
    out = head(feats)
    candidates, t = Sketch.targets(head, out, samples), head.targets(out, samples)
    assert 0 < t.positive.sum() < candidates.positive.sum() and not (t.positive & ~candidates.positive).any()
    assert [m.tolist() for m in t.matched_objects] == [[0, 1], []]
    loss = head.prior_losses(out, candidates)[0]
    for which in (0, 1):
        mine = candidates.positive[0] & (candidates.matched[0] == which)
        assert loss[mine & t.positive[0]].max() <= loss[mine].mean() < loss[mine & ~t.positive[0]].min()
    assert t.labels[0][candidates.positive[0] & ~t.positive[0]].unique().tolist() == [K]
