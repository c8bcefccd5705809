"""The pixel decoder of Mask2Former: from backbone maps to mask features and the memory of the queries."""
from __future__ import annotations

import torch.nn as nn
from mmengine.model import BaseModule, caffe2_xavier_init
from torch import Tensor

from detkit.argument_values import value_fault
from detkit.nn.conv import ConvModule
from detkit.nn.ms_deform_attn import MultiScaleDeformableAttention
from detkit.nn.operators import Add, Resize
from detkit.nn.positional import build_encoding
from detkit.nn.tokens import flatten_levels
from detkit.nn.transformer import Encoder
from detkit.registry import MODELS, ConfigError

GN = dict(type='GN', num_groups=32)
SINE = dict(num_feats=128, normalize=True)


@MODELS.register_module()
class MSDeformAttnPixelDecoder(BaseModule):
    """Deformable attention over the coarse maps, then an FPN to the finest map (Mask2Former, https://arxiv.org/abs/2112.01527, Sec. 3.2).

    Args:
        in_channels: channels of the backbone's maps, fine to coarse.
        strides: one stride per map; only their number is checked, because attention uses normalised coordinates.
        num_outs: number of coarse maps that the queries attend to.
        encoder: ``self_attn_cfg.num_levels`` is the number of maps, counted from the coarsest, that the encoder processes.
    """

    def __init__(self, encoder: dict, in_channels: list[int] = [256, 512, 1024, 2048], strides: list[int] = [4, 8, 16, 32],
                 feat_channels: int = 256, out_channels: int = 256, num_outs: int = 3, norm_cfg: dict | None = GN,
                 act_cfg: dict | None = dict(type='ReLU'), positional_encoding: dict = SINE, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        attention = encoder.get('layer_cfg', {}).get('self_attn_cfg', {})
        levels = attention.get('num_levels', 4)
        fault = value_fault(levels, int, 'num_levels')
        if fault:
            raise ConfigError(str(fault), attention, ('num_levels',))
        if len(strides) != len(in_channels) or not 1 <= levels <= len(in_channels) or not 1 <= num_outs <= len(in_channels):
            raise ConfigError(f'MSDeformAttnPixelDecoder in_channels={list(in_channels)} are {len(in_channels)} maps: strides='
                              f'{list(strides)} must be as many, num_levels={levels} and num_outs={num_outs} at most.')
        self.num_outs = num_outs
        self.input_convs = nn.ModuleList(ConvModule(c, feat_channels, 1, bias=True, norm_cfg=norm_cfg, act_cfg=None)
                                         for c in in_channels[::-1][:levels])
        self.encoder = MODELS.build(encoder, type=Encoder, attention=MultiScaleDeformableAttention)
        self.positional_encoding = build_encoding(positional_encoding, feat_channels)
        self.level_encoding = nn.Embedding(levels, feat_channels)
        self.lateral_convs, self.output_convs = fpn_convs(in_channels[::-1][levels:], feat_channels, norm_cfg, act_cfg)
        self.upsamples = nn.ModuleList(Resize(mode='bilinear', align_corners=False) for _ in self.lateral_convs)
        self.adds = nn.ModuleList(Add() for _ in self.lateral_convs)
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 1)
        for module in (*(m.conv for m in (*self.lateral_convs, *self.output_convs)), self.mask_feature):
            caffe2_xavier_init(module)
        for module in self.input_convs:
            nn.init.xavier_uniform_(module.conv.weight)
        xavier_normal(self.encoder)

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Return the mask features (N, C, h_0, w_0) and ``num_outs`` maps (N, C, h, w), coarse to fine, from maps (N, C_l, h_l, w_l), fine
        to coarse."""
        coarse = feats[::-1]
        inputs = [conv(x) for conv, x in zip(self.input_convs, coarse)]
        tokens = flatten_levels(inputs, self.positional_encoding, self.level_encoding.weight)
        memory = self.encoder(tokens.feats, tokens.pos, references=tokens.references(), shapes=tokens.shapes)
        parts = memory.split([h * w for h, w in tokens.shapes], 1)
        outs = [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, tokens.shapes)]
        for lateral, upsample, add, output, x in zip(self.lateral_convs, self.upsamples, self.adds, self.output_convs, coarse[len(outs):]):
            outs.append(output(add(lateral(x), upsample(outs[-1], x.shape[-2:]))))
        return self.mask_feature(outs[-1]), outs[:self.num_outs]


def fpn_convs(in_channels: list[int], channels: int, norm_cfg: dict | None, act_cfg: dict | None) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return the lateral and output convolutions of an FPN, one of each per map."""
    return (nn.ModuleList(ConvModule(c, channels, 1, norm_cfg=norm_cfg, act_cfg=None) for c in in_channels),
            nn.ModuleList(ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg) for _ in in_channels))


def xavier_normal(stack: nn.Module) -> None:
    """Initialise every matrix as Mask2Former does, except in deformable attention, which has its own initialisation."""
    for parameter in stack.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
    for module in stack.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            module.reset_parameters()
