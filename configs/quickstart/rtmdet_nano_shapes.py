"""The quickstart: a quarter-width RTMDet (https://arxiv.org/abs/2212.07784) from scratch on the generated shapes.

Two and a half minutes on two CPU cores: ``make quickstart``, or

    python tools/make_dataset.py data/shapes
    python tools/train.py configs/quickstart/rtmdet_nano_shapes.py

Expect 0.69 box AP (0.92 at IoU 0.5) on the validation images (seed 0). 2.18 M parameters, 0.14 G multiply-adds per image.
"""
_base_ = ['../_base_/models/rtmdet_nano.py', '../_base_/datasets/shapes_detection.py', '../_base_/default_runtime.py']

max_epochs = 18
val_interval = 6
base_lr = 0.006               # total batch size 16
warmup_iters = 60
amp = 'auto'                  # bfloat16 if the machine supports it
channels_last = 'auto'

model = dict(bbox_head=dict(num_classes=len(_base_.classes)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=_base_.image_size, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.image_size, allow_negative_crop=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='Pad', size=_base_.image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=val_interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=base_lr, weight_decay=0.05), clip_grad=dict(max_norm=35),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.02, begin=max_epochs // 4, end=max_epochs,
         T_max=max_epochs - max_epochs // 4, by_epoch=True, convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.004, gamma=100, update_buffers=True, priority=49)]
