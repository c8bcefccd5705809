"""RTMDet-Ins-m, 300 epochs on COCO (https://arxiv.org/abs/2212.07784, Sec. 3.4).

Expect 48.8 box AP and 42.1 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 32 images:
    torchrun --nproc-per-node 8 tools/train.py configs/rtmdet/rtmdet-ins_m_8xb32-300e_coco.py --launcher pytorch
"""
_base_ = './rtmdet-ins_l_8xb32-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=0.67, widen_factor=0.75),
    neck=dict(in_channels=[192, 384, 768], out_channels=192, num_csp_blocks=2),
    bbox_head=dict(in_channels=192, feat_channels=192))
