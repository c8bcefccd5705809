"""Panoptic quality (Kirillov et al., https://arxiv.org/abs/1801.00868, Sec. 4)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkit.structures.panoptic import segment_indices

TP, FP, FN, IOU = range(4)   # columns of the counts: numbers of segments, and the sum of the IoUs of matched pairs


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one image, ground truth or predicted."""

    index: np.ndarray                  # (H, W) int64: the segment of each pixel, from 1; 0 is void
    labels: np.ndarray                 # (S,) int64 in [0, K)
    crowd: np.ndarray                  # (S,) bool: never a false negative; see ``panoptic_counts``. False for predictions


def true_segments(ids: np.ndarray, listed: Sequence[dict], size: tuple[int, int]) -> Segments:
    """Return the segments of a decoded panoptic map. ``listed``: its dicts in the annotation file with ``id``, ``label`` (None: the segment
    is left out and its pixels are void) and ``crowd``.

    Raises:
        ValueError: map and list are inconsistent; see ``segment_indices``.
    """
    index = segment_indices(ids, [s['id'] for s in listed], size)
    kept = [i for i, s in enumerate(listed) if s['label'] is not None]
    renumbered = np.zeros(len(listed) + 1, np.int64)
    renumbered[[i + 1 for i in kept]] = np.arange(1, len(kept) + 1)
    return Segments(renumbered[index], np.array([listed[i]['label'] for i in kept], np.int64),
                    np.array([listed[i]['crowd'] for i in kept], bool))


def panoptic_counts(truth: Segments, found: Segments, num_classes: int) -> np.ndarray:
    """Return the counts of one image, (K, 4): true positives, false positives, false negatives, and the sum of IoUs of true positives.

    A predicted and a true segment of the same class match if their IoU exceeds 0.5; at most one pair can (Sec. 4.1). Void pixels of
    the ground truth are excluded from the union, and an unmatched prediction is not a false positive if more than half of it is in void
    or in crowds of its class (Sec. 4.3, as in COCO's own evaluation). True crowds are never false negatives and never matched.
    """
    rows, columns = len(truth.labels) + 1, len(found.labels) + 1
    overlap = np.bincount((truth.index * columns + found.index).ravel(), minlength=rows * columns).reshape(rows, columns)
    inter, void, area = overlap[1:, 1:], overlap[0, 1:], overlap.sum(0)[1:]
    union = overlap.sum(1)[1:, None] + area - inter - void
    same = truth.labels[:, None] == found.labels
    iou = np.where(same & ~truth.crowd[:, None], inter / np.maximum(union, 1), 0.)
    match = iou > 0.5
    ignored = void + (inter * (same & truth.crowd[:, None])).sum(0)
    counts = np.zeros((num_classes, 4))
    np.add.at(counts[:, TP], truth.labels[match.any(1)], 1)
    np.add.at(counts[:, IOU], truth.labels[match.any(1)], iou[match])
    np.add.at(counts[:, FN], truth.labels[~match.any(1) & ~truth.crowd], 1)
    np.add.at(counts[:, FP], found.labels[~match.any(0) & (2 * ignored <= area)], 1)
    return counts


def panoptic_quality(counts: np.ndarray, classes: np.ndarray | None = None) -> dict[str, float]:
    """Return PQ, SQ and RQ in [0, 1], means over those of ``classes`` (indices or flags; default: all) that occur, and their number ``n``.

    PQ = SQ * RQ, SQ is the mean IoU of matches, RQ = TP / (TP + FP / 2 + FN / 2) (eq. 1). If no class occurs, all are 0.
    """
    chosen = counts if classes is None else counts[classes]
    rows = per_class_quality(chosen)[chosen[:, [TP, FP, FN]].sum(1) > 0]
    pq, sq, rq = rows.mean(0) if len(rows) else (0., 0., 0.)
    return dict(pq=float(pq), sq=float(sq), rq=float(rq), n=len(rows))


def per_class_quality(counts: np.ndarray) -> np.ndarray:
    """Return PQ, SQ and RQ of each class, (K, 3); 0 if the class does not occur."""
    tp, fp, fn, iou = counts.T
    size = np.maximum(tp + fp / 2 + fn / 2, 0.5)
    return np.stack([iou / size, iou / np.maximum(tp, 1), tp / size], 1)
