"""A small RTMDet, trained from scratch on BCCD: 205 photographs of blood smears, three kinds of cells.

    python tools/download_dataset.py bccd
    python tools/train.py configs/rtmdet/rtmdet_nano_bccd.py
"""
_base_ = ['./rtmdet_tiny_8xb32-300e_coco.py']

model = dict(
    backbone=dict(widen_factor=0.25, norm_cfg=dict(type='BN')),
    neck=dict(in_channels=[64, 128, 256], out_channels=64, norm_cfg=dict(type='BN')),
    bbox_head=dict(num_classes=3, in_channels=64, feat_channels=64, norm_cfg=dict(type='BN')))
