"""Deformable DETR, ResNet-50, 50 epochs on COCO (https://arxiv.org/abs/2010.04159).

Expect 44.3 box AP on val2017 (MMDetection's model zoo), trained with 16 GPUs x 2 images:
    torchrun --nproc-per-node 16 tools/train.py configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py --launcher pytorch
"""
_base_ = ['../_base_/datasets/coco_detr.py', '../_base_/default_runtime.py']

num_classes = 80              # set from `classes`
max_epochs = 50
ffn = dict(embed_dims=256, feedforward_channels=1024, ffn_drop=0.1)
model = dict(
    type='DeformableDETR',
    num_queries=300,
    num_feature_levels=4,
    with_box_refine=False,
    as_two_stage=False,
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=1),
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(1, 2, 3), frozen_stages=1, norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True, style='pytorch', init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(
        type='ChannelMapper', in_channels=[512, 1024, 2048], kernel_size=1, out_channels=256, act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32), num_outs=4),
    encoder=dict(num_layers=6, layer_cfg=dict(self_attn_cfg=dict(embed_dims=256), ffn_cfg=ffn)),
    decoder=dict(
        num_layers=6, return_intermediate=True, post_norm_cfg=None,
        layer_cfg=dict(self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.1), cross_attn_cfg=dict(embed_dims=256), ffn_cfg=ffn)),
    positional_encoding=dict(num_feats=128, normalize=True, offset=-0.5),
    bbox_head=dict(
        type='DeformableDETRHead', num_classes=num_classes, sync_cls_avg_factor=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=[
        dict(type='FocalLossCost', weight=2.0),
        dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
        dict(type='IoUCost', iou_mode='giou', weight=2.0)])),
    test_cfg=dict(max_per_img=100))

optim_wrapper = dict(      # total batch size 32
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.0002, weight_decay=0.0001), clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys={
        'backbone': dict(lr_mult=0.1), 'sampling_offsets': dict(lr_mult=0.1), 'reference_points': dict(lr_mult=0.1)}))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[round(max_epochs * 0.8)], gamma=0.1)]
auto_scale_lr = dict(enable=False, base_batch_size=32)
