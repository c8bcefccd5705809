"""RTMDet-tiny, 300 epochs on COCO (https://arxiv.org/abs/2212.07784, Table 8).

Expect 41.1 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 32 images:
    torchrun --nproc-per-node 8 tools/train.py configs/rtmdet/rtmdet_tiny_8xb32-300e_coco.py --launcher pytorch
"""
_base_ = './rtmdet_s_8xb32-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=0.167, widen_factor=0.375),
    neck=dict(in_channels=[96, 192, 384], out_channels=96, num_csp_blocks=1),
    bbox_head=dict(in_channels=96, feat_channels=96, exp_on_reg=False))

train_pipeline = [            # MixUp with probability 0.5
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=_base_.image_size, pad_val=114.0, max_cached_images=20, random_pop=False),
    dict(type='RandomResize', scale=_base_.mosaic_size, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.image_size),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=_base_.image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='CachedMixUp', img_scale=_base_.image_size, ratio_range=(1.0, 1.0), max_cached_images=10, random_pop=False,
         pad_val=(114, 114, 114), prob=0.5),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
