"""Generalized Focal Loss, ResNet-101-FPN with deformable convolutions in three stages, 24 epochs on COCO at short sides of 480 to 800 pixels.

Expect 47.1 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/gfl/gfl_r101-dconv-c3-c5_fpn_ms-2x_coco.py --launcher pytorch
"""
_base_ = './gfl_r101_fpn_ms-2x_coco.py'
model = dict(backbone=dict(dcn=dict(type='DCN', deform_groups=1), stage_with_dcn=(False, True, True, True)))
