"""Mask R-CNN, ResNet-50-FPN, 24 epochs on COCO (https://arxiv.org/abs/1703.06870).

Expect 39.2 box AP and 35.4 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/mask-rcnn_r50_fpn.py', '../_base_/datasets/coco_instance.py',
          '../_base_/schedules/schedule_2x.py', '../_base_/default_runtime.py']
