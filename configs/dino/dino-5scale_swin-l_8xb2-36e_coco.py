"""DINO with five scales, Swin-L trained on ImageNet-22k, 36 epochs on COCO (https://arxiv.org/abs/2203.03605).

Expect 58.4 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/dino/dino-5scale_swin-l_8xb2-36e_coco.py --launcher pytorch
"""
_base_ = './dino-5scale_swin-l_8xb2-12e_coco.py'
max_epochs = 36
param_scheduler = [dict(_base_.param_scheduler[0], milestones=[round(max_epochs * 3 / 4), round(max_epochs * 11 / 12)])]
