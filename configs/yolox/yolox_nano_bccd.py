"""YOLOX-nano (https://arxiv.org/abs/2107.08430) from scratch on BCCD, at 320x256 pixels.

Expect 54.2 box AP (89.4 AP50) on val, 56.0 (90.2) on test; 25 minutes of processor time.

    python tools/download_dataset.py bccd
    python tools/train.py configs/yolox/yolox_nano_bccd.py
    python tools/test.py configs/yolox/yolox_nano_bccd.py work_dirs/yolox_nano_bccd/epoch_100.pth
"""
_base_ = ['../_base_/datasets/bccd_detection.py', '../_base_/default_runtime.py']

image_size = (320, 256)       # (width, height) in pixels
keep_ratio = False            # BCCD's 640x480 images become 320x256: multiples of 32, without padding
max_epochs = 100
warmup_epochs = max(1, round(max_epochs / 20))
num_last_epochs = round(max_epochs * 0.15)                    # last epochs, without Mosaic and RandomAffine
val_interval = 10
base_lr = 0.004               # total batch size 8
amp = 'auto'                  # bfloat16 if the machine supports it
channels_last = 'auto'

model = dict(
    type='YOLOX',
    data_preprocessor=dict(
        type='DetDataPreprocessor', pad_size_divisor=32,
        batch_augments=[dict(type='BatchSyncRandomResize', random_size_range=(image_size[1] * 3 // 4, image_size[1] * 5 // 4), size_divisor=32, interval=5)]),
    backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.25, use_depthwise=True),
    neck=dict(type='YOLOXPAFPN', in_channels=[64, 128, 256], out_channels=64, num_csp_blocks=1, use_depthwise=True),
    bbox_head=dict(type='YOLOXHead', num_classes=len(_base_.classes), in_channels=64, feat_channels=64, use_depthwise=True),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65)))

test_size = image_size
load_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True)]
train_pipeline = [
    dict(type='Mosaic', img_scale=image_size, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=tuple(-side // 2 for side in image_size)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),   # a smear has no preferred orientation
    dict(type='Resize', scale=image_size, keep_ratio=keep_ratio),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4), keep_empty=False),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=test_size, keep_ratio=keep_ratio),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(dataset=dict(
    _delete_=True, type='MultiImageMixDataset', pipeline=train_pipeline,
    dataset=dict(_base_.train_dataloader.dataset, pipeline=load_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=val_interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=base_lr, weight_decay=0.05), clip_grad=dict(max_norm=35),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0))
param_scheduler = [
    dict(type='QuadraticWarmupLR', by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.05, begin=warmup_epochs, end=max_epochs,
         T_max=max_epochs - warmup_epochs, by_epoch=True, convert_to_iter_based=True)]
param_scheduler = [step for step in param_scheduler if step['begin'] < step['end']]                # drop empty ones in short runs
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=val_interval))
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=num_last_epochs, priority=48),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=200, update_buffers=True, priority=49)]
