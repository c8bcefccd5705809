"""Cascade R-CNN, ResNet-50-FPN, 12 epochs on COCO (https://arxiv.org/abs/1712.00726).

Expect 40.3 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/cascade-rcnn_r50_fpn.py', '../_base_/datasets/coco_detection.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']
