"""FCOS with its authors' later improvements, ResNet-50-FPN (Caffe weights), 12 epochs on COCO (https://arxiv.org/abs/2006.09214).

Expect 38.7 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py --launcher pytorch
"""
_base_ = './fcos_r50-caffe_fpn_gn-head_1x_coco.py'
model = dict(
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0]),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet50_caffe')),
    bbox_head=dict(
        norm_on_bbox=True, centerness_on_reg=True, center_sampling=True, conv_bias=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0)),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.6)))
param_scheduler = [
    dict(type='LinearLR', start_factor=1.0 / 3.0, by_epoch=False, begin=0, end=_base_.warmup_iters), _base_.param_scheduler[1]]
optim_wrapper = dict(clip_grad=None)
