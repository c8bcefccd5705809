"""FCOS with centre sampling, ResNet-50-FPN (Caffe weights), 12 epochs on COCO.

MMDetection publishes no result for it. For 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/fcos/fcos_r50-caffe_fpn_gn-head-center_1x_coco.py --launcher pytorch
"""
_base_ = './fcos_r50-caffe_fpn_gn-head_1x_coco.py'
model = dict(bbox_head=dict(center_sampling=True, center_sample_radius=1.5))
