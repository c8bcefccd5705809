"""FCOS, ResNet-101-FPN (Caffe weights), 24 epochs on COCO at short sides of 640 or 800 pixels.

Expect 40.8 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py --launcher pytorch
"""
_base_ = './fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron/resnet101_caffe')))
