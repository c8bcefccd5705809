"""DINO with four scales, ResNet-50, 36 epochs on COCO (https://arxiv.org/abs/2203.03605).

The paper reports 50.9 box AP on val2017, trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/dino/dino-4scale_r50_8xb2-36e_coco.py --launcher pytorch
"""
_base_ = './dino-4scale_r50_8xb2-12e_coco.py'
max_epochs = 36
param_scheduler = [dict(_base_.param_scheduler[0], milestones=[round(max_epochs * 5 / 6)])]
