"""Mask R-CNN (https://arxiv.org/abs/1703.06870), ResNet-18-FPN at half the width, from scratch on cell nuclei, crops of 256x256.
Expect 36.7 box and 38.5 mask AP on val, 27.6 and 28.8 on test; about 50 minutes of processor time.

The data (``_base_/datasets/nuclei_instance.py``) are expected in data/dsb2018_nuclei.

    python tools/train.py configs/mask_rcnn/mask-rcnn_r18_fpn_nuclei.py
    python tools/test.py configs/mask_rcnn/mask-rcnn_r18_fpn_nuclei.py work_dirs/mask-rcnn_r18_fpn_nuclei/epoch_60.pth
"""
_base_ = ['../_base_/models/mask-rcnn_r50_fpn.py', '../_base_/datasets/nuclei_instance.py', '../_base_/default_runtime.py']

max_epochs = 60
val_interval = 20
base_lr = 0.001               # total batch size 4
warmup_iters = 100
amp = 'auto'                  # bfloat16 if the machine supports it
channels_last = 'auto'

num_classes = len(_base_.classes)
model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, zero_init_residual=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=dict(type='BN')),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[3])),   # 12, 24, 48, ... pixels
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=num_classes)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128, pos_fraction=0.5))),
    test_cfg=dict(rcnn=dict(max_per_img=400)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='RandomChoice', transforms=[
        [dict(type='Resize', scale_factor=factor, keep_ratio=True)] for factor in (0.75, 1.0, 1.0, 1.33)]),
    dict(type='RandomCrop', crop_size=_base_.image_size, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=_base_.image_size),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=val_interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=base_lr, weight_decay=0.05), clip_grad=dict(max_norm=10),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.02, begin=max_epochs // 3, end=max_epochs,
         T_max=max_epochs - max_epochs // 3, by_epoch=True, convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(checkpoint=dict(interval=val_interval))
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=200, update_buffers=True, priority=49)]
