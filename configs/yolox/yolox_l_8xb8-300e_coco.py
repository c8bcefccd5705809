"""YOLOX-l, 300 epochs on COCO (https://arxiv.org/abs/2107.08430, Sec. 2.2).

Expect 49.4 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 8 images:
    torchrun --nproc-per-node 8 tools/train.py configs/yolox/yolox_l_8xb8-300e_coco.py --launcher pytorch
"""
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=1.0, widen_factor=1.0),
    neck=dict(in_channels=[256, 512, 1024], out_channels=256, num_csp_blocks=3),
    bbox_head=dict(in_channels=256, feat_channels=256))
