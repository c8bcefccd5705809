"""TOOD, ResNet-101-FPN with deformable convolutions in three stages and the head, 24 epochs on COCO at short sides of 480 to 800 pixels.

Expect 49.3 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/tood/tood_r101-dconv-c3-c5_fpn_ms-2x_coco.py --launcher pytorch
"""
_base_ = './tood_r101_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, True, True, True)),
    bbox_head=dict(num_dcn=2))
