"""Generalized Focal Loss, ResNet-101-FPN, 24 epochs on COCO at short sides of 480 to 800 pixels.

Expect 44.7 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/gfl/gfl_r101_fpn_ms-2x_coco.py --launcher pytorch
"""
_base_ = './gfl_r50_fpn_ms-2x_coco.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
