"""Which splits follow from which were found."""
from __future__ import annotations

from pathlib import Path

import pytest

from detkit.data.discover import FoundData, Split
from detkit.newconfig.splits import class_names, complete_splits, share_with_masks, with_all_classes

CATEGORIES = [dict(id=1, name='nut'), dict(id=2, name='bolt')]


def split(names: str, categories: list[dict] = CATEGORIES, kind: str = 'CocoDataset', objects: bool = True) -> Split:
    """An image for each letter; 'n' in its name has a nut, others a bolt."""
    images = [dict(id=n, file_name=f'{name}.png', width=64, height=64) for n, name in enumerate(names.split(), 1)]
    annotations = [dict(id=i['id'], image_id=i['id'], category_id=1 if 'n' in i['file_name'][:-4] else 2, bbox=[1, 1, 5, 5])
                   for i in images]
    content = dict(images=images, annotations=annotations if objects else [], categories=categories)
    return Split(Path('/data/x.json'), Path('/data/images'), content, dict(type=kind, ann_file=Path('/data/x.json')))


TEN = 'n1 n2 n3 n4 n5 b1 b2 b3 b4 b5'


def completed(**splits: Split) -> tuple[dict[str, Split], list[str]]:
    messages: list[str] = []
    return complete_splits(FoundData('coco', splits), messages.append), messages


def names(part: Split) -> set[str]:
    return {i['file_name'] for i in part.content['images']}


def test_what_is_there_is_kept():
    train, val, test = split('n1 b1'), split('n2'), split('n3')
    splits, messages = completed(train=train, val=val, test=test)
    assert splits == dict(train=train, val=val, test=test) and messages == []


@pytest.mark.parametrize('name', ['all', 'train', 'val', 'test'])
def test_a_fifth_is_held_out_with_the_same_share_of_each_class(name: str):
    splits, messages = completed(**{name: split(TEN)})
    assert list(splits) == ['train', 'val'] and (messages == []) == (name in ('all', 'train'))
    assert all(part.dataset is None for part in splits.values())              # it has to be written
    assert len(names(splits['train'])) == 8 and {n[0] for n in names(splits['val'])} == {'n', 'b'}
    assert not names(splits['train']) & names(splits['val'])
    again, _ = completed(**{name: split(TEN)})
    assert names(again['val']) == names(splits['val'])


def test_a_test_split_stays_when_val_is_made():
    splits, _ = completed(train=split(TEN), test=split('n9'))
    assert list(splits) == ['train', 'val', 'test'] and splits['test'].dataset is not None


def test_val_that_is_train_is_not_taken():
    splits, (message,) = completed(train=split(TEN), val=split(TEN))
    assert len(names(splits['val'])) == 2
    assert message.startswith('note: val is the same 10 images as train (/data/x.json)')


def test_a_test_split_without_annotations_is_left_out():
    splits, (message,) = completed(train=split(TEN), val=split('n9'), test=split('n8', objects=False))
    assert list(splits) == ['train', 'val'] and message.startswith('note: test (/data/x.json) has no annotations')


def test_too_few_images_to_hold_some_out():
    with pytest.raises(ValueError, match='no val split, and 4 images are too few to hold some out .at least 5.. Add images, or name'):
        completed(train=split('a b c d'))


def test_nothing_to_learn():
    with pytest.raises(ValueError, match='/data/x.json: 2 images and no object: there is nothing to learn'):
        completed(train=split('a b', objects=False), val=split('c'))


# ------------------------------------------------------------------------------------------------------------ classes
def test_classes_are_trains_in_the_order_of_their_ids():
    train = split(TEN, [dict(id=2, name='bolt'), dict(id=1, name='nut')])
    assert class_names('coco', dict(train=train, val=split('n9', CATEGORIES[:1]))) == ('nut', 'bolt')


def test_a_category_that_only_groups_others_is_left_out():
    """Roboflow's exports begin with one."""
    grouped = [dict(id=0, name='parts', supercategory='none'), *(dict(c, supercategory='parts') for c in CATEGORIES)]
    assert class_names('coco', dict(train=split(TEN, grouped))) == ('nut', 'bolt')


def test_formats_without_a_list_take_the_classes_that_occur_in_any_split():
    splits = dict(train=split(TEN, CATEGORIES[1:]), val=split('n9', CATEGORIES[:1]))
    assert class_names('voc', splits) == ('bolt', 'nut')


def test_a_file_that_lacks_a_class_is_written_with_all_of_them():
    messages: list[str] = []
    splits = dict(train=split(TEN), val=split('b9', [dict(id=2, name='bolt'), dict(id=7, name='gear')]))
    splits['val'].content['annotations'].append(dict(id=99, image_id=1, category_id=7, bbox=[1, 1, 5, 5]))
    done = with_all_classes(splits, ('nut', 'bolt'), messages.append)
    assert done['train'] is splits['train'] and done['val'].dataset is None
    assert done['val'].content['categories'] == CATEGORIES
    assert [a['category_id'] for a in done['val'].content['annotations']] == [2]
    assert messages == ['note: /data/x.json does not list nut; a copy that lists all classes is written.',
                        'note: 1 objects of val are left out, whose classes train does not have: gear.']


def test_masks_are_counted_without_crowds():
    train = split('a b c')
    train.content['annotations'][0].update(segmentation=[[1, 1, 5, 1, 5, 5]])
    train.content['annotations'][2].update(segmentation=dict(size=[64, 64], counts='x'), iscrowd=1)
    assert share_with_masks(dict(train=train)) == 0.5


def test_another_spelling_in_another_split_is_refused():
    other = [dict(c, name=c['name'].upper()) for c in CATEGORIES]
    with pytest.raises(ValueError, match='has the class .* two spellings of one name. Write both alike'):
        completed(train=split('abcdef'), val=split('ghi', other))
