"""RTMDet-x, 300 epochs on COCO (https://arxiv.org/abs/2212.07784, Table 8).

Expect 52.8 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 32 images:
    torchrun --nproc-per-node 8 tools/train.py configs/rtmdet/rtmdet_x_8xb32-300e_coco.py --launcher pytorch
"""
_base_ = './rtmdet_l_8xb32-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=1.33, widen_factor=1.25),
    neck=dict(in_channels=[320, 640, 1280], out_channels=320, num_csp_blocks=4),
    bbox_head=dict(in_channels=320, feat_channels=320))
