"""One small detector of each kind, images and samples for them. A family joins every test over all kinds by one entry here."""
from __future__ import annotations

import copy

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from detkit.nn.deform_conv import DeformConv2d
from detkit.registry import MODELS
from detkit.structures import BitmapMasks, DetDataSample

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
    tood=dict(
        type='TOOD', data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK,
        bbox_head=dict(type='TOODHead', num_classes=3, in_channels=16, stacked_convs=2, feat_channels=16, num_dcn=1,
                       norm_cfg=dict(type='GN', num_groups=4)),
        train_cfg=dict(initial_epoch=0, initial_assigner=dict(type='ATSSAssigner', topk=9),
                       assigner=dict(type='TaskAlignedAssigner', topk=13)), test_cfg=DENSE_TEST),
    centernet=dict(
        type='CenterNet', data_preprocessor=PREPROCESSOR, backbone=BACKBONE,
        neck=dict(type='CTResNetNeck', in_channels=64, num_deconv_filters=(32, 16, 16), num_deconv_kernels=(4, 4, 4)),
        bbox_head=dict(type='CenterNetHead', num_classes=3, in_channels=16, feat_channels=16),
        test_cfg=dict(topk=20, local_maximum_kernel=3, max_per_img=20)),
    centernet_update=dict(
        type='CenterNet', data_preprocessor=PREPROCESSOR, backbone=BACKBONE, neck=NECK,
        bbox_head=dict(type='CenterNetUpdateHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16,
                       strides=[8, 16, 32, 64, 128], norm_cfg=dict(type='GN', num_groups=4)), test_cfg=DENSE_TEST),
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
        test_cfg=dict(nms_pre=200, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=0.65), max_per_img=20)),
    rtmdet_ins=dict(
        type='RTMDet', data_preprocessor=PREPROCESSOR,
        backbone=dict(type='CSPNeXt', deepen_factor=0.167, widen_factor=0.25),
        neck=dict(type='CSPNeXtPAFPN', in_channels=[64, 128, 256], out_channels=16, num_csp_blocks=1),
        bbox_head=dict(type='RTMDetInsSepBNHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1),
        train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13)),
        test_cfg=dict(nms_pre=200, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=0.65), max_per_img=20)),
    yolox=dict(
        type='YOLOX', data_preprocessor=PREPROCESSOR,
        backbone=dict(type='CSPDarknet', deepen_factor=0.1, widen_factor=0.125),
        neck=dict(type='YOLOXPAFPN', in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
        bbox_head=dict(type='YOLOXHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1, use_depthwise=True),
        train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
        test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65), max_per_img=20)))


def two_stage(kind: str, roi_head: dict, rcnn: dict | list[dict]) -> dict:
    """The Faster R-CNN above with other parts behind its proposals."""
    base = copy.deepcopy(DETECTORS['faster_rcnn'])
    return base | dict(type=kind, roi_head=base['roi_head'] | roi_head, train_cfg=base['train_cfg'] | dict(rcnn=rcnn))


MASKS = dict(
    mask_roi_extractor=dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=4, sampling_ratio=2), out_channels=16,
                            featmap_strides=[4, 8, 16, 32]),
    mask_head=dict(type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=8, num_classes=3))
RCNN = dict(DETECTORS['faster_rcnn']['train_cfg']['rcnn'], mask_size=8)
STAGES = [dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=32, roi_feat_size=3, num_classes=3, reg_class_agnostic=agnostic)
          for agnostic in (True, False)]
DETECTORS.update(
    rpn={key: value for key, value in DETECTORS['faster_rcnn'].items() if key != 'roi_head'} | dict(
        type='RPN', train_cfg=dict(rpn=DETECTORS['faster_rcnn']['train_cfg']['rpn']),
        test_cfg=dict(rpn=DETECTORS['faster_rcnn']['test_cfg']['rpn'])),
    mask_rcnn=two_stage('MaskRCNN', MASKS, RCNN),
    cascade_rcnn=two_stage('CascadeRCNN', dict(MASKS, type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5], bbox_head=STAGES),
                           [RCNN, RCNN]),
    swin=two_stage('MaskRCNN', MASKS, RCNN) | dict(backbone=dict(
        type='SwinTransformer', embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=3, drop_path_rate=0.)),
    timm=DETECTORS['retinanet'] | dict(
        backbone=dict(type='TIMMBackbone', model_name='test_resnet', features_only=True, out_indices=(2, 3, 4)),
        neck=dict(NECK, in_channels=[48, 192, 96], start_level=0)))


def queries(kind: str, levels: int, plain_encoder: bool, costs: list[dict], cross: dict | None = None,
            own: dict | None = None, **more: object) -> dict:
    """A detection transformer of two layers, 20 queries and 32 channels."""
    attention, ffn = dict(embed_dims=32, num_heads=4, dropout=0.1), dict(embed_dims=32, feedforward_channels=64, ffn_drop=0.1)
    deformable = dict(embed_dims=32, num_heads=4, num_points=2, num_levels=levels)
    return dict(
        type=kind, data_preprocessor=PREPROCESSOR, num_queries=20,
        backbone=dict(BACKBONE, out_indices=(3,) if levels == 1 else (1, 2, 3)),
        neck=dict(type='ChannelMapper', in_channels=[64] if levels == 1 else [16, 32, 64], kernel_size=1, out_channels=32, act_cfg=None,
                  norm_cfg=dict(type='GN', num_groups=4), num_outs=levels),
        encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention if plain_encoder else deformable, ffn_cfg=ffn)),
        decoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=own or attention, cross_attn_cfg=cross or deformable, ffn_cfg=ffn)),
        positional_encoding=dict(num_feats=16, normalize=True),
        bbox_head=dict(type=f'{kind}Head', num_classes=3, embed_dims=32),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=costs + [
            dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'), dict(type='IoUCost', iou_mode='giou', weight=2.0)])),
        test_cfg=dict(max_per_img=20)) | more


FOCAL_COST = [dict(type='FocalLossCost', weight=2.0)]
DETECTORS.update(
    detr=queries('DETR', 1, True, [dict(type='ClassificationCost')], cross=dict(embed_dims=32, num_heads=4, dropout=0.1)),
    conditional_detr=queries('ConditionalDETR', 1, True, FOCAL_COST, own=dict(embed_dims=32, num_heads=4),
                             cross=dict(embed_dims=32, num_heads=4, cross_attn=True)),
    deformable_detr_plain=queries('DeformableDETR', 4, False, FOCAL_COST),
    deformable_detr=queries('DeformableDETR', 4, False, FOCAL_COST, with_box_refine=True, as_two_stage=True),
    dino=queries('DINO', 4, False, FOCAL_COST, dn_cfg=dict(group_cfg=dict(num_dn_queries=10))))


def mask_queries(num_things: int, num_stuff: int, **test_cfg: object) -> dict:
    classes = dict(num_things_classes=num_things, num_stuff_classes=num_stuff)
    attention = dict(embed_dims=16, num_heads=2, dropout=0.0)
    ffn = dict(embed_dims=16, feedforward_channels=32)
    return dict(
        type='Mask2Former', data_preprocessor=PREPROCESSOR, backbone=BACKBONE,
        panoptic_head=dict(
            type='Mask2FormerHead', in_channels=[8, 16, 32, 64], feat_channels=16, out_channels=16, num_queries=12, **classes,
            pixel_decoder=dict(
                type='MSDeformAttnPixelDecoder', norm_cfg=dict(type='GN', num_groups=4),
                positional_encoding=dict(num_feats=8, normalize=True),
                encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=dict(**attention, num_levels=3, num_points=2), ffn_cfg=ffn))),
            positional_encoding=dict(num_feats=8, normalize=True),
            transformer_decoder=dict(num_layers=3, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn))),
        panoptic_fusion_head=dict(type='MaskFormerFusionHead', **classes),
        train_cfg=dict(num_points=64, assigner=dict(type='HungarianAssigner', match_costs=[
            dict(type='ClassificationCost', weight=2.0), dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
            dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0)]), sampler=dict(type='MaskPseudoSampler')),
        test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=20) | test_cfg)


def maskformer() -> dict:
    cfg = mask_queries(3, 1, panoptic_on=True, object_mask_thr=0.3)
    attention, ffn = dict(embed_dims=16, num_heads=2), dict(embed_dims=16, feedforward_channels=32)
    pixel_decoder = dict(
        type='TransformerEncoderPixelDecoder', norm_cfg=dict(type='GN', num_groups=4),
        positional_encoding=dict(num_feats=8, normalize=True),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)))
    return cfg | dict(
        type='MaskFormer', panoptic_head=cfg['panoptic_head'] | dict(type='MaskFormerHead', pixel_decoder=pixel_decoder),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=[
            dict(type='ClassificationCost', weight=1.0), dict(type='FocalLossCost', weight=20.0, binary_input=True),
            dict(type='DiceCost', weight=1.0, pred_act=True, eps=1.0)])))


DETECTORS.update(
    maskformer=maskformer(), mask2former=mask_queries(3, 0),
    mask2former_panoptic=mask_queries(3, 1, panoptic_on=True, object_mask_thr=0.3, filter_low_score=True))


def small_config(name: str) -> dict:
    return copy.deepcopy(DETECTORS[name])


def small_detector(name: str, **changes: object) -> nn.Module:
    """With weights that depend on ``name`` alone, wide enough that scores and boxes differ from place to place."""
    torch.manual_seed(0)
    model = MODELS.build(small_config(name) | changes)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, DeformConv2d)):
            nn.init.kaiming_uniform_(module.weight, a=1)
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            module.conv_offset.weight.data *= 0.1      # about a pixel: further away the noise of one layer is the next one's
    # boxes that overlap objects: 1.5 strides to every side, or as a logarithm; masks that are no step functions
    for layers, bias in dict(rtm_reg=1.5, multi_level_conv_reg=1., rtm_kernel=0.).items():
        for conv in getattr(getattr(model, 'bbox_head', None), layers, ()):
            nn.init.normal_(conv.weight, std=0.02)
            nn.init.constant_(conv.bias, bias)
    for conv in model.bbox_head.rtm_cls if name == 'rtmdet_ins' else ():
        conv.weight.data.mul_(0.05)            # scores below one, in which no two are equal
    for conv in getattr(getattr(model, 'bbox_head', None), 'wh_head', ())[2:]:
        nn.init.constant_(conv.bias, 4.)       # cells
    if name == 'centernet' or any(isinstance(module, nn.SiLU) for module in model.modules()):
        take_statistics(model)                 # these networks pass little on with those that they start with
    return model.eval()


def take_statistics(model: nn.Module) -> None:
    """Let the batch norms normalise, as they do after training: here to pictures of noise, fine and coarse."""
    norms = {m: m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms:
        norm.momentum = 1.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        fine, coarse = torch.randn(16, 3, 128, 128, generator=generator), torch.randn(16, 3, 8, 8, generator=generator)
        model.train().network(fine + coarse.repeat_interleave(16, 2).repeat_interleave(16, 3))
    for norm, momentum in norms.items():
        norm.momentum = momentum


def make_sample(boxes: list, labels: list[int] | None = None, size: tuple[int, int] = (SIZE, SIZE), **metainfo: object) -> DetDataSample:
    labels = [i % 3 for i in range(len(boxes))] if labels is None else labels
    sample = DetDataSample(metainfo=dict(
        img_id=0, ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1., 1.), seed=0) | metainfo)
    sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                                       labels=torch.tensor(labels, dtype=torch.long))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, sample.gt_instances.bboxes.round().int().tolist()):
        mask[y1:y2, x1:x2] = 1
    sample.gt_instances.masks = BitmapMasks(masks, *size)
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(np.where(masks.any(0), 255, 3).astype(np.uint8))[None])   # 3: stuff
    return sample


def make_images(count: int, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(count)]


def make_batch(model: nn.Module, images: list[Tensor], samples: list[DetDataSample], training: bool = True) -> dict:
    return model.data_preprocessor(dict(inputs=images, data_samples=copy.deepcopy(samples)), training)
