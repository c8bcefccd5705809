"""TOOD with boxes relative to anchors, ResNet-50-FPN, 12 epochs on COCO.

Expect 42.4 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/tood/tood_r50_fpn_anchor-based_1x_coco.py --launcher pytorch
"""
_base_ = './tood_r50_fpn_1x_coco.py'
model = dict(bbox_head=dict(anchor_type='anchor_based'))
