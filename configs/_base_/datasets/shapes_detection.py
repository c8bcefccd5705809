"""Textured shapes that detkit draws itself (``tools/make_dataset.py``): for a first run and for tests, not a benchmark.

1000 training and 100 validation images of 128x128 pixels; four classes that colour does not tell apart.
"""
from os.path import join

data_root = 'data/shapes/'                                    # the folder that the paths below start from
train_ann_file, val_ann_file = 'annotations/train.json', 'annotations/val.json'
test_ann_file = val_ann_file
train_images = val_images = test_images = 'images/'
classes = ('circle', 'square', 'triangle', 'star')            # names in the order of their labels
image_size = (128, 128)                                       # (width, height) in pixels that an image is fitted into
test_size = image_size
batch_size = val_batch_size = 16                              # images of one process
num_workers = 1                                               # of each loader

dataset_type = 'CocoDataset'
metainfo = dict(classes=classes)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=test_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=train_ann_file, data_prefix=dict(img=train_images), metainfo=metainfo,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=val_batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=val_ann_file, data_prefix=dict(img=val_images), metainfo=metainfo,
        test_mode=True, pipeline=test_pipeline))
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file=test_ann_file, data_prefix=dict(img=test_images)))

val_evaluator = dict(type='CocoMetric', ann_file=join(data_root, val_ann_file), metric='bbox')
test_evaluator = dict(val_evaluator, ann_file=join(data_root, test_ann_file))
