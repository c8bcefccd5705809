"""COCO 2017 panoptic (https://arxiv.org/abs/1801.00868): 80 thing classes and 53 stuff classes; short side 800 pixels.

Uses the files from https://cocodataset.org/#download: panoptic_train2017.json and panoptic_val2017.json, with the folders of their
PNGs beside them.
"""
from os.path import join

data_root = 'data/coco/'                                      # root folder of the paths below
train_ann_file = 'annotations/panoptic_train2017.json'
val_ann_file = 'annotations/panoptic_val2017.json'
test_ann_file = val_ann_file
train_images, val_images = 'train2017/', 'val2017/'
test_images = val_images
train_segments, val_segments = 'annotations/panoptic_train2017/', 'annotations/panoptic_val2017/'      # folders of PNGs
test_segments = val_segments
classes = None                                                # thing class names, in the order of their labels; None: COCO's 80
stuff_classes = None                                          # stuff class names; None: COCO's 53, or none if `classes` is set
image_size = (1333, 800)                                      # (width, height) in pixels; images are resized to fit
test_size = image_size
batch_size, val_batch_size = 2, 1                             # images per process
num_workers = 2                                               # per data loader

dataset_type = 'CocoPanopticDataset'
stuff = stuff_classes or ()
metainfo = dict(
    classes=(*classes, *stuff), thing_classes=tuple(classes), stuff_classes=tuple(stuff), palette=None) if classes else dict()
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=test_size, keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=train_ann_file,
        data_prefix=dict(img=train_images, seg=train_segments), metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=val_batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=val_ann_file,
        data_prefix=dict(img=val_images, seg=val_segments), metainfo=metainfo, test_mode=True, pipeline=test_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(
    val_dataloader['dataset'], ann_file=test_ann_file, data_prefix=dict(img=test_images, seg=test_segments)))

val_evaluator = dict(type='CocoPanopticMetric', ann_file=join(data_root, val_ann_file), seg_prefix=join(data_root, val_segments))
test_evaluator = dict(val_evaluator, ann_file=join(data_root, test_ann_file), seg_prefix=join(data_root, test_segments))
