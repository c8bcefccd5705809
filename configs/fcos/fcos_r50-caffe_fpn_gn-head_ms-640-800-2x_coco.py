"""FCOS, ResNet-50-FPN (Caffe weights), 24 epochs on COCO at short sides of 640 or 800 pixels.

Expect 38.5 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py --launcher pytorch
"""
_base_ = './fcos_r50-caffe_fpn_gn-head_1x_coco.py'

max_epochs = 24
width, height = _base_.image_size
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales=[(width, height * 4 // 5), (width, height)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
