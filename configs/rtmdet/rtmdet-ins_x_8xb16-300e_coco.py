"""RTMDet-Ins-x, 300 epochs on COCO (https://arxiv.org/abs/2212.07784, Sec. 3.4).

Expect 52.4 box AP and 44.6 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 16 images:
    torchrun --nproc-per-node 8 tools/train.py configs/rtmdet/rtmdet-ins_x_8xb16-300e_coco.py --launcher pytorch
"""
_base_ = './rtmdet-ins_l_8xb32-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=1.33, widen_factor=1.25),
    neck=dict(in_channels=[320, 640, 1280], out_channels=320, num_csp_blocks=4),
    bbox_head=dict(in_channels=320, feat_channels=320))

base_lr = 0.002               # total batch size 128
batch_size = 16
auto_scale_lr = dict(enable=False, base_batch_size=128)
