"""One small detector of each kind, images and samples for them. A family joins every test over all kinds by one entry here."""
from __future__ import annotations

import copy

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detkit.registry import MODELS
from detkit.structures import DetDataSample

SIZE = 64
PREPROCESSOR = dict(type='DetDataPreprocessor', mean=[120., 120., 120.], std=[60., 60., 60.])
BACKBONE = dict(type='ResNet', depth=18, base_channels=8)
NECK = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, start_level=1, add_extra_convs='on_input', num_outs=5)
DENSE_TEST = dict(nms_pre=200, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=0.5), max_per_img=20)
DETECTORS = dict(
    retinanet=dict(
        type='RetinaNet', data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK,
        bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16),
        train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)), test_cfg=DENSE_TEST),
    sabl=dict(
        type='RetinaNet', data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK,
        bbox_head=dict(
            type='SABLRetinaHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16,
            approx_anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
                                         strides=[8, 16, 32, 64, 128]),
            square_anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[4], strides=[8, 16, 32, 64, 128]),
            bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=14, scale_factor=3.0)),
        train_cfg=dict(assigner=dict(type='ApproxMaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)), test_cfg=DENSE_TEST),
    fcos=dict(
        type='FCOS', data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK,
        bbox_head=dict(type='FCOSHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16, strides=[8, 16, 32, 64, 128],
                       norm_cfg=dict(type='GN', num_groups=4), center_sampling=True), test_cfg=DENSE_TEST),
    gfl=dict(
        type='GFL', data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK,
        bbox_head=dict(type='GFLHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16,
                       norm_cfg=dict(type='GN', num_groups=4)),
        train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9)), test_cfg=DENSE_TEST),
    faster_rcnn=dict(
        type='FasterRCNN', data_preprocessor=PREPROCESSOR, backbone=BACKBONE,
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
        rpn_head=dict(type='RPNHead', in_channels=16, feat_channels=16, anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])),
        roi_head=dict(
            type='StandardRoIHead', bbox_roi_extractor=dict(
                type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=2), out_channels=16,
                featmap_strides=[4, 8, 16, 32]),
            bbox_head=dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=32, roi_feat_size=3, num_classes=3)),
        train_cfg=dict(
            rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
                     sampler=dict(type='RandomSampler', num=64, pos_fraction=0.5, add_gt_as_proposals=False)),
            rpn_proposal=dict(nms_pre=200, max_per_img=100, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, match_low_quality=False),
                      sampler=dict(type='RandomSampler', num=64, pos_fraction=0.25))),
        test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
                      rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20))),
    rtmdet=dict(
        type='RTMDet', data_preprocessor=PREPROCESSOR,
        backbone=dict(type='CSPNeXt', deepen_factor=0.167, widen_factor=0.25),
        neck=dict(type='CSPNeXtPAFPN', in_channels=[64, 128, 256], out_channels=16, num_csp_blocks=1),
        bbox_head=dict(type='RTMDetSepBNHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1, with_objectness=False),
        train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13)),
        test_cfg=dict(nms_pre=200, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=0.65), max_per_img=20)))


def small_config(name: str) -> dict:
    return copy.deepcopy(DETECTORS[name])


def small_detector(name: str, **changes: object) -> nn.Module:
    """With weights that depend on ``name`` alone, wide enough that scores and boxes differ from place to place."""
    torch.manual_seed(0)
    model = MODELS.build(small_config(name) | changes)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, a=1)
    for conv in getattr(getattr(model, 'bbox_head', None), 'rtm_reg', ()):
        nn.init.normal_(conv.weight, std=0.1)
        nn.init.constant_(conv.bias, 1.5)      # strides to every side: boxes that overlap objects
    return model.eval()


def make_sample(boxes: list, labels: list[int] | None = None, size: tuple[int, int] = (SIZE, SIZE), **metainfo: object) -> DetDataSample:
    labels = [i % 3 for i in range(len(boxes))] if labels is None else labels
    sample = DetDataSample(metainfo=dict(
        img_id=0, ori_shape=size, img_shape=size, pad_shape=size, scale_factor=(1., 1.), seed=0) | metainfo)
    sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                                       labels=torch.tensor(labels, dtype=torch.long))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return sample


def make_images(count: int, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(count)]


def make_batch(model: nn.Module, images: list[Tensor], samples: list[DetDataSample], training: bool = True) -> dict:
    return model.data_preprocessor(dict(inputs=images, data_samples=copy.deepcopy(samples)), training)
