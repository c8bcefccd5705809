"""FCOS with its authors' later improvements and deformable convolutions, ResNet-50-FPN (Caffe weights),
12 epochs on COCO (https://arxiv.org/abs/2006.09214).

Expect 42.3 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/fcos/fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py --launcher pytorch
"""
_base_ = './fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py'
model = dict(
    backbone=dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, True, True, True)),
    bbox_head=dict(dcn_on_last_conv=True))
