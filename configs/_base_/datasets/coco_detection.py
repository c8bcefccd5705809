"""COCO 2017 boxes (https://arxiv.org/abs/1405.0312): 118 287 training and 5 000 validation images, short side 800 pixels."""
from os.path import join

data_root = 'data/coco/'                                      # root folder of the paths below
train_ann_file = 'annotations/instances_train2017.json'
val_ann_file = 'annotations/instances_val2017.json'
test_ann_file = val_ann_file
train_images, val_images = 'train2017/', 'val2017/'
test_images = val_images
classes = None                                                # class names, in the order of their labels; None: COCO's 80
image_size = (1333, 800)                                      # (width, height) in pixels; images are resized to fit
test_size = image_size
batch_size, val_batch_size = 2, 1                             # images per process
num_workers = 2                                               # per data loader

dataset_type = 'CocoDataset'
metainfo = dict(classes=classes, palette=None) if classes else dict()
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=test_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),     # after Resize: the metric needs boxes in original image pixels
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=train_ann_file, data_prefix=dict(img=train_images), metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=train_pipeline))
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
