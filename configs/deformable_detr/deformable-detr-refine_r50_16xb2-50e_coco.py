"""Deformable DETR with iterative box refinement, ResNet-50, 50 epochs on COCO (https://arxiv.org/abs/2010.04159).

Expect 46.2 box AP on val2017 (MMDetection's model zoo), trained with 16 GPUs x 2 images:
    torchrun --nproc-per-node 16 tools/train.py configs/deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py --launcher pytorch
"""
_base_ = './deformable-detr_r50_16xb2-50e_coco.py'
model = dict(with_box_refine=True)
