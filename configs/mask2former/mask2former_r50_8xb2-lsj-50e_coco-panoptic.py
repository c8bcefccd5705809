"""Mask2Former, ResNet-50, things and stuff, 50 epochs on COCO panoptic with large-scale jitter (https://arxiv.org/abs/2112.01527).

Expect 52.0 PQ, 44.5 box AP and 41.8 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py --launcher pytorch
"""
from os.path import join

_base_ = ['../_base_/datasets/coco_panoptic.py', '../_base_/default_runtime.py']

image_size = (1024, 1024)     # (width, height) in pixels of the training crops
test_size = (image_size[0] * 1333 // 1024, image_size[1] * 25 // 32)          # 1333x800
max_iters = 368750            # 50 epochs at a total batch size of 16
val_interval = 5000           # in iterations
val_instances = 'annotations/instances_val2017.json'         # boxes and masks of things, for AP
test_instances = val_instances

num_things_classes = len(_base_.classes) if _base_.classes else 80
num_stuff_classes = len(_base_.metainfo.stuff_classes) if _base_.classes else 53
model = dict(
    type='Mask2Former',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32,
        pad_mask=True, pad_seg=True, seg_pad_value=255,
        batch_augments=[dict(type='BatchFixedSizePad', size=image_size[::-1], pad_mask=True, pad_seg=True, seg_pad_value=255)]),
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    panoptic_head=dict(
        type='Mask2FormerHead', in_channels=[256, 512, 1024, 2048], strides=[4, 8, 16, 32], feat_channels=256, out_channels=256,
        num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes, num_queries=100, num_transformer_feat_level=3,
        pixel_decoder=dict(
            type='MSDeformAttnPixelDecoder', num_outs=3, norm_cfg=dict(type='GN', num_groups=32), act_cfg=dict(type='ReLU'),
            encoder=dict(num_layers=6, layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=256, num_heads=8, num_levels=3, num_points=4, dropout=0.0),
                ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, num_fcs=2, ffn_drop=0.0))),
            positional_encoding=dict(num_feats=128, normalize=True)),
        positional_encoding=dict(num_feats=128, normalize=True),
        transformer_decoder=dict(num_layers=9, layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.0), cross_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.0),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=2048, num_fcs=2, ffn_drop=0.0))),
        loss_cls=dict(                             # the last weight is for "no object"
            type='CrossEntropyLoss', loss_weight=2.0, class_weight=[1.0] * (num_things_classes + num_stuff_classes) + [0.1]),
        loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0),
        loss_dice=dict(type='DiceLoss', naive_dice=True, eps=1.0, loss_weight=5.0)),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead', num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes),
    train_cfg=dict(
        num_points=12544, oversample_ratio=3.0, importance_sample_ratio=0.75,
        assigner=dict(type='HungarianAssigner', match_costs=[
            dict(type='ClassificationCost', weight=2.0), dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
            dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0)])),
    test_cfg=dict(panoptic_on=True, instance_on=True, max_per_image=100, object_mask_thr=0.8, iou_thr=0.8, filter_low_score=True))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=image_size, crop_type='absolute', recompute_bbox=True, allow_negative_crop=True),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

val_evaluator = [
    _base_.val_evaluator, dict(type='CocoMetric', ann_file=join(_base_.data_root, val_instances), metric=['bbox', 'segm'])]
test_evaluator = [
    _base_.test_evaluator, dict(type='CocoMetric', ann_file=join(_base_.data_root, test_instances), metric=['bbox', 'segm'])]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=val_interval,
                 dynamic_intervals=[(max_iters // val_interval * val_interval + 1, max_iters)])
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
embedding = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.0001, weight_decay=0.05), clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(
        backbone=dict(lr_mult=0.1, decay_mult=1.0), query_embed=embedding, query_feat=embedding, level_embed=embedding)))
param_scheduler = dict(type='MultiStepLR', begin=0, end=max_iters, by_epoch=False, milestones=[max_iters * 327778 // 368750, max_iters * 355092 // 368750], gamma=0.1)
default_hooks = dict(checkpoint=dict(by_epoch=False, save_last=True, interval=val_interval))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=16)
