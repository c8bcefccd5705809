"""RTMDet (https://arxiv.org/abs/2212.07784) at a quarter of the width, from scratch on BCCD, at 320x256 pixels.

Expect 0.61 box AP (0.90 at IoU 0.5) on val and 0.62 (0.91) on test, after 11 minutes on two CPU cores with bfloat16 (seed 0). 2.18 M
parameters, 0.71 G multiply-adds per image.

    python tools/download_dataset.py bccd
    python tools/train.py configs/rtmdet/rtmdet_nano_bccd.py
    python tools/test.py configs/rtmdet/rtmdet_nano_bccd.py work_dirs/rtmdet_nano_bccd/epoch_100.pth
"""
_base_ = ['../_base_/models/rtmdet_nano.py', '../_base_/datasets/bccd_detection.py', '../_base_/default_runtime.py']

image_size = (320, 256)       # (width, height) in pixels
keep_ratio = False            # BCCD's 640x480 images become 320x256: multiples of 32, without padding
max_epochs = 100
stage2_num_epochs = min(max(1, round(max_epochs / 10)), max_epochs - 1)   # last epochs, without Mosaic
val_interval = 10
base_lr = 0.002               # total batch size 8
warmup_iters = 200
amp = 'auto'                  # bfloat16 if the machine supports it
channels_last = 'auto'

model = dict(bbox_head=dict(num_classes=len(_base_.classes)))

test_size = image_size
mosaic_size = tuple(2 * side for side in image_size)         # four images, before cropping
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_size, keep_ratio=keep_ratio),
    dict(type='RandomChoice', transforms=[             # half of the images are mosaics of four images
        [dict(type='CachedMosaic', img_scale=image_size, pad_val=114.0, max_cached_images=205),
         dict(type='RandomResize', scale=mosaic_size, ratio_range=(0.6, 1.5), keep_ratio=True)],
        [dict(type='RandomResize', scale=image_size, ratio_range=(0.6, 1.5), keep_ratio=True)]]),
    dict(type='RandomCrop', crop_size=image_size, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4), keep_empty=False),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),   # a smear has no preferred orientation
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')]
train_pipeline_stage2 = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_size, keep_ratio=keep_ratio),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.9, 1.1), keep_ratio=True),
    dict(type='RandomCrop', crop_size=image_size, allow_negative_crop=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=test_size, keep_ratio=keep_ratio),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=val_interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=base_lr, weight_decay=0.05), clip_grad=dict(max_norm=35),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.005, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.05, begin=round(max_epochs * 0.3), end=max_epochs,
         T_max=max_epochs - round(max_epochs * 0.3), by_epoch=True, convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=val_interval))
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=200, update_buffers=True, priority=49),
    dict(type='PipelineSwitchHook', switch_epoch=max_epochs - stage2_num_epochs, switch_pipeline=train_pipeline_stage2)]
