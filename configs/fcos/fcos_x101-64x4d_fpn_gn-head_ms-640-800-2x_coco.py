"""FCOS, ResNeXt-101-64x4d-FPN, 24 epochs on COCO at short sides of 640 or 800 pixels.

Expect 42.6 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py --launcher pytorch
"""
_base_ = './fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py'
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True, type='ResNeXt', depth=101, groups=64, base_width=4, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_64x4d')))
