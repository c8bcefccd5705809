"""Class names are compared and matched by name, wherever two lists meet."""
from __future__ import annotations

import pytest

from detkit.data.classes import (
    class_difference,
    class_names,
    in_order_of,
    join_categories,
    number_categories,
    reorder_metainfo,
    same_names,
    similar_names,
    spelled_otherwise,
)


def content(names: dict[int, str], objects: list[int] = ()) -> dict:
    return dict(images=[dict(id=1, file_name='a.jpg', width=64, height=48)],
                annotations=[dict(id=n, image_id=1, category_id=c, bbox=[1, 1, 9, 9]) for n, c in enumerate(objects, 1)],
                categories=[dict(id=i, name=name) for i, name in names.items()])


@pytest.mark.parametrize('meta, names', [
    (dict(dataset_meta=dict(classes=('a', 'b'))), ('a', 'b')),
    (dict(dataset_meta=dict(CLASSES=['a', 'b'])), ('a', 'b')),
    (dict(CLASSES=('a', 'b')), ('a', 'b')),
    (dict(classes=('a', 'b'), palette=[]), ('a', 'b')),
    (dict(CLASSES='cat'), ('cat',)), (dict(epoch=3), None), (None, None)])
def test_the_classes_of_a_data_set_and_of_both_generations_of_checkpoints_are_found(meta, names):
    assert class_names(meta) == names


def test_a_difference_is_told_by_name_or_by_the_first_label_that_is_another():
    assert class_difference(('a', 'b'), ['a', 'b'], 'x', 'y') == ''
    assert class_difference(('a', 'b', 'c'), ('a', 'c', 'b'), 'the checkpoint', 'val') == \
        "the same names stand in another order: label 1 is 'b' in the checkpoint and 'c' in val"
    assert class_difference(('a', 'b'), ('b', 'd', 'e'), 'x', 'y') == "only x has 'a', only y has 'd', 'e'"
    assert class_difference(('a',), tuple('abcdefgh'), 'x', 'y') == "only y has 'b', 'c', 'd', 'e', 'f' and 2 more"
    assert same_names(('a', 'b'), ('b', 'a')) and not same_names(('a', 'b'), ('a', 'c'))


def test_names_are_put_in_order_and_another_spelling_is_the_same_name():
    assert in_order_of(('a', 'b'), ('b', 'a')) == ('a', 'b')
    assert in_order_of(('Traffic light', 'car'), ('car', 'traffic_light')) == ('traffic_light', 'car')
    assert in_order_of(('a', 'b'), ('a', 'c')) is None and in_order_of(('a', 'b'), ('a',)) is None
    assert in_order_of(('a b', 'A-B'), ('ab', 'c')) is None and in_order_of(('x y', 'z'), ('xy', 'x_y')) is None


def test_a_palette_follows_the_order_of_its_classes():
    meta = dict(classes=('a', 'b'), palette=[(1, 1, 1), (2, 2, 2)])
    assert reorder_metainfo(meta, ('a', 'b'), ('b', 'a')) == dict(classes=('b', 'a'), palette=[(2, 2, 2), (1, 1, 1)])
    assert reorder_metainfo(meta, ('a', 'b'), ('b', 'c')) == dict(classes=('b', 'c'))
    assert reorder_metainfo({}, None, ('b',)) == dict(classes=('b',))


def test_categories_of_one_name_become_one_and_no_object_is_lost():
    given = content({0: 'cat', 1: 'cat', 2: 'dog'}, [0, 1, 2])
    joined, lines = join_categories(given)
    assert [a['category_id'] for a in joined['annotations']] == [0, 0, 2]
    assert [c['id'] for c in joined['categories']] == [0, 2]
    assert lines == ["joined: category 1 with category 0, both are called 'cat'"]
    assert [a['category_id'] for a in given['annotations']] == [0, 1, 2]
    assert join_categories(content({1: 'cat'}))[1] == []


def test_splits_get_one_numbering_by_name():
    found = number_categories(dict(train=content({1: 'cat', 2: 'dog'}, [1, 2]), val=content({1: 'dog', 2: 'cat'}, [1]),
                                   test=content({1: 'emu', 7: 'fox'}, [1, 7])))
    assert {tuple((c['id'], c['name']) for c in part['categories']) for part in found.values()} == \
        {((1, 'cat'), (2, 'dog'), (3, 'emu'), (7, 'fox'))}
    assert [[a['category_id'] for a in part['annotations']] for part in found.values()] == [[1, 2], [2], [3, 7]]


def test_names_that_differ_in_spelling_alone():
    assert spelled_otherwise(['cat', 'Traffic_light'], ['traffic light', 'cat']) == ('Traffic_light', 'traffic light')
    assert spelled_otherwise(['cat', 'cow'], ['cat', 'dog']) is None
    assert similar_names(['cat', 'dog', 'Cat', 'dog ']) == [('cat', 'Cat'), ('dog', 'dog ')] and similar_names(['cat', 'cats']) == []
