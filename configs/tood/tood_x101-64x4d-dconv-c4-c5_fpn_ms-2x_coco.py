"""TOOD, ResNeXt-101-64x4d-FPN with deformable convolutions in two stages and the head, 24 epochs on COCO at short sides of 480 to 800 pixels.

MMDetection publishes no result for it. For 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/tood/tood_x101-64x4d-dconv-c4-c5_fpn_ms-2x_coco.py --launcher pytorch
"""
_base_ = './tood_x101-64x4d_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, False, True, True)),
    bbox_head=dict(num_dcn=2))
