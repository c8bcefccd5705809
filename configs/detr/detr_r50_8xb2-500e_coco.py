"""DETR, ResNet-50, 500 epochs on COCO (https://arxiv.org/abs/2005.12872).

The paper reports 42.0 box AP on val2017, trained with 16 GPUs x 4 images; here 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/detr/detr_r50_8xb2-500e_coco.py --launcher pytorch
"""
_base_ = './detr_r50_8xb2-150e_coco.py'
max_epochs = 500
train_cfg = dict(val_interval=10)
param_scheduler = [dict(_base_.param_scheduler[0], milestones=[round(max_epochs * 334 / 500)])]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
