"""BCCD: photographs of stained blood smears, 640x480, with boxes of red cells, white cells and platelets (MIT licence).

205 training, 87 validation and 72 test images; ``tools/download_dataset.py bccd`` downloads them. Used at half size here.
"""
from os.path import join

data_root = 'data/bccd/'                                      # root folder of the paths below
train_ann_file, val_ann_file, test_ann_file = 'annotations/train.json', 'annotations/val.json', 'annotations/test.json'
train_images = val_images = test_images = 'images/'
classes = ('RBC', 'WBC', 'Platelets')                         # class names, in the order of their labels
image_size = (320, 240)                                       # (width, height) in pixels; images are resized to fit
test_size = image_size
batch_size = val_batch_size = 8                               # images per process
num_workers = 1                                               # per data loader

dataset_type = 'CocoDataset'
palette = [(220, 60, 60), (70, 110, 230), (240, 190, 40)]     # RGB
metainfo = dict(classes=classes, palette=palette if len(palette) == len(classes) else None)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_size, keep_ratio=True),
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

val_evaluator = dict(type='CocoMetric', ann_file=join(data_root, val_ann_file), metric='bbox', classwise=True)
test_evaluator = dict(val_evaluator, ann_file=join(data_root, test_ann_file))
