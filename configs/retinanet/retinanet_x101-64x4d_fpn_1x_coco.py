"""RetinaNet, ResNeXt-101-64x4d-FPN, 12 epochs on COCO.

Expect 41.0 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/retinanet/retinanet_x101-64x4d_fpn_1x_coco.py --launcher pytorch
"""
_base_ = './retinanet_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ResNeXt', depth=101, groups=64, base_width=4, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_64x4d')))
