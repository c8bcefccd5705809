"""Mask R-CNN, ResNet-50-C4, 12 epochs on COCO (https://arxiv.org/abs/1703.06870).

Trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/mask-rcnn_r50-caffe-c4.py', '../_base_/datasets/coco_instance.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']
