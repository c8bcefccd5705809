"""Panoptic quality on cases worked out by hand, and against a slow reference written from the paper's formula."""
from __future__ import annotations

import numpy as np
import pytest

from detkit.evaluation.panoptic import (
    FN,
    FP,
    IOU,
    TP,
    Segments,
    panoptic_counts,
    panoptic_quality,
    per_class_quality,
    true_segments,
)


def segments(rows, labels, crowd=()) -> Segments:
    return Segments(np.array(rows), np.array(labels, np.int64), np.isin(np.arange(1, len(labels) + 1), crowd))


def test_a_match_above_one_half_is_true_and_its_iou_counts():
    truth = segments([[1, 1, 1, 1, 2, 2]], [0, 1])
    found = segments([[1, 1, 1, 2, 2, 2]], [0, 1])
    counts = panoptic_counts(truth, found, 2)          # class 0: 3 of 4 pixels; class 1: 2 of 3
    assert counts[:, TP].tolist() == [1, 1] and counts[:, FP].tolist() == counts[:, FN].tolist() == [0, 0]
    assert counts[:, IOU].tolist() == pytest.approx([3 / 4, 2 / 3])


def test_exactly_one_half_is_no_match():
    counts = panoptic_counts(segments([[1, 1, 2, 2]], [0, 1]), segments([[1, 2, 2, 2]], [0, 1]), 2)   # class 0: 1 of 2 pixels
    assert counts.tolist() == [[0, 1, 1, 0], [1, 0, 0, pytest.approx(2 / 3)]]


def test_another_class_does_not_match():
    assert panoptic_counts(segments([[1, 1]], [0]), segments([[1, 1]], [1]), 2).tolist() == [[0, 0, 1, 0], [0, 1, 0, 0]]


def test_void_pixels_of_the_truth_do_not_count_for_the_union():
    counts = panoptic_counts(segments([[1, 1, 0, 0, 0]], [0]), segments([[1, 1, 1, 1, 0]], [0]), 1)   # IoU 2 / 2, not 2 / 4
    assert counts.tolist() == [[1, 0, 0, 1.]]


def test_a_prediction_mostly_in_void_is_no_error_but_half_is_one():
    truth = segments([[0, 0, 1, 1]], [1])
    assert panoptic_counts(truth, segments([[1, 1, 1, 0]], [0]), 2)[0].tolist() == [0, 0, 0, 0]      # 2 of 3 pixels in void
    assert panoptic_counts(truth, segments([[1, 1, 1, 1]], [0]), 2)[0].tolist() == [0, 1, 0, 0]      # 2 of 4


def test_void_of_the_prediction_costs_the_truth_its_pixels():
    assert panoptic_counts(segments([[1, 1, 1, 1]], [0]), segments([[1, 1, 1, 0]], [0]), 1).tolist() == [[1, 0, 0, 0.75]]


def test_crowds_are_never_missed_nor_matched_and_excuse_their_own_class_alone():
    truth = segments([[1, 1, 1, 1]], [0], crowd=[1])
    assert panoptic_counts(truth, segments([[1, 1, 1, 1]], [0]), 2).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert panoptic_counts(truth, segments([[1, 1, 1, 1]], [1]), 2).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]
    assert panoptic_counts(truth, segments([[0, 0, 0, 0]], []), 2).sum() == 0


def test_an_image_without_any_segment_counts_nothing():
    nothing = segments([[0, 0]], [])
    assert panoptic_counts(nothing, nothing, 3).tolist() == [[0] * 4] * 3


def test_quality_by_hand():
    counts = np.array([[2., 1, 1, 1.5], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 3, 0.6]])
    each = per_class_quality(counts)
    assert each[0].tolist() == pytest.approx([1.5 / 3, 0.75, 2 / 3])          # PQ = SQ * RQ
    assert each[1].tolist() == [0, 0, 0] and each[2].tolist() == [0, 0, 0]
    assert each[3].tolist() == pytest.approx([0.6 / 2.5, 0.6, 1 / 2.5])
    assert panoptic_quality(counts) == pytest.approx(dict(pq=(0.5 + 0.24) / 3, sq=1.35 / 3, rq=(2 / 3 + 0.4) / 3, n=3))
    assert panoptic_quality(counts, np.array([False, False, True, False])) == dict(pq=0., sq=0., rq=0., n=0)


def test_left_out_classes_become_void():
    ids = np.array([[10, 10, 20, 0]])
    got = true_segments(ids, [dict(id=10, label=None, crowd=False), dict(id=20, label=3, crowd=True)], (1, 4))
    assert got.index.tolist() == [[0, 0, 1, 0]] and got.labels.tolist() == [3] and got.crowd.tolist() == [True]


def test_a_map_that_contradicts_its_list_is_refused():
    with pytest.raises(ValueError, match='shows the segments 10'):
        true_segments(np.array([[10]]), [], (1, 1))


def slow_quality(images: list[tuple[Segments, Segments]], num_classes: int) -> dict[str, float]:
    """Eq. 1 of the paper, segment by segment as sets of pixels, with its rules for void (Sec. 4.3) and COCO's for crowds."""
    def pixels(part: Segments) -> list[set]:
        return [set(zip(*np.nonzero(part.index == i))) for i in range(1, len(part.labels) + 1)]

    scores = []
    for k in range(num_classes):
        ious, missed, wrong = [], 0, 0
        for truth, found in images:
            void = set(zip(*np.nonzero(truth.index == 0)))
            true = [(p, crowd) for p, label, crowd in zip(pixels(truth), truth.labels, truth.crowd) if label == k]
            predicted = [p for p, label in zip(pixels(found), found.labels) if label == k]
            crowds = set().union(*(p for p, crowd in true if crowd))
            pairs = [(g, p, len(g & p) / len(g | p - void)) for g, crowd in true if not crowd for p in predicted]
            pairs = [(g, p, iou) for g, p, iou in pairs if iou > 0.5]
            ious += [iou for *_, iou in pairs]
            missed += sum(not crowd and all(g is not h for h, *_ in pairs) for g, crowd in true)
            wrong += sum(all(p is not q for _, q, _ in pairs) and len(p & (void | crowds)) <= len(p) / 2 for p in predicted)
        if ious or missed or wrong:
            size = len(ious) + wrong / 2 + missed / 2
            scores.append((sum(ious) / size, sum(ious) / max(len(ious), 1), len(ious) / size))
    return {**dict(zip(('pq', 'sq', 'rq'), np.mean(scores, 0).tolist())), 'n': len(scores)}


def drawn(rng, num_classes: int, crowds: bool) -> Segments:
    """Rectangles over each other on a map that has void left."""
    index = np.zeros((12, 14), np.int64)
    for i in range(1, 9):
        y, x, h, w = rng.integers(0, (10, 12, 8, 9))
        index[y:y + h, x:x + w] = i
    present = np.unique(index[index > 0])
    renumbered = np.searchsorted(present, index) + 1
    return Segments(np.where(index > 0, renumbered, 0), rng.integers(0, num_classes, len(present)),
                    (rng.random(len(present)) < 0.2) & crowds)


@pytest.mark.parametrize('seed', range(20))
def test_equal_to_the_papers_formula(seed):
    rng, images = np.random.default_rng(seed), []
    for _ in range(4):
        truth = drawn(rng, 3, crowds=True)
        noisy = np.where(rng.random(truth.index.shape) < 0.15, 0, truth.index) if seed % 2 else np.roll(truth.index, 1, 1)
        present = np.unique(noisy[noisy > 0])
        labels = np.where(rng.random(len(present)) < 0.2, rng.integers(0, 3, len(present)), truth.labels[present - 1])
        index = np.where(noisy > 0, np.searchsorted(present, noisy) + 1, 0)
        images.append((truth, Segments(index, labels, np.zeros(len(present), bool))))
    images.append((drawn(rng, 3, True), drawn(rng, 3, False)))
    counts = sum(panoptic_counts(truth, found, 3) for truth, found in images)
    assert panoptic_quality(counts) == pytest.approx(slow_quality(images, 3))
    assert counts[:, TP].sum() > 0
