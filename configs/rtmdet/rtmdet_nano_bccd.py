"""RTMDet (https://arxiv.org/abs/2212.07784) at a quarter of the width, from scratch on BCCD, at 320x256 pixels.

Expect 0.61 box AP (0.90 at IoU 0.5) on val and 0.62 (0.91) on test, after 11 minutes on two CPU cores with bfloat16 (seed 0). 2.18 M
parameters, 0.71 G multiply-adds an image.

    python tools/download_dataset.py bccd
    python tools/train.py configs/rtmdet/rtmdet_nano_bccd.py
    python tools/test.py configs/rtmdet/rtmdet_nano_bccd.py work_dirs/rtmdet_nano_bccd/epoch_100.pth
"""
_base_ = ['../_base_/models/rtmdet_nano.py', '../_base_/datasets/bccd_detection.py', '../_base_/default_runtime.py']

model = dict(bbox_head=dict(num_classes=3))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 256)),
    dict(type='RandomChoice', transforms=[             # half of the images are mosaics of four
        [dict(type='CachedMosaic', img_scale=(320, 256), pad_val=114.0, max_cached_images=205),
         dict(type='RandomResize', scale=(640, 512), ratio_range=(0.6, 1.5), keep_ratio=True)],
        [dict(type='RandomResize', scale=(320, 256), ratio_range=(0.6, 1.5), keep_ratio=True)]]),
    dict(type='RandomCrop', crop_size=(320, 256), allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4), keep_empty=False),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),   # a smear has no right way up
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=(320, 256), pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')]
train_pipeline_stage2 = [                              # the last 10 epochs see plain images
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 256)),
    dict(type='RandomResize', scale=(320, 256), ratio_range=(0.9, 1.1), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(320, 256), allow_negative_crop=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=(320, 256), pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 256)),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

max_epochs = 100
base_lr = 0.002               # for 8 images a step
amp = 'auto'                  # bfloat16 where the machine has it
channels_last = 'auto'
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=base_lr, weight_decay=0.05), clip_grad=dict(max_norm=35),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.005, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.05, begin=30, end=max_epochs, T_max=max_epochs - 30, by_epoch=True,
         convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=10))
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=200, update_buffers=True, priority=49),
    dict(type='PipelineSwitchHook', switch_epoch=90, switch_pipeline=train_pipeline_stage2)]
