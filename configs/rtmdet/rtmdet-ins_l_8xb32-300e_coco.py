"""RTMDet-Ins-l, 300 epochs on COCO (https://arxiv.org/abs/2212.07784, Sec. 3.4).

Expect 51.2 box AP and 43.7 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 32 images:
    torchrun --nproc-per-node 8 tools/train.py configs/rtmdet/rtmdet-ins_l_8xb32-300e_coco.py --launcher pytorch
"""
_base_ = './rtmdet_l_8xb32-300e_coco.py'
model = dict(
    bbox_head=dict(
        _delete_=True, type='RTMDetInsSepBNHead', num_classes=_base_.num_classes, in_channels=256, stacked_convs=2, feat_channels=256, share_conv=True,
        pred_kernel_size=1, anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0), loss_mask=dict(type='DiceLoss', loss_weight=2.0, eps=5e-6, reduction='mean'),
        norm_cfg=dict(type='SyncBN', requires_grad=True), act_cfg=dict(type='SiLU', inplace=True)),
    test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100,
                  mask_thr_binary=0.5))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='CachedMosaic', img_scale=_base_.image_size, pad_val=114.0),
    dict(type='RandomResize', scale=_base_.mosaic_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.image_size[::-1], recompute_bbox=True, allow_negative_crop=True),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=_base_.image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='CachedMixUp', img_scale=_base_.image_size, ratio_range=(1.0, 1.0), max_cached_images=20, pad_val=(114, 114, 114)),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='PackDetInputs')]
train_pipeline_stage2 = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='RandomResize', scale=_base_.image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.image_size[::-1], recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=_base_.image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')]
train_dataloader = dict(pin_memory=True, dataset=dict(pipeline=train_pipeline))
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
    dict(type='PipelineSwitchHook', switch_epoch=_base_.max_epochs - _base_.stage2_num_epochs, switch_pipeline=train_pipeline_stage2)]
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
