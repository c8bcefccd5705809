"""Cascade R-CNN, ResNet-101-FPN, 12 epochs on COCO (https://arxiv.org/abs/1712.00726).

Expect 42.0 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/cascade_rcnn/cascade-rcnn_r101_fpn_1x_coco.py --launcher pytorch
"""
_base_ = './cascade-rcnn_r50_fpn_1x_coco.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
