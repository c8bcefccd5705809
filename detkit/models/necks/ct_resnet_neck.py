"""CenterNet's neck on a ResNet (https://arxiv.org/abs/1904.07850, Sec. 5 and Appendix A)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from detkit.nn.conv import ConvModule
from detkit.nn.deform_conv import DeformConv2d
from detkit.registry import MODELS, ConfigError


@MODELS.register_module()
class CTResNetNeck(BaseModule):
    """Apply to the backbone's last map, several times, a 3x3 convolution (``use_dcn``: deformable) and a transposed convolution that
    doubles the resolution.

    ``num_deconv_filters``, ``num_deconv_kernels``: channels and kernel sizes of the transposed convolutions; only a kernel size of 4
    doubles the resolution.
    """

    def __init__(self, in_channels: int, num_deconv_filters: Sequence[int], num_deconv_kernels: Sequence[int], use_dcn: bool = True,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if len(num_deconv_filters) != len(num_deconv_kernels) or set(num_deconv_kernels) - {4}:
            raise ConfigError(f'CTResNetNeck needs a kernel size of 4 for each of num_deconv_filters={tuple(num_deconv_filters)}, '
                              f'not num_deconv_kernels={tuple(num_deconv_kernels)}.')
        layers = []
        for channels in num_deconv_filters:
            layers += [ConvModule(in_channels, channels, 3, padding=1, conv_cfg=dict(type='DCNv2') if use_dcn else None,
                                  norm_cfg=dict(type='BN')),
                       ConvModule(channels, channels, 4, stride=2, padding=1, conv_cfg=dict(type='deconv'), norm_cfg=dict(type='BN'))]
            in_channels = channels
        self.deconv_layers = nn.Sequential(*layers)

    def init_weights(self) -> None:
        super().init_weights()
        for module in self.deconv_layers:
            if not isinstance(module.conv, DeformConv2d):
                module.conv.reset_parameters()
            if isinstance(module.conv, nn.ConvTranspose2d):
                module.conv.weight.data[:, 0] = bilinear_kernel(4)      # only output channel 0, as in the official code

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Return one map: the last of ``feats``, upsampled by ``2**len(num_deconv_filters)``."""
        return (self.deconv_layers(feats[-1]),)


def bilinear_kernel(size: int) -> Tensor:
    """Return the weights (size, size) of a transposed convolution that upsamples bilinearly by 2."""
    half = (size + 1) // 2
    share = 1 - (torch.arange(size) / half - (2 * half - 1 - half % 2) / (2 * half)).abs()
    return share[:, None] * share
