"""RetinaNet on a network of timm's, here its ResNet-50 with torchvision's weights, 12 epochs on COCO.

An example, with no figure to expect: any network of `timm.list_models()` with maps of strides 4 to 32 takes its place; the neck's
in_channels follow. It needs `pip install 'detkit[timm]'`. With 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/timm_example/retinanet_timm-tv-resnet50_fpn_1x_coco.py --launcher pytorch
"""
_base_ = '../retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(backbone=dict(
    _delete_=True, type='TIMMBackbone', model_name='resnet50.tv_in1k', features_only=True, pretrained=True, out_indices=(1, 2, 3, 4)))
