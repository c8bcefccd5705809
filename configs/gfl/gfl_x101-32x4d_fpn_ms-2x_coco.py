"""Generalized Focal Loss, ResNeXt-101-32x4d-FPN, 24 epochs on COCO at short sides of 480 to 800 pixels.

Expect 45.9 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/gfl/gfl_x101-32x4d_fpn_ms-2x_coco.py --launcher pytorch
"""
_base_ = './gfl_r50_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ResNeXt', depth=101, groups=32, base_width=4, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_32x4d')))
