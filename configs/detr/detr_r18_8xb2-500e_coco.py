"""DETR, ResNet-18, 500 epochs on COCO (https://arxiv.org/abs/2005.12872).

A smaller backbone than any in the paper; there is no reference result. With 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/detr/detr_r18_8xb2-500e_coco.py --launcher pytorch
"""
_base_ = './detr_r50_8xb2-500e_coco.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[512]))
