"""YOLOX-nano (https://arxiv.org/abs/2107.08430) from scratch on BCCD, at 320x256 pixels.

Expect 54.2 box AP (89.4 AP50) on val, 56.0 (90.2) on test; 25 minutes of processor time.

    python tools/download_dataset.py bccd
    python tools/train.py configs/yolox/yolox_nano_bccd.py
    python tools/test.py configs/yolox/yolox_nano_bccd.py work_dirs/yolox_nano_bccd/epoch_100.pth
"""
_base_ = ['../_base_/datasets/bccd_detection.py', '../_base_/default_runtime.py']

model = dict(
    type='YOLOX',
    data_preprocessor=dict(
        type='DetDataPreprocessor', pad_size_divisor=32,
        batch_augments=[dict(type='BatchSyncRandomResize', random_size_range=(192, 320), size_divisor=32, interval=5)]),
    backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.25, use_depthwise=True),
    neck=dict(type='YOLOXPAFPN', in_channels=[64, 128, 256], out_channels=64, num_csp_blocks=1, use_depthwise=True),
    bbox_head=dict(type='YOLOXHead', num_classes=3, in_channels=64, feat_channels=64, use_depthwise=True),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65)))

load_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True)]
train_pipeline = [            # the last 15 epochs see plain images
    dict(type='Mosaic', img_scale=(320, 256), pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=(-160, -128)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),   # a smear has no right way up
    dict(type='Resize', scale=(320, 256)),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4), keep_empty=False),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 256)),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='MultiImageMixDataset', pipeline=train_pipeline,
        dataset=dict(
            type='CocoDataset', data_root={{_base_.data_root}}, ann_file='annotations/train.json', data_prefix=dict(img='images/'),
            metainfo={{_base_.metainfo}}, pipeline=load_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

max_epochs = 100
num_last_epochs = 15
base_lr = 0.004               # for 8 images a step
amp = 'auto'                  # bfloat16 where the machine has it
channels_last = 'auto'
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=base_lr, weight_decay=0.05), clip_grad=dict(max_norm=35),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0))
param_scheduler = [
    dict(type='QuadraticWarmupLR', by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.05, begin=5, end=max_epochs, T_max=max_epochs - 5, by_epoch=True,
         convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=10))
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=num_last_epochs, priority=48),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=200, update_buffers=True, priority=49)]
