"""The module of each registered name: registry -> module -> names. One line per module.

A class with several names (``SingleStageDetector`` is also ``RetinaNet``) has all of them in its line and reads them from here
(``names_in``), so a head with its own detector name is added only in this file. A test compares the table with the
``register_module`` decorators.
"""

CATALOGUE: dict[str, dict[str, str]] = {
    'model': {
        'detkit.losses.classification': 'CrossEntropyLoss FocalLoss QualityFocalLoss DistributionFocalLoss',
        'detkit.losses.dice': 'DiceLoss',
        'detkit.losses.regression': 'L1Loss SmoothL1Loss MSELoss BalancedL1Loss IoULoss GIoULoss DIoULoss CIoULoss BoundedIoULoss',
        'detkit.losses.gaussian_focal': 'GaussianFocalLoss',
        'detkit.models.preprocess': 'DetDataPreprocessor BatchFixedSizePad BatchSyncRandomResize BatchResize',
        'detkit.models.backbones.resnet': 'ResNet ResNetV1d',
        'detkit.models.backbones.resnext': 'ResNeXt',
        'detkit.models.backbones.csp_next': 'CSPNeXt',
        'detkit.models.backbones.swin': 'SwinTransformer',
        'detkit.models.backbones.timm_backbone': 'TIMMBackbone',
        'detkit.models.backbones.csp_darknet': 'CSPDarknet',
        'detkit.models.necks.fpn': 'FPN',
        'detkit.models.necks.ct_resnet_neck': 'CTResNetNeck',
        'detkit.models.necks.bfp': 'BFP',
        'detkit.models.necks.channel_mapper': 'ChannelMapper',
        'detkit.models.necks.csp_next_pafpn': 'CSPNeXtPAFPN',
        'detkit.models.necks.yolox_pafpn': 'YOLOXPAFPN',
        'detkit.nn.context_block': 'ContextBlock',
        'detkit.nn.positional': 'SinePositionalEncoding LearnedPositionalEncoding',
        'detkit.models.dense_heads.retina_head': 'RetinaHead',
        'detkit.models.dense_heads.fcos_head': 'FCOSHead',
        'detkit.models.dense_heads.gfl_head': 'GFLHead',
        'detkit.models.dense_heads.tood_head': 'TOODHead',
        'detkit.models.dense_heads.centernet_head': 'CenterNetHead',
        'detkit.models.dense_heads.centernet_update_head': 'CenterNetUpdateHead',
        'detkit.models.dense_heads.rpn_head': 'RPNHead',
        'detkit.models.dense_heads.sabl_retina_head': 'SABLRetinaHead',
        'detkit.models.dense_heads.rtmdet_head': 'RTMDetSepBNHead',
        'detkit.models.dense_heads.rtmdet_ins_head': 'RTMDetInsSepBNHead',
        'detkit.models.dense_heads.yolox_head': 'YOLOXHead',
        'detkit.models.roi_heads.roi_extractor': 'SingleRoIExtractor',
        'detkit.models.roi_heads.bbox_head': 'BBoxHead ConvFCBBoxHead Shared2FCBBoxHead Shared4Conv1FCBBoxHead',
        'detkit.models.roi_heads.cascade_roi_head': 'CascadeRoIHead',
        'detkit.models.roi_heads.fcn_mask_head': 'FCNMaskHead',
        'detkit.models.roi_heads.res_layer': 'ResLayer',
        'detkit.models.roi_heads.standard_roi_head': 'StandardRoIHead',
        'detkit.models.query_heads.pixel_decoder': 'MSDeformAttnPixelDecoder',
        'detkit.models.query_heads.fpn_pixel_decoder': 'PixelDecoder TransformerEncoderPixelDecoder',
        'detkit.models.query_heads.mask2former_head': 'Mask2FormerHead',
        'detkit.models.query_heads.maskformer_head': 'MaskFormerHead',
        'detkit.models.query_heads.mask_fusion': 'MaskFormerFusionHead',
        'detkit.models.detectors.maskformer': 'MaskFormer Mask2Former',
        'detkit.models.detectors.single_stage': 'SingleStageDetector RetinaNet RTMDet FCOS GFL TOOD CenterNet YOLOX',
        'detkit.models.query_heads.detr_head': 'DETRHead ConditionalDETRHead',
        'detkit.models.query_heads.deformable_detr_head': 'DeformableDETRHead DINOHead',
        'detkit.models.detectors.detr': 'DETR',
        'detkit.models.detectors.conditional_detr': 'ConditionalDETR',
        'detkit.models.detectors.deformable_detr': 'DeformableDETR',
        'detkit.models.detectors.dino': 'DINO',
        'detkit.models.detectors.rpn': 'RPN',
        'detkit.models.detectors.tta': 'DetTTAModel',
        'detkit.models.detectors.two_stage': 'TwoStageDetector FasterRCNN MaskRCNN CascadeRCNN',
        'detkit.engine.hooks.ema': 'ExpMomentumEMA',
    },
    'task util': {
        'detkit.tasks.priors': 'AnchorGenerator MlvlPointGenerator',
        'detkit.tasks.coders': 'DeltaXYWHBBoxCoder DistancePointBBoxCoder BucketingBBoxCoder',
        'detkit.tasks.assigners': 'MaxIoUAssigner ApproxMaxIoUAssigner',
        'detkit.tasks.atss': 'ATSSAssigner',
        'detkit.tasks.task_aligned': 'TaskAlignedAssigner',
        'detkit.tasks.dynamic_soft_label': 'DynamicSoftLabelAssigner',
        'detkit.tasks.sim_ota': 'SimOTAAssigner',
        'detkit.tasks.samplers': ('PseudoSampler MaskPseudoSampler RandomSampler InstanceBalancedPosSampler IoUBalancedNegSampler '
                                  'CombinedSampler'),
        'detkit.tasks.overlaps': 'BboxOverlaps2D',
        'detkit.tasks.hungarian': 'HungarianAssigner',
        'detkit.tasks.costs': ('ClassificationCost FocalLossCost BinaryFocalLossCost BBoxL1Cost IoUCost DiceCost '
                               'CrossEntropyLossCost'),
    },
    'dataset': {
        'detkit.data.datasets.coco': ('CocoDataset LVISDataset LVISV1Dataset LVISV05Dataset Objects365V1Dataset Objects365V2Dataset '
                                      'CityscapesDataset DeepFashionDataset'),
        'detkit.data.datasets.panoptic': 'CocoPanopticDataset',
        'detkit.data.datasets.voc': 'XMLDataset VOCDataset WIDERFaceDataset',
        'detkit.data.datasets.tables': 'YOLODataset CSVDataset OpenImagesDataset CrowdHumanDataset',
        'detkit.data.datasets.wrappers': 'ConcatDataset RepeatDataset ClassBalancedDataset MultiImageMixDataset',
    },
    'data sampler': {
        'detkit.data.samplers': 'AspectRatioBatchSampler InfiniteSampler ClassAwareSampler MultiSourceSampler GroupMultiSourceSampler',
    },
    'transform': {
        'detkit.data.transforms.loading': 'LoadImageFromFile LoadImageFromNDArray LoadAnnotations LoadEmptyAnnotations',
        'detkit.data.transforms.panoptic': 'LoadPanopticAnnotations',
        'detkit.data.transforms.dicom': 'LoadDICOM',
        'detkit.data.transforms.geometry': 'Resize FixScaleResize ResizeShortestEdge RandomResize RandomChoiceResize RandomFlip Pad',
        'detkit.data.transforms.crop': 'RandomCrop MinIoURandomCrop FilterAnnotations',
        'detkit.data.transforms.zoom': 'Expand RandomCenterCropPad',
        'detkit.data.transforms.affine': 'RandomAffine RandomShift ShearX ShearY Rotate TranslateX TranslateY',
        'detkit.data.transforms.colour': 'YOLOXHSVRandomAug PhotoMetricDistortion',
        'detkit.data.transforms.colour_ops': ('ColorTransform Color Brightness Contrast Sharpness Solarize SolarizeAdd Posterize Equalize '
                                              'AutoContrast Invert'),
        'detkit.data.transforms.auto_augment': 'AutoAugment RandAugment',
        'detkit.data.transforms.erase': 'CutOut RandomErasing',
        'detkit.data.transforms.albu': 'Albu',
        'detkit.data.transforms.corrupt': 'Corrupt',
        'detkit.data.transforms.mix': 'Mosaic CachedMosaic MixUp CachedMixUp',
        'detkit.data.transforms.paste': 'CopyPaste',
        'detkit.data.transforms.choose': 'RandomChoice RandomApply RandomOrder MultiBranch TestTimeAug',
        'detkit.data.transforms.formatting': 'PackDetInputs',
    },
    'metric': {
        'detkit.evaluation.dump': 'DumpDetResults',
        'detkit.evaluation.coco_metric': 'CocoMetric',
        'detkit.evaluation.panoptic_metric': 'CocoPanopticMetric',
    },
    'visualizer': {
        'detkit.visualization.visualizer': 'DetLocalVisualizer',
    },
    'inferencer': {
        'detkit.inference.inferencer': 'DetInferencer',
    },
    'hook': {
        'detkit.engine.hooks.checkpoint': 'CheckpointHook',
        'detkit.engine.hooks.checks': 'NumClassCheckHook CheckInvalidLossHook',
        'detkit.engine.hooks.early_stopping': 'EarlyStoppingHook',
        'detkit.engine.hooks.ema': 'EMAHook',
        'detkit.engine.hooks.pipeline_switch': 'PipelineSwitchHook',
        'detkit.engine.hooks.replay': 'ReplayHook SetEpochInfoHook',
        'detkit.engine.hooks.visualization': 'DetVisualizationHook',
        'detkit.engine.hooks.yolox': 'SyncNormHook YOLOXModeSwitchHook',
        'detkit.engine.log': 'ProgressHook',
    },
    'loop': {
        'detkit.engine.loops': 'EpochBasedTrainLoop IterBasedTrainLoop ValLoop',
    },
    'runner': {
        'detkit.engine.runner': 'DetRunner',
    },
    'log_processor': {
        'detkit.engine.log': 'LogProcessor',
    },
    'optim_wrapper': {
        'detkit.engine.amp': 'AmpOptimWrapper',
    },
    'optimizer constructor': {
        'detkit.engine.optim': 'DefaultOptimWrapperConstructor',
    },
    'parameter scheduler': {
        'detkit.engine.schedule': 'QuadraticWarmupParamScheduler QuadraticWarmupLR QuadraticWarmupMomentum',
    },
}


def names_in(registry: str, module: str) -> list[str]:
    """Return the names that ``module`` registers in ``registry``, for a class that has all of them."""
    return CATALOGUE[registry][module].split()
