"""Mask2Former, ResNet-50, instances, 50 epochs on COCO with large-scale jitter (https://arxiv.org/abs/2112.01527).

Expect 45.7 box AP and 42.9 mask AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 2 images:
    torchrun --nproc-per-node 8 tools/train.py configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco.py --launcher pytorch
"""
_base_ = ['mask2former_r50_8xb2-lsj-50e_coco-panoptic.py']

train_ann_file, val_ann_file = 'annotations/instances_train2017.json', 'annotations/instances_val2017.json'
model = dict(
    data_preprocessor=dict(
        pad_seg=False, batch_augments=[dict(type='BatchFixedSizePad', size=_base_.image_size[::-1], pad_mask=True)]),
    panoptic_head=dict(num_stuff_classes=0, loss_cls=dict(class_weight=[1.0] * _base_.num_things_classes + [0.1])),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=_base_.image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.image_size[::-1], crop_type='absolute', recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_base_.test_size, keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(dataset=dict(
    type='CocoDataset', data_prefix=dict(_delete_=True, img=_base_.train_images), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(
    type='CocoDataset', data_prefix=dict(_delete_=True, img=_base_.val_images), pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(
    type='CocoDataset', data_prefix=dict(_delete_=True, img=_base_.test_images), pipeline=test_pipeline))
val_evaluator = dict(_base_.val_evaluator[1], _delete_=True, ann_file=_base_.val_evaluator[0].ann_file)
test_evaluator = dict(_base_.test_evaluator[1], _delete_=True, ann_file=_base_.test_evaluator[0].ann_file)
