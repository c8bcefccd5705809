"""RetinaNet, Swin-T-FPN, 12 epochs on COCO (https://arxiv.org/abs/2103.14030).

MMDetection's recipe, without a result in its model zoo: SGD, as for a ResNet. With 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/retinanet_r50_fpn.py', '../_base_/datasets/coco_detection.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'   # ImageNet-1K
model = dict(
    backbone=dict(
        _delete_=True, type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        drop_path_rate=0.2, out_indices=(1, 2, 3), convert_weights=True, init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=dict(in_channels=[192, 384, 768], start_level=0, num_outs=5))
optim_wrapper = dict(optimizer=dict(lr=0.01))   # total batch size 16
