from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.data import edit

CATS, DOGS = 4, 9


def content(labels: list[list[int]]) -> dict:
    """An image for each list of category ids."""
    images = [dict(id=10 + i, file_name=f'{i}.jpg', width=64, height=48) for i in range(len(labels))]
    annotations = [dict(id=0, image_id=10 + i, category_id=c, bbox=[1, 1, 10 * (n + 1), 10]) for i, found in enumerate(labels)
                   for n, c in enumerate(found)]
    for n, a in enumerate(annotations):
        a['id'] = n
    return dict(images=images, annotations=annotations, categories=[dict(id=CATS, name='cat'), dict(id=DOGS, name='dog')])


def test_statistics_count_what_is_there():
    found = edit.statistics(content([[CATS, DOGS], [CATS], []]))
    assert (found['images'], found['objects'], found['images_without_objects'], found['small']) == (3, 3, 1, 3)
    assert found['per_class'] == dict(cat=dict(objects=2, images=2), dog=dict(objects=1, images=1))
    assert found['objects_per_image'] == [0, .5, 1, 1.5, 2] and found['box_side'][0] == 10
    text = edit.statistics_text(found)
    assert '3 images, 3 objects of 2 classes; 1 images without objects' in text and 'cat        2       2' in text
    assert edit.statistics_text(edit.statistics(content([])))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([CATS, DOGS]), max_size=4), min_size=3, max_size=30), st.integers(0, 9))
def test_parts_are_disjoint_and_complete(labels, seed):
    whole = content(labels)
    before = copy.deepcopy(whole)
    parts = edit.split(whole, dict(train=.6, val=.2, test=.2), seed)
    assert sorted(i['id'] for p in parts.values() for i in p['images']) == [i['id'] for i in whole['images']]
    assert sorted(a['id'] for p in parts.values() for a in p['annotations']) == [a['id'] for a in whole['annotations']]
    assert whole == before and edit.split(whole, dict(train=.6, val=.2, test=.2), seed) == parts


def test_a_rare_class_is_in_every_part():
    parts = edit.split(content([[CATS]] * 90 + [[DOGS]] * 10), dict(train=.8, val=.2))
    assert [sum(a['category_id'] == DOGS for a in p['annotations']) for p in parts.values()] == [8, 2]
    assert [len(p['images']) for p in parts.values()] == [80, 20]


@pytest.mark.parametrize('shares', [dict(a=.5, b=.4), dict(a=1.5, b=-.5)])
def test_shares_must_add_up(shares):
    with pytest.raises(ValueError, match='add up to 1'):
        edit.split(content([[CATS]] * 4), shares)
    with pytest.raises(ValueError, match='1 images cannot be split into 2'):
        edit.split(content([[CATS]]), dict(a=.5, b=.5))


def test_a_union_matches_classes_by_name_and_gives_new_ids():
    other = content([[DOGS]])
    other['categories'] = [dict(id=DOGS, name='pig'), dict(id=CATS, name='cat')]
    out = edit.merge([content([[CATS], [DOGS]]), other], ['one', 'two/'])
    assert [c['name'] for c in out['categories']] == ['cat', 'dog', 'pig']
    assert [i['file_name'] for i in out['images']] == ['one/0.jpg', 'one/1.jpg', 'two/0.jpg']
    assert [(a['id'], a['image_id'], a['category_id']) for a in out['annotations']] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    with pytest.raises(ValueError, match="'0.jpg' stands in part 1 and in part 2"):
        edit.merge([content([[CATS]]), content([[CATS]])])


def test_samples_and_parts_by_class():
    whole = content([[CATS], [DOGS], [CATS, DOGS], []])
    drawn = edit.sample(whole, 2, seed=1)
    assert len(drawn['images']) == 2 and drawn == edit.sample(whole, 2, seed=1)
    dogs = edit.subset(whole, ['dog'], drop_empty=True)
    assert [i['file_name'] for i in dogs['images']] == ['1.jpg', '2.jpg'] and {a['category_id'] for a in dogs['annotations']} == {DOGS}
    assert len(edit.subset(whole, ['dog', 'cat'])['images']) == 4
    assert [c['name'] for c in edit.subset(whole, ['dog', 'cat'])['categories']] == ['dog', 'cat']
    with pytest.raises(ValueError, match="no class 'dgo'. Did you mean 'dog'"):
        edit.subset(whole, ['dgo'])
    with pytest.raises(ValueError, match='5 images cannot be drawn from 4'):
        edit.sample(whole, 5)


def test_categories_of_one_name_lose_no_object():
    content = dict(images=[dict(id=i, file_name=f'{i}.jpg', width=64, height=48) for i in (1, 2)],
                   annotations=[dict(id=1, image_id=1, category_id=0, bbox=[10, 10, 30, 20]),
                                dict(id=2, image_id=2, category_id=1, bbox=[1, 1, 9, 9])],
                   categories=[dict(id=0, name='cat'), dict(id=1, name='cat'), dict(id=2, name='dog')])
    made = [edit.subset(content, ['cat']), edit.sample(content, 2), edit.merge([content]),
            *edit.split(content, dict(a=0.5, b=0.5)).values()]
    assert [len(part['annotations']) for part in made] == [2, 2, 2, 1, 1]
    for part in made:
        names = {c['id']: c['name'] for c in part['categories']}
        assert len(set(names.values())) == len(names)
        assert {names[a['category_id']] for a in part['annotations']} == {'cat'}


def test_no_part_is_empty_and_no_class_stands_twice():
    parts = edit.split(content([[CATS]] * 4), dict(train=.8, val=.1, test=.1))
    assert [len(p['images']) for p in parts.values()] == [2, 1, 1]
    assert edit.subset(content([[CATS, DOGS]]), ['dog', 'dog'])['categories'] == [dict(id=DOGS, name='dog')]
