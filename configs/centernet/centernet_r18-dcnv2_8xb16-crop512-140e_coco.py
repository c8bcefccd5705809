"""CenterNet, ResNet-18 with deformable convolutions in its neck, 140 epochs on COCO (https://arxiv.org/abs/1904.07850).

Expect 29.5 box AP on val2017 (MMDetection's model zoo), trained with 8 GPUs x 16 images:
    torchrun --nproc-per-node 8 tools/train.py configs/centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py --launcher pytorch
"""
_base_ = ['../_base_/datasets/coco_detection.py', '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']

num_classes = 80              # set from `classes`
image_size = (512, 512)       # (width, height) in pixels of the training crops; tests use whole images
batch_size = 16
num_workers = 4
max_epochs = 28               # each epoch is five passes over the data
warmup_iters = 1000
model = dict(
    type='CenterNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        type='ResNet', depth=18, norm_cfg=dict(type='BN'), norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(type='CTResNetNeck', in_channels=512, num_deconv_filters=(256, 128, 64), num_deconv_kernels=(4, 4, 4), use_dcn=True),
    bbox_head=dict(
        type='CenterNetHead', num_classes=num_classes, in_channels=64, feat_channels=64,
        loss_center_heatmap=dict(type='GaussianFocalLoss', loss_weight=1.0),
        loss_wh=dict(type='L1Loss', loss_weight=0.1),
        loss_offset=dict(type='L1Loss', loss_weight=1.0)),
    test_cfg=dict(topk=100, local_maximum_kernel=3, max_per_img=100))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PhotoMetricDistortion', brightness_delta=32, contrast_range=(0.5, 1.5), saturation_range=(0.5, 1.5), hue_delta=18),
    dict(type='RandomCenterCropPad', crop_size=image_size, ratios=(0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3),
         mean=[0, 0, 0], to_rgb=True, test_pad_mode=None),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
whole_image = dict(                              # canvas sides: the next multiple of 32
    type='RandomCenterCropPad', ratios=None, border=None, mean=[0, 0, 0], to_rgb=True,
    test_mode=True, test_pad_mode=['logical_or', 31], test_pad_add_pix=1)
test_pipeline = [
    dict(type='LoadImageFromFile', to_float32=True),
    whole_image,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'border'))]
train_dataloader = dict(dataset=dict(
    _delete_=True, type='RepeatDataset', times=5, dataset=dict(_base_.train_dataloader.dataset, pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
tta_pipeline = [
    dict(type='LoadImageFromFile', to_float32=True),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)],      # before padding, because the padding is not symmetric
        [whole_image],
        [dict(type='LoadAnnotations', with_bbox=True)],
        [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'flip', 'flip_direction', 'border'))]])]

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    _base_.param_scheduler[0], dict(_base_.param_scheduler[1], milestones=[round(max_epochs * 18 / 28), round(max_epochs * 24 / 28)])]
auto_scale_lr = dict(base_batch_size=128)
