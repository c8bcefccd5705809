"""The same two detectors twice: detkit's from its recipes, torchvision's own, with the same backbone weights and frozen parts.

Both freeze the stem and the first stage and all batch statistics, classify 80 things, and see images at their own size. The rest
is each library's default: torchvision's RetinaNet takes P6 from P5 and detkit's (as MMDetection's) from C5; torchvision's RPN
keeps 2000 proposals in training and detkit's 1000, of which both sample 512.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from measure import ROOT
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detkit.config import load_config
from detkit.registry import MODELS, register_all_modules

RECIPES = {'retinanet': 'retinanet/retinanet_r50_fpn_1x_coco.py', 'faster-rcnn': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'}
NUM_CLASSES = 80


def config_of(name: str) -> object:
    """detkit's recipe without pre-trained weights."""
    cfg = load_config(ROOT / 'configs' / RECIPES[name])
    cfg.model.backbone.init_cfg = None
    return cfg


def detkit_model(name: str) -> nn.Module:
    register_all_modules()
    model = MODELS.build(config_of(name).model)
    model.init_weights()
    return model


def torchvision_model(name: str, size: tuple[int, int]) -> nn.Module:
    """``size``: (height, width) of the images; torchvision resizes inside the model, and with this it has nothing to do."""
    options = dict(min_size=min(size), max_size=max(size))
    parts = dict(backbone_name='resnet50', weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3)
    if name == 'retinanet':
        backbone = resnet_fpn_backbone(**parts, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
        return RetinaNet(backbone, NUM_CLASSES, **options)
    return FasterRCNN(resnet_fpn_backbone(**parts), NUM_CLASSES + 1, **options)


def pair(name: str, size: tuple[int, int]) -> tuple[nn.Module, nn.Module]:
    """(detkit's, torchvision's), with one ResNet's weights, scaled so that an untrained net's features stay finite."""
    torch.manual_seed(0)
    ours, theirs = detkit_model(name), torchvision_model(name, size)
    body = theirs.backbone.body.state_dict()
    for key, value in body.items():
        if key.endswith('bn3.weight'):
            value.fill_(0.2)
    unmatched = ours.backbone.load_state_dict(body, strict=False)
    if unmatched.unexpected_keys or [k for k in unmatched.missing_keys if not k.endswith('num_batches_tracked')]:
        raise RuntimeError(f'the two ResNets do not agree: {unmatched}')
    return ours, theirs


def find_something(model: nn.Module, name: str, run: Callable[[], object]) -> None:
    """Give an untrained classifier scores around the threshold of 0.05, so that NMS has as much to do as in a trained detector.

    One pass measures how widely its outputs spread; weights and bias are then set so that about one score in a hundred passes.
    ``run`` takes the model through an image.
    """
    if name == 'retinanet':
        layer = model.bbox_head.retina_cls if hasattr(model, 'bbox_head') else model.head.classification_head.cls_logits
        spread, bias = 1., math.log(0.05 / 0.95) - 2.33
    else:
        layer = model.roi_head.bbox_head.fc_cls if hasattr(model, 'roi_head') else model.roi_heads.box_predictor.cls_score
        spread, bias = 0.7, 0.
    seen: list[torch.Tensor] = []
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    watch = layer.register_forward_hook(lambda module, args, output: seen.append(output.detach().float().flatten()))
    run()
    watch.remove()
    with torch.no_grad():
        layer.weight.mul_(spread / torch.cat(seen).std())
        layer.bias.fill_(bias)
