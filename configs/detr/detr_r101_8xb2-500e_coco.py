"""DETR, ResNet-101, 500 epochs on COCO (https://arxiv.org/abs/2005.12872).

The paper reports 43.5 box AP on val2017, trained with 16 GPUs x 4 images; here 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/detr/detr_r101_8xb2-500e_coco.py --launcher pytorch
"""
_base_ = './detr_r50_8xb2-500e_coco.py'
model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
