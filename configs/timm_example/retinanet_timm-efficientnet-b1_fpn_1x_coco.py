"""RetinaNet on timm's EfficientNet-B1, 12 epochs on COCO.

An example without a reference result. It needs `pip install 'detkit[timm]'`. With 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/timm_example/retinanet_timm-efficientnet-b1_fpn_1x_coco.py --launcher pytorch
"""
_base_ = '../retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True, type='TIMMBackbone', model_name='efficientnet_b1', features_only=True, pretrained=True, out_indices=(1, 2, 3, 4)),
    neck=dict(in_channels=[24, 40, 112, 320]))
