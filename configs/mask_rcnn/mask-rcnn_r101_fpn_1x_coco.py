"""Mask R-CNN, ResNet-101-FPN, 12 epochs on COCO (https://arxiv.org/abs/1703.06870).

Expect 40.0 box AP and 36.1 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/mask_rcnn/mask-rcnn_r101_fpn_1x_coco.py --launcher pytorch
"""
_base_ = './mask-rcnn_r50_fpn_1x_coco.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
