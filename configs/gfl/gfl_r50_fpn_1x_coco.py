"""Generalized Focal Loss, ResNet-50-FPN, 12 epochs on COCO (https://arxiv.org/abs/2006.04388).

Expect 40.2 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/gfl/gfl_r50_fpn_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/retinanet_r50_fpn.py', '../_base_/datasets/coco_detection.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']
model = dict(
    type='GFL',
    neck=dict(add_extra_convs='on_output'),
    bbox_head=dict(
        _delete_=True, type='GFLHead', num_classes=_base_.num_classes, in_channels=256, stacked_convs=4, feat_channels=256, reg_max=16,
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32, 64, 128]),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(_delete_=True, assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.6)))
optim_wrapper = dict(optimizer=dict(lr=0.01))   # total batch size 16
