"""Parts of data sets in a config, and the list of classes that all of them follow."""
from __future__ import annotations

from pathlib import Path

import pytest

from detkit.engine.datasets import (
    check_resumed_classes,
    follow_classes,
    leaves,
    refuse_another_order,
    unread,
    with_leaves,
)
from detkit.registry import ConfigError


def leaf(root: Path, *classes: str) -> dict:
    return dict(type='CocoDataset', data_root=str(root), ann_file='a.json', metainfo=dict(classes=classes), pipeline=[])


def wrapped(*parts: dict) -> dict:
    return dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=list(parts)))


def test_the_innermost_parts_are_found_and_changed_in_a_copy():
    described = wrapped(dict(type='A'), dict(type='RepeatDataset', dataset=dict(type='B')))
    assert [part['type'] for part in leaves(described)] == ['A', 'B']
    changed = with_leaves(described, lambda part: {**part, 'n': 1})
    assert list(leaves(changed)) == [dict(type='A', n=1), dict(type='B', n=1)] and changed['times'] == 2
    assert list(leaves(described)) == [dict(type='A'), dict(type='B')]


def test_every_part_follows_and_one_that_cannot_is_named(coco):
    notes: list[str] = []
    given = wrapped(leaf(coco, 'dog', 'cat'), leaf(coco, 'cat', 'dog'))
    made = follow_classes(given, ('cat', 'dog'), 'val', 'train', notes)
    assert [part['metainfo']['classes'] for part in leaves(made)] == [('cat', 'dog')] * 2 and len(notes) == 1
    assert follow_classes(given, None, 'val', 'train', notes) is given
    with pytest.raises(ConfigError, match="val has other classes than train: only train has 'cow', only val has 'dog'"):
        follow_classes(given, ('cat', 'cow'), 'val', 'train', notes)


def test_a_data_set_of_another_class_is_left_alone_and_one_that_cannot_be_built_is_named(coco):
    other = dict(type='MultiImageMixDataset', pipeline=[])
    assert unread(other) is None and follow_classes(other, ('a',), 'val', 'train', []) == other
    with pytest.raises(ConfigError) as error:
        unread(dict(type='CocoDatset'))
    assert str(error.value).startswith("type: no 'CocoDatset'") and error.value.cfg == dict(type='CocoDatset')
    assert not unread(leaf(coco, 'cat'))._fully_initialized


def test_labels_that_would_shift_are_refused():
    refuse_another_order(('a', 'b'), ('a', 'b'), 'train', 'test')
    refuse_another_order(None, ('a', 'b'), 'train', 'test')
    with pytest.raises(ConfigError, match="label 0 is 'a' in train and 'b' in test. Bring its metainfo.classes into that order"):
        refuse_another_order(('a', 'b'), ('b', 'a'), 'train', 'test')
    check_resumed_classes(('a',), None, 'x.pth')
    with pytest.raises(ConfigError, match="'x.pth' was trained on other classes than train_dataloader has: only the checkpoint has 'a'"):
        check_resumed_classes(('a', 'b'), ('b',), 'x.pth')
