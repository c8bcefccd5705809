"""Mask R-CNN, Swin-T-FPN, 36 epochs on COCO with DETR's multi-scale resizing and cropping.

Expect 46.0 box AP and 41.6 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py --launcher pytorch
"""
_base_ = './mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'

max_epochs = 36
long, short = _base_.image_size
any_size = dict(                                              # short sides of 480, 512, ..., 800 pixels
    type='RandomChoiceResize', scales=[(short * part // 25, long) for part in range(15, 26)], keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[
        [any_size],
        [dict(type='RandomChoiceResize', scales=[(short * part // 8, long) for part in (4, 5, 6)], keep_ratio=True),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size=(short * 12 // 25, short * 3 // 4), allow_negative_crop=True),
         any_size]]),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
param_scheduler = [
    _base_.param_scheduler[0], dict(_base_.param_scheduler[1], milestones=[round(max_epochs * 3 / 4), round(max_epochs * 11 / 12)])]
