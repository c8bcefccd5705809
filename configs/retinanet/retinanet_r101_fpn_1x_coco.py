"""RetinaNet, ResNet-101-FPN, 12 epochs on COCO.

Expect 38.5 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/retinanet/retinanet_r101_fpn_1x_coco.py --launcher pytorch
"""
_base_ = './retinanet_r50_fpn_1x_coco.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
