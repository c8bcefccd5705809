"""Find the objects that the heads of a detector can learn, by size and class."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detkit.doctor.findings import Report

MATCH_IMAGES = 24                        # number of training images checked
MAX_UNMATCHED_SHARE = 0.05               # fraction of objects matched to nothing; above it, the finding is a warning
MAX_UNMATCHED_SHARE_UNTRAINED = 0.3      # the same for assigners that use predictions, as the model is untrained
MAX_SHARE_BELOW_STRIDE = 0.2             # the same for the fraction of objects smaller than the finest stride
SIZES = dict(small=(0., 32.), medium=(32., 96.), large=(96., float('inf')))     # side in pixels, at COCO's area limits
REMEDIES = dict(
    geometry='They are never learnt. A larger input, finer strides, or with anchors smaller scales or a lower pos_iou_thr make them so.',
    predictions='The assigner goes by predictions, here of an untrained model: no more than a hint at objects that cover each other.',
    queries='These images have more objects than the head has queries: raise num_queries.')


@dataclass
class MatchedObjects:
    """The objects of the images given to a head."""

    assigned_by: str
    matched: list[Tensor] = field(default_factory=list)    # per image (G,) bool: the object is matched
    sides: list[Tensor] = field(default_factory=list)      # per image (G,): square root of the box area, pixels of the network input
    labels: list[Tensor] = field(default_factory=list)     # per image (G,) int64

    def add(self, matched_objects: list[Tensor], samples: list[Any]) -> None:
        for index, sample in zip(matched_objects, samples):
            gt = sample.gt_instances
            hit = torch.zeros(len(gt), dtype=torch.bool)
            hit[index[index < len(gt)].cpu()] = True
            self.matched.append(hit)
            self.sides.append((gt.bboxes[:, 2:] - gt.bboxes[:, :2]).clamp(min=0).prod(1).sqrt().cpu())
            self.labels.append(gt.labels.cpu())


def judge_matching(name: str, strides: Sequence[int], objects: MatchedObjects, classes: Sequence[str], report: Report) -> None:
    """Report the objects that head ``name`` does not match; ``report.facts['matching'][name]`` has the numbers."""
    matched, sides, labels = torch.cat(objects.matched), torch.cat(objects.sides), torch.cat(objects.labels)
    if not len(matched):
        report.add('warning', 'no object reaches the head', 'train', f'in {MATCH_IMAGES} images', 'Look at the training pipeline: which of '
                                                                                                 'its transforms drops them?')
        return
    by_size = {size: unmatched_of_all(matched, (sides >= low) & (sides < high)) for size, (low, high) in SIZES.items()}
    by_class = {classes[i] if i < len(classes) else str(i): unmatched_of_all(matched, labels == i) for i in labels.unique().tolist()}
    share = 1 - float(matched.float().mean())
    report.facts.setdefault('matching', {})[name] = dict(
        objects=len(matched), without_positive=round(share, 4), assigned_by=objects.assigned_by, strides=list(strides),
        side_in_network_pixels=[round(float(v), 1) for v in sides.quantile(torch.tensor([0, .25, .5, .75, 1]))],
        without_positive_by_size=by_size, without_positive_by_class=by_class)
    if share > 0:
        lost = sides[~matched]
        limit = MAX_UNMATCHED_SHARE_UNTRAINED if objects.assigned_by == 'predictions' else MAX_UNMATCHED_SHARE
        report.add('warning' if share > limit else 'note', 'objects without positive sample', 'train',
                   f'{name}: {share:.1%} of {len(matched)} objects; in the network input their sides are {float(lost.min()):.0f} to '
                   f'{float(lost.max()):.0f} pixels (median {float(lost.median()):.0f}); {listed(by_size)}; {listed(by_class)}',
                   REMEDIES[objects.assigned_by])
    below = float((sides < min(strides)).float().mean()) if strides else 0.
    if below > MAX_SHARE_BELOW_STRIDE:
        report.add('warning', 'objects smaller than the finest stride', 'train',
                   f'{name}: {below:.1%} of {len(matched)} objects have a side below {min(strides)} pixels in the network input',
                   'Raise the input size, or use a finer level of the pyramid.')


def unmatched_of_all(matched: Tensor, group: Tensor) -> tuple[int, int]:
    """Return the number of unmatched objects of a group (n,) bool, and the number of objects in it."""
    return int((~matched & group).sum()), int(group.sum())


def listed(counts: dict[str, tuple[int, int]], limit: int = 6) -> str:
    """Return the groups with unmatched objects, largest fraction first: ``small 3 of 20, large 1 of 4``."""
    worst = sorted((k for k, (lost, _) in counts.items() if lost), key=lambda k: -counts[k][0] / counts[k][1])
    return ', '.join(f'{k} {counts[k][0]} of {counts[k][1]}' for k in worst[:limit]) + (', ...' if len(worst) > limit else '')
