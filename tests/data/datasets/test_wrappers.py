"""Data sets made of others: a repeated image is another sample each time, and pairs (epoch, index) reach the innermost one."""
from __future__ import annotations

from itertools import islice

import pytest
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from detkit.data.datasets.wrappers import nested_datasets, set_dataset_epoch
from detkit.data.formats.faults import BrokenAnnotations
from detkit.data.samplers import AspectRatioBatchSampler, InfiniteSampler
from detkit.registry import DATASETS, ConfigError

FLIP = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='RandomFlip', prob=0.5),
        dict(type='YOLOXHSVRandomAug'), dict(type='PackDetInputs')]


def inner(coco, classes=('cat', 'dog')) -> dict:
    return dict(type='CocoDataset', data_root=str(coco), ann_file='a.json', data_prefix=dict(img='images/'),
                metainfo=dict(classes=classes), pipeline=FLIP, seed=3)


def same(a: dict, b: dict) -> bool:
    return bool((a['inputs'] == b['inputs']).all())


def test_a_repeated_image_is_another_sample_each_time(coco):
    plain, repeated = DATASETS.build(inner(coco)), DATASETS.build(dict(type='RepeatDataset', times=3, dataset=inner(coco)))
    assert len(repeated) == 15
    turns = [repeated[i] for i in (1, 6, 11)]
    assert {t['data_samples'].img_id for t in turns} == {2}
    assert not same(turns[0], turns[1]) and not same(turns[1], turns[2]) and not same(turns[0], turns[2])
    assert all(same(t, plain[turn, 1]) for turn, t in enumerate(turns))     # as three epochs of the data set alone
    assert same(repeated[1, 1], plain[3, 1])                                 # and the next epoch goes on from there


def test_the_epoch_of_the_inner_data_set_counts(coco):
    repeated = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=inner(coco)))
    repeated.dataset.set_epoch(4)
    assert repeated.epoch == 4 and same(repeated[1], repeated[4, 1]) and not same(repeated[1], repeated[0, 1])


def test_every_data_set_within_is_found_and_told_the_epoch(coco):
    outer = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner(coco), inner(coco)])))
    kinds = [type(dataset).__name__ for dataset in nested_datasets(outer)]
    assert kinds == ['RepeatDataset', 'ConcatDataset', 'CocoDataset', 'CocoDataset']
    set_dataset_epoch(outer, 5)
    assert [dataset.epoch for dataset in outer.dataset.datasets] == [5, 5]
    assert list(nested_datasets([1, 2])) == [[1, 2]]                        # a list of samples is a data set that wraps none


def test_wrappers_within_wrappers_keep_repetitions_apart(coco):
    twice = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=inner(coco)), inner(coco)])))
    assert len(twice) == 30
    turns = [twice[i] for i in (1, 6, 16, 21)]                               # all of them image 2 of the first part
    assert [t['data_samples'].img_id for t in turns] == [2] * 4
    assert not any(same(turns[a], turns[b]) for a in range(4) for b in range(a))


def test_images_of_rare_classes_come_again_as_other_samples(coco):
    balanced = DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=inner(coco)))
    ids = [balanced.get_data_info(i)['img_id'] for i in range(len(balanced))]
    assert ids == [1, 1, 2, 2, 3, 4, 4, 5, 5]     # each class is in 3 of 5 images: ceil(sqrt(0.9 / 0.6)) = 2; image 3 has none
    assert not same(balanced[0], balanced[1])
    assert same(balanced[1, 0], balanced.dataset[2, 0]) and same(balanced[1, 1], balanced.dataset[3, 0])


def test_pairs_reach_the_data_sets_that_are_joined(coco):
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[inner(coco), inner(coco)]))
    assert same(both[2, 6], both.datasets[1][2, 1]) and both.get_cat_ids(6) == [1]
    sampler = InfiniteSampler(both, seed=0)
    loader = DataLoader(both, batch_sampler=AspectRatioBatchSampler(sampler, 2), collate_fn=pseudo_collate)
    for batch in islice(loader, 12):
        first, second = (s.img_shape for s in batch['data_samples'])
        assert first == second


def test_data_sets_of_other_classes_cannot_be_joined_silently(coco):
    for more in (dict(), dict(ignore_keys='classes')):
        with pytest.raises(ConfigError, match=r"ConcatDataset datasets: .*label 0 is 'cat' in datasets\[0\] and 'dog' in datasets\[1\]"):
            DATASETS.build(dict(type='ConcatDataset', datasets=[inner(coco), inner(coco, ('dog', 'cat'))], **more))
    other = inner(coco)
    other['metainfo'] = dict(other['metainfo'], palette=[(1, 2, 3), (4, 5, 6)])
    with pytest.raises(ConfigError, match=r'ConcatDataset datasets: .*meta information of the 2-th dataset.*ignore_keys'):
        DATASETS.build(dict(type='ConcatDataset', datasets=[inner(coco), other]))


def test_a_broken_file_among_those_that_are_joined_is_told_as_itself(coco):
    (coco / 'broken.json').write_text('{')
    with pytest.raises(BrokenAnnotations, match='broken.json'):
        DATASETS.build(dict(type='ConcatDataset', datasets=[inner(coco), dict(inner(coco), ann_file='broken.json')]))


LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True), dict(type='RandomFlip', prob=0.5)]


def mixed(coco, pipeline, **options):
    return DATASETS.build(dict(type='MultiImageMixDataset', dataset={**inner(coco), 'pipeline': LOAD}, pipeline=pipeline, **options))


def test_samples_are_mixed_after_the_inner_pipeline(coco):
    data = mixed(coco, [dict(type='Mosaic', img_scale=(64, 48)), dict(type='MixUp', img_scale=(64, 48)), dict(type='PackDetInputs')])
    assert len(data) == 5 and data.metainfo['classes'] == ('cat', 'dog') and data.get_cat_ids(0)
    first = data[0]
    assert first['inputs'].shape == (3, 96, 128) and len(first['data_samples'].gt_instances)
    assert same(first, data[0]) and not same(first, data[1, 0])


def test_the_partner_is_a_plain_sample_in_a_pass_of_its_own(coco):
    data, seen = mixed(coco, [dict(type='MixUp', img_scale=(64, 48), ratio_range=(1, 1)), dict(type='PackDetInputs')]), []
    inside = type(data.dataset).__getitem__
    type(data.dataset).__getitem__ = lambda self, index: seen.append(index) or inside(self, index)
    try:
        assert data[0]['inputs'].shape == (3, 48, 64)
    finally:
        type(data.dataset).__getitem__ = inside
    assert seen[0] == (0, 0) and len(seen) >= 2 and all(epoch >= 1 << 32 for epoch, _ in seen[1:])


def test_transforms_are_left_out_by_name_also_by_workers_that_run_already(coco):
    data = mixed(coco, [dict(type='Mosaic', img_scale=(64, 48)), dict(type='PackDetInputs')])
    loader = DataLoader(data, 1, num_workers=1, persistent_workers=True, collate_fn=pseudo_collate, sampler=[0])
    assert next(iter(loader))['inputs'][0].shape == (3, 96, 128)
    data.update_skip_type_keys(['Mosaic'])
    assert next(iter(loader))['inputs'][0].shape == (3, 48, 64)
    with pytest.raises(ConfigError, match="'Mosiac'.*Mosaic"):
        data.update_skip_type_keys(['Mosiac'])


def test_a_pipeline_that_drops_every_sample_says_so(coco):
    data, tried = mixed(coco, [dict(type='PackDetInputs')], max_refetch=2), []
    data.transforms = [tried.append]
    with pytest.raises(ValueError, match='gave None for 3 samples'):
        data[0]
    assert len(tried) == 3
