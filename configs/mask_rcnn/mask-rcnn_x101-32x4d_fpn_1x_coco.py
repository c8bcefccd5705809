"""Mask R-CNN, ResNeXt-101-32x4d-FPN, 12 epochs on COCO (https://arxiv.org/abs/1703.06870).

Expect 41.9 box AP and 37.5 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py --launcher pytorch
"""
_base_ = './mask-rcnn_r101_fpn_1x_coco.py'
model = dict(backbone=dict(type='ResNeXt', groups=32, base_width=4, init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_32x4d')))
