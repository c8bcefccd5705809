"""Report the distribution of the data over classes, splits and sizes."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from detkit.doctor.findings import Report

RARE = 10            # a class with fewer objects can hardly be learned
UNEVEN = 5.          # ratio of a class's fractions in two splits
EMPTY_SHARE = 0.5    # fraction of images without objects


def examine_spread(counts: dict[str, Counter], images: dict[str, tuple[int, int]], classes: Sequence[str], report: Report) -> None:
    """Report rare and unevenly distributed classes.

    ``counts``: split -> objects of each class. ``images``: split -> (number of images, number of images without objects).
    """
    train = counts.get('train')
    for name in classes:
        if train and not train[name]:
            report.add('warning', 'class without training objects', 'train', f"'{name}'",
                       'It cannot be learnt. Add images of it, or leave it out of metainfo.classes.')
        elif train and train[name] < RARE:
            report.add('note', 'rare class', 'train', f"'{name}': {train[name]} objects",
                       'ClassBalancedDataset repeats images of rare classes.')
        for split in ('val', 'test'):
            if split in counts and not counts[split][name]:
                report.add('note', 'class without test objects', split, f"'{name}'",
                           'Its AP cannot be measured, and the mean leaves it out.')
    for split, found in counts.items():
        if train and split != 'train' and sum(found.values()) >= 10 * len(classes):
            for name in classes:
                a, b = train[name] / max(sum(train.values()), 1), found[name] / max(sum(found.values()), 1)
                if a and b and max(a / b, b / a) > UNEVEN and max(train[name], found[name]) >= RARE:
                    report.add('note', 'class spread unevenly', split, f"'{name}': {a:.1%} of the objects in train, {b:.1%} in {split}",
                               'tools/dataset.py split gives each part its share of every class.')
    for split, (count, empty) in images.items():
        if count and empty:
            level = 'warning' if empty / count > EMPTY_SHARE and split == 'train' else 'note'
            report.add(level, 'images without objects', split, f'{empty} of {count}',
                       'Right for negatives; filter_cfg=dict(filter_empty_gt=True) leaves them out of training.')

