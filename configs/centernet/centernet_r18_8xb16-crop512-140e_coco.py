"""CenterNet, ResNet-18, 140 epochs on COCO.

Expect 25.9 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 16 images:
    torchrun --nproc-per-node 8 tools/train.py configs/centernet/centernet_r18_8xb16-crop512-140e_coco.py --launcher pytorch
"""
_base_ = './centernet_r18-dcnv2_8xb16-crop512-140e_coco.py'
model = dict(neck=dict(use_dcn=False))
