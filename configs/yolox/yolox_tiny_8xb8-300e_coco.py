"""YOLOX-tiny, 300 epochs on COCO (https://arxiv.org/abs/2107.08430, Sec. 2.2): milder augmentation without MixUp, tested at 416 pixels.

Expect 32.0 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 8 images:
    torchrun --nproc-per-node 8 tools/train.py configs/yolox/yolox_tiny_8xb8-300e_coco.py --launcher pytorch
"""
_base_ = './yolox_s_8xb8-300e_coco.py'

test_size = tuple(side * 13 // 20 for side in _base_.image_size)              # 416 of 640 pixels
model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchSyncRandomResize', random_size_range=(max(_base_.image_size) // 2, max(_base_.image_size)), size_divisor=32, interval=10)]),
    backbone=dict(deepen_factor=0.33, widen_factor=0.375),
    neck=dict(in_channels=[96, 192, 384], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96))

train_pipeline = [
    dict(type='Mosaic', img_scale=_base_.image_size, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=tuple(-side // 2 for side in _base_.image_size)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=_base_.image_size, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
