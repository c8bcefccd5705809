"""ResNeXt (https://arxiv.org/abs/1611.05431), with MMDetection's names."""
from __future__ import annotations

from detkit.models.backbones.resnet import ResNet
from detkit.registry import MODELS, check_arguments


@MODELS.register_module()
class ResNeXt(ResNet):
    """ResNet whose 3x3 convolutions have ``groups`` of ``base_width`` channels in the first stage; the width doubles in each further
    stage."""

    def __init__(self, groups: int = 1, base_width: int = 4, **options: object) -> None:
        check_arguments(ResNet, options)
        super().__init__(groups=groups, base_width=base_width, **options)
