"""DINO with four scales and Deformable DETR's settings, ResNet-50, 12 epochs on COCO (https://arxiv.org/abs/2203.03605).

Expect 50.1 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/dino/dino-4scale_r50_improved_8xb2-12e_coco.py --launcher pytorch
"""
_base_ = './dino-4scale_r50_8xb2-12e_coco.py'
model = dict(
    backbone=dict(frozen_stages=-1),
    positional_encoding=dict(offset=-0.5, temperature=10000),
    bbox_head=dict(loss_cls=dict(loss_weight=2.0)),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=300)))
optim_wrapper = dict(
    optimizer=dict(lr=0.0002),
    paramwise_cfg=dict(custom_keys={
        'backbone': dict(lr_mult=0.1), 'sampling_offsets': dict(lr_mult=0.1), 'reference_points': dict(lr_mult=0.1)}))
