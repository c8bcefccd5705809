"""COCO with DETR's augmentation: short sides of 480 to 800 pixels; half of the images are crops of a resized image (DETR, Sec. 4)."""
_base_ = './coco_detection.py'

long, short = _base_.image_size
sizes = [(short * part // 25, long) for part in range(15, 26)]                # short sides of 480, 512, ..., 800 pixels
sizes_before_crop = [(short * part // 8, 4200) for part in (4, 5, 6)]         # 400, 500 and 600 pixels; no limit for the long side
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[
        [dict(type='RandomChoiceResize', scales=sizes, keep_ratio=True)],
        [dict(type='RandomChoiceResize', scales=sizes_before_crop, keep_ratio=True),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size=(short * 12 // 25, short * 3 // 4), allow_negative_crop=True),
         dict(type='RandomChoiceResize', scales=sizes, keep_ratio=True)]]),
    dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
