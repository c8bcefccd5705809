"""Generalized Focal Loss, ResNeXt-101-32x4d-FPN with deformable convolutions in two stages, 24 epochs on COCO at short sides of 480 to 800 pixels.

Expect 48.1 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/gfl/gfl_x101-32x4d-dconv-c4-c5_fpn_ms-2x_coco.py --launcher pytorch
"""
_base_ = './gfl_x101-32x4d_fpn_ms-2x_coco.py'
model = dict(backbone=dict(dcn=dict(type='DCN', deform_groups=1), stage_with_dcn=(False, False, True, True)))
