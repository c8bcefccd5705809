"""RetinaNet on a timm network, here ResNet-50 with torchvision's weights, 12 epochs on COCO.

An example without a reference result: any network of `timm.list_models()` with feature maps of strides 4 to 32 can replace it; the
neck's in_channels are set from it. It needs `pip install 'detkit[timm]'`. With 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/timm_example/retinanet_timm-tv-resnet50_fpn_1x_coco.py --launcher pytorch
"""
_base_ = '../retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(backbone=dict(
    _delete_=True, type='TIMMBackbone', model_name='resnet50.tv_in1k', features_only=True, pretrained=True, out_indices=(1, 2, 3, 4)))
