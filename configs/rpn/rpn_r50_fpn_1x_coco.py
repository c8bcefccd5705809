"""A region proposal network, ResNet-50-FPN, 12 epochs on COCO (https://arxiv.org/abs/1506.01497, Sec. 3.1).

Expect an average recall of 58.2 on val2017 with 1000 proposals an image (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/rpn/rpn_r50_fpn_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/faster-rcnn_r50_fpn.py', '../_base_/datasets/coco_detection.py', '../_base_/schedules/schedule_1x.py',
          '../_base_/default_runtime.py']
model = dict(
    _delete_=True, type='RPN', data_preprocessor=_base_.model.data_preprocessor, backbone=_base_.model.backbone,
    neck=_base_.model.neck, rpn_head=_base_.model.rpn_head, train_cfg=dict(rpn=_base_.model.train_cfg.rpn),
    test_cfg=dict(rpn=dict(nms_pre=2000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)))
val_evaluator = dict(metric='proposal')
test_evaluator = dict(metric='proposal')
