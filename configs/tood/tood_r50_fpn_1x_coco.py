"""TOOD, ResNet-50-FPN, 12 epochs on COCO (https://arxiv.org/abs/2108.07755).

Expect 42.4 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/tood/tood_r50_fpn_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/retinanet_r50_fpn.py', '../_base_/datasets/coco_detection.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']
model = dict(
    type='TOOD',
    neck=dict(add_extra_convs='on_output'),
    bbox_head=dict(
        _delete_=True, type='TOODHead', num_classes=_base_.num_classes, in_channels=256, stacked_convs=6, feat_channels=256, anchor_type='anchor_free',
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[0.1, 0.1, 0.2, 0.2]),
        initial_loss_cls=dict(type='FocalLoss', use_sigmoid=True, activated=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, activated=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(
        _delete_=True, initial_epoch=min(4, _base_.max_epochs // 3), initial_assigner=dict(type='ATSSAssigner', topk=9),
        assigner=dict(type='TaskAlignedAssigner', topk=13), alpha=1, beta=6, allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.6)))
optim_wrapper = dict(optimizer=dict(lr=0.01))   # total batch size 16
