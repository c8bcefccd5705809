"""RTMDet (https://arxiv.org/abs/2212.07784) for training on a CPU: a quarter of RTMDet-l's width, a sixth of its depth."""
num_classes = 80              # set from `classes`
model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], pad_size_divisor=32),
    backbone=dict(type='CSPNeXt', arch='P5', deepen_factor=0.167, widen_factor=0.25),
    neck=dict(type='CSPNeXtPAFPN', in_channels=[64, 128, 256], out_channels=64, num_csp_blocks=1),
    bbox_head=dict(
        type='RTMDetSepBNHead', num_classes=num_classes, in_channels=64, feat_channels=64, stacked_convs=2, with_objectness=False,
        loss_cls=dict(type='QualityFocalLoss', beta=2.0, loss_weight=1.0), loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=3000, min_bbox_size=0, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=100))
