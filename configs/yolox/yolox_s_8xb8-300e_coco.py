"""YOLOX-s, 300 epochs on COCO (https://arxiv.org/abs/2107.08430, Sec. 2.2).

Expect 40.5 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 8 images:
    torchrun --nproc-per-node 8 tools/train.py configs/yolox/yolox_s_8xb8-300e_coco.py --launcher pytorch
"""
_base_ = ['../_base_/datasets/coco_detection.py', '../_base_/default_runtime.py']

num_classes = 80              # set from `classes`
image_size = (640, 640)       # (width, height) in pixels
batch_size = val_batch_size = 8
num_workers = 4
max_epochs = 300
warmup_epochs = max(1, round(max_epochs / 60))                # 5 of 300
num_last_epochs = round(max_epochs / 20)                      # without Mosaic, RandomAffine and MixUp: 15 of 300
base_lr = 0.01                # total batch size 64

norm_cfg = dict(type='BN', momentum=0.03, eps=0.001)
act_cfg = dict(type='Swish')
model = dict(
    type='YOLOX',
    data_preprocessor=dict(
        type='DetDataPreprocessor', pad_size_divisor=32,
        batch_augments=[dict(type='BatchSyncRandomResize', random_size_range=(max(image_size) * 3 // 4, max(image_size) * 5 // 4), size_divisor=32, interval=10)]),
    backbone=dict(
        type='CSPDarknet', deepen_factor=0.33, widen_factor=0.5, out_indices=(2, 3, 4), use_depthwise=False, spp_kernal_sizes=(5, 9, 13),
        norm_cfg=norm_cfg, act_cfg=act_cfg),
    neck=dict(
        type='YOLOXPAFPN', in_channels=[128, 256, 512], out_channels=128, num_csp_blocks=1, use_depthwise=False,
        upsample_cfg=dict(scale_factor=2, mode='nearest'), norm_cfg=norm_cfg, act_cfg=act_cfg),
    bbox_head=dict(
        type='YOLOXHead', num_classes=num_classes, in_channels=128, feat_channels=128, stacked_convs=2, strides=(8, 16, 32), use_depthwise=False,
        norm_cfg=norm_cfg, act_cfg=act_cfg,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', mode='square', eps=1e-16, reduction='sum', loss_weight=5.0),
        loss_obj=dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=1.0),
        loss_l1=dict(type='L1Loss', reduction='sum', loss_weight=1.0)),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)))

load_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True)]
test_size = image_size
train_pipeline = [            # Resize and Pad are used in the last epochs, without Mosaic, RandomAffine and MixUp
    dict(type='Mosaic', img_scale=image_size, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.1, 2), border=tuple(-side // 2 for side in image_size)),
    dict(type='MixUp', img_scale=image_size, ratio_range=(0.8, 1.6), pad_val=114.0),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=test_size, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_dataloader = dict(
    _delete_=True, batch_size=batch_size, num_workers=num_workers, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='MultiImageMixDataset', pipeline=train_pipeline, dataset=dict(
            _base_.train_dataloader.dataset, filter_cfg=dict(filter_empty_gt=False, min_size=32), pipeline=load_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=base_lr, momentum=0.9, weight_decay=5e-4, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = [
    dict(type='QuadraticWarmupLR', by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.05, begin=warmup_epochs, end=max_epochs - num_last_epochs,
         T_max=max_epochs - num_last_epochs, by_epoch=True, convert_to_iter_based=True),
    dict(type='ConstantLR', by_epoch=True, factor=1, begin=max_epochs - num_last_epochs, end=max_epochs)]
param_scheduler = [step for step in param_scheduler if step['begin'] < step['end']]                # drop empty ones in short runs
auto_scale_lr = dict(enable=False, base_batch_size=64)
default_hooks = dict(checkpoint=dict(interval=10))
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=num_last_epochs, priority=48),
    dict(type='SyncNormHook', priority=48),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0001, update_buffers=True, priority=49)]
