"""YOLOX-m, 300 epochs on COCO (https://arxiv.org/abs/2107.08430, Sec. 2.2).

Expect 46.4 box AP on val2017 (the paper; MMDetection's model zoo has no result), trained with 8 GPUs x 8 images:
    torchrun --nproc-per-node 8 tools/train.py configs/yolox/yolox_m_8xb8-300e_coco.py --launcher pytorch
"""
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=0.67, widen_factor=0.75),
    neck=dict(in_channels=[192, 384, 768], out_channels=192, num_csp_blocks=2),
    bbox_head=dict(in_channels=192, feat_channels=192))
