"""RTMDet-Ins-tiny (https://arxiv.org/abs/2212.07784, Sec. 3.4) from scratch on microscope images of cell nuclei, at twice their size.
Expect 36.2 box and 36.5 mask AP on val, 27.9 and 28.6 on test; about 25 minutes of processor time.

    python tools/train.py configs/rtmdet/rtmdet-ins_tiny_nuclei.py
    python tools/test.py configs/rtmdet/rtmdet-ins_tiny_nuclei.py work_dirs/rtmdet-ins_tiny_nuclei/epoch_60.pth
"""
_base_ = ['../_base_/datasets/nuclei_instance.py', '../_base_/default_runtime.py']

max_epochs = 60
val_interval = 20
base_lr = 0.002               # total batch size 8
warmup_iters = 60
batch_size = 8
amp = 'auto'                  # bfloat16 if the machine supports it
channels_last = 'auto'

model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], pad_size_divisor=32),
    backbone=dict(type='CSPNeXt', arch='P5', deepen_factor=0.167, widen_factor=0.375),
    neck=dict(type='CSPNeXtPAFPN', in_channels=[96, 192, 384], out_channels=96, num_csp_blocks=1),
    bbox_head=dict(
        type='RTMDetInsSepBNHead', num_classes=len(_base_.classes), in_channels=96, feat_channels=96, stacked_convs=2, max_masks_to_train=128,
        loss_cls=dict(type='QualityFocalLoss', beta=2.0, loss_weight=1.0), loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_mask=dict(type='DiceLoss', loss_weight=2.0, eps=5e-6)),
    train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=2000, min_bbox_size=0, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.6), max_per_img=400,
                  mask_thr_binary=0.5))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='RandomChoice', transforms=[[dict(type='Resize', scale_factor=s)] for s in (1.5, 2.0, 2.5)]),
    dict(type='RandomCrop', crop_size=_base_.image_size, allow_negative_crop=True, recompute_bbox=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),   # a slide has no preferred orientation
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=_base_.image_size),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=2.0),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
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
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min=base_lr * 0.05, begin=max_epochs // 4, end=max_epochs, T_max=max_epochs - max_epochs // 4,
         by_epoch=True, convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=val_interval))
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.004, gamma=100, update_buffers=True, priority=49)]
