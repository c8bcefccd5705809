"""Mask R-CNN, Swin-T-FPN, 12 epochs on COCO (https://arxiv.org/abs/2103.14030).

Expect 42.7 box AP and 39.3 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/mask-rcnn_r50_fpn.py', '../_base_/datasets/coco_instance.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']

warmup_iters = 1000
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'   # ImageNet-1K
model = dict(
    backbone=dict(
        _delete_=True, type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        drop_path_rate=0.2, convert_weights=True, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),   # total batch size 16
    paramwise_cfg=dict(custom_keys=dict(
        absolute_pos_embed=dict(decay_mult=0.), relative_position_bias_table=dict(decay_mult=0.), norm=dict(decay_mult=0.))))
