"""YOLOX-nano, 300 epochs on COCO (https://arxiv.org/abs/2107.08430, Sec. 2.2): depthwise convolutions; training and test settings of YOLOX-tiny.

Expect 25.3 box AP on val2017 (the paper; MMDetection's model zoo has no result), trained with 8 GPUs x 8 images:
    torchrun --nproc-per-node 8 tools/train.py configs/yolox/yolox_nano_8xb8-300e_coco.py --launcher pytorch
"""
_base_ = './yolox_tiny_8xb8-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.25, use_depthwise=True),
    neck=dict(in_channels=[64, 128, 256], out_channels=64, num_csp_blocks=1, use_depthwise=True),
    bbox_head=dict(in_channels=64, feat_channels=64, use_depthwise=True))
