"""Generalized Focal Loss, ResNet-50-FPN, 24 epochs on COCO at short sides of 480 to 800 pixels.

Expect 42.9 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/gfl/gfl_r50_fpn_ms-2x_coco.py --launcher pytorch
"""
_base_ = './gfl_r50_fpn_1x_coco.py'

max_epochs = 24
width, height = _base_.image_size
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=[(width, height * 3 // 5), (width, height)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
