"""Detectors from detkit's recipes, one of each kind, and torchvision's detectors of the four kinds that it has.

Both have the same backbone weights, freeze the stem, the first stage and all batch statistics, have 80 classes, and get images at
their own size. The rest is each library's default: torchvision's RetinaNet computes P6 from P5, detkit's (as MMDetection's) from
C5; torchvision's RPN keeps 2000 proposals in training, detkit's 1000, and both sample 512 of them. FCOS has the stride in its 3x3
convolutions here, as in torchvision.
"""
from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from measure import ROOT
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detkit.config import load_config
from detkit.engine.amp import native_bf16
from detkit.models.backbones.resnet import ResNet
from detkit.registry import MODELS, register_all_modules

RECIPES = {
    'retinanet': 'retinanet/retinanet_r50_fpn_1x_coco.py', 'faster-rcnn': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask-rcnn': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'fcos': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'cascade-rcnn': 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'cascade-mask-rcnn': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'libra-rcnn': 'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py',
    'rpn': 'rpn/rpn_r50_fpn_1x_coco.py', 'sabl': 'sabl/sabl-retinanet_r50_fpn_1x_coco.py', 'tood': 'tood/tood_r50_fpn_1x_coco.py',
    'gfl': 'gfl/gfl_r50_fpn_1x_coco.py', 'centernet': 'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
    'centernet-update': 'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py', 'yolox-nano': 'yolox/yolox_nano_8xb8-300e_coco.py',
    'yolox-s': 'yolox/yolox_s_8xb8-300e_coco.py', 'rtmdet-tiny': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'rtmdet-ins-tiny': 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', 'detr': 'detr/detr_r50_8xb2-150e_coco.py',
    'deformable-detr': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', 'dino': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mask2former': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'mask2former-panoptic': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
    'mask-rcnn-swin-t': 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'retinanet-timm': 'timm_example/retinanet_timm-tv-resnet50_fpn_1x_coco.py'}
NUM_CLASSES = 80
VARIANTS = {'fp32': (False, False), 'channels_last': (False, True), 'bf16': (True, True)}      # (bfloat16, channels_last)
BOTH = 'retinanet', 'faster-rcnn', 'mask-rcnn', 'fcos'


def arguments(description: str, batch: int, repeats: int) -> argparse.ArgumentParser:
    """Return the parser with the arguments of all benchmarks of whole detectors; ``batch`` and ``repeats`` are defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='*', choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument('--size', nargs=2, type=int, default=(640, 512), metavar=('WIDTH', 'HEIGHT'),
                        help='of the images (default: 640 512)')
    parser.add_argument('--batch', type=int, default=batch, help=f'images at a time (default: {batch})')
    parser.add_argument('--repeats', type=int, default=repeats, help=f'timed rounds (default: {repeats})')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help="of torch (default: torch's own choice)")
    return parser


def network_arguments(description: str, batch: int, repeats: int) -> argparse.ArgumentParser:
    """Return the parser of ``arguments`` with further arguments that affect a network's time."""
    parser = arguments(description, batch, repeats)
    parser.add_argument('--warmup', type=int, default=1, help='rounds before the timed ones (default: 1)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--variants', nargs='+', choices=list(VARIANTS), default=[
        name for name, (bf16, _) in VARIANTS.items() if not bf16 or native_bf16()[0]],
        help='(default: all that the machine has arithmetic for)')
    return parser


def config_of(name: str) -> object:
    """Return detkit's recipe without pretrained weights and without batch padding or resizing: all models get images of one size."""
    cfg = load_config(ROOT / 'configs' / RECIPES[name])
    cfg.model.backbone.init_cfg, cfg.model.data_preprocessor.batch_augments = None, None
    if 'pretrained' in cfg.model.backbone:
        cfg.model.backbone.pretrained = False
    if name == 'fcos':
        cfg.model.backbone.style = 'pytorch'
    return cfg


def detkit_model(name: str) -> nn.Module:
    """Build a model with weights that depend only on ``name``; a ResNet's are scaled so that untrained features stay finite."""
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(config_of(name).model)
    model.init_weights()
    if isinstance(model.backbone, ResNet):
        for key, value in model.backbone.state_dict().items():
            if key.endswith('bn3.weight'):
                value.fill_(0.2)
    return model


def torchvision_model(name: str, size: tuple[int, int]) -> nn.Module:
    """Build torchvision's model. ``size``: (height, width) of the images, so that the model's own resizing has no effect."""
    options = dict(min_size=min(size), max_size=max(size))
    parts = dict(backbone_name='resnet50', weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3)
    if name in ('retinanet', 'fcos'):
        backbone = resnet_fpn_backbone(**parts, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
        return (RetinaNet if name == 'retinanet' else FCOS)(backbone, NUM_CLASSES, **options)
    return (MaskRCNN if name == 'mask-rcnn' else FasterRCNN)(resnet_fpn_backbone(**parts), NUM_CLASSES + 1, **options)


def models(name: str, size: tuple[int, int]) -> dict[str, nn.Module]:
    """Return ``detkit``'s model and, if it exists, ``torchvision``'s with the same ResNet weights."""
    ours = detkit_model(name)
    if name not in BOTH:
        return dict(detkit=ours)
    theirs = torchvision_model(name, size)
    unmatched = theirs.backbone.body.load_state_dict(ours.backbone.state_dict(), strict=False)
    if unmatched.missing_keys or [k for k in unmatched.unexpected_keys if not k.endswith('num_batches_tracked')]:
        raise RuntimeError(f'the two ResNets do not agree: {unmatched}')
    return dict(torchvision=theirs, detkit=ours)


def classifiers(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose scores are compared with a threshold; none for a model that takes the top k scores."""
    if hasattr(model, 'roi_heads'):                                     # torchvision
        return [model.roi_heads.box_predictor.cls_score]
    if hasattr(model, 'head'):
        return [model.head.classification_head.cls_logits]
    if hasattr(model, 'roi_head'):
        heads = model.roi_head.bbox_head
        return [head.fc_cls for head in (heads if isinstance(heads, nn.ModuleList) else [heads])]
    for key in ('retina_cls', 'conv_cls', 'gfl_cls', 'tood_cls', 'multi_level_conv_cls', 'rtm_cls'):
        layers = getattr(getattr(model, 'bbox_head', None), key, None)
        if layers is not None:
            return list(layers) if isinstance(layers, nn.ModuleList) else [layers]
    return []


def find_something(model: nn.Module, run: Callable[[], object]) -> None:
    """Set an untrained classifier so that scores are around the threshold of 0.05 and NMS has as much work as in a trained detector.

    One forward pass measures the spread of its outputs; weights and bias are then set so that about one score in a hundred passes.
    ``run`` runs the model on an image.
    """
    layers = classifiers(model)
    for layer in getattr(getattr(model, 'bbox_head', None), 'multi_level_conv_obj', ()):      # YOLOX multiplies class scores by objectness
        nn.init.constant_(layer.bias, 4.)
    seen: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    watches = [layer.register_forward_hook(lambda layer, args, output: seen[layer].append(output.detach().float().flatten()))
               for layer in layers]
    run()
    for watch in watches:
        watch.remove()
    for layer, outputs in seen.items():
        spread, bias = (0.7, 0.) if isinstance(layer, nn.Linear) else (1., math.log(0.05 / 0.95) - 2.33)   # softmax; sigmoid
        with torch.no_grad():
            layer.weight.mul_(spread / torch.cat(outputs).std())
            layer.bias.fill_(bias)
