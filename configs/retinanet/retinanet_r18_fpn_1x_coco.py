"""RetinaNet, ResNet-18-FPN, 12 epochs on COCO: the smallest of the family.

Expect 31.7 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/retinanet/retinanet_r18_fpn_1x_coco.py --launcher pytorch
"""
_base_ = './retinanet_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512]))
