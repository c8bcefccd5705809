"""RetinaNet, ResNet-50-FPN, 12 epochs on COCO (https://arxiv.org/abs/1708.02002).

Expect 36.5 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/retinanet/retinanet_r50_fpn_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/retinanet_r50_fpn.py', '../_base_/datasets/coco_detection.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']
optim_wrapper = dict(optimizer=dict(lr=0.01))   # total batch size 16
