"""The pixel decoders of MaskFormer (https://arxiv.org/abs/2107.06278, Sec. 4.1): an FPN, with or without a transformer encoder."""
from __future__ import annotations

import torch.nn as nn
from mmengine.model import BaseModule, caffe2_xavier_init
from torch import Tensor

from detkit.models.query_heads.pixel_decoder import GN, SINE, fpn_convs
from detkit.nn.attention import MultiheadAttention
from detkit.nn.conv import ConvModule
from detkit.nn.operators import Add, Resize
from detkit.nn.positional import build_encoding
from detkit.nn.tokens import flatten_levels
from detkit.nn.transformer import Encoder
from detkit.registry import MODELS, ConfigError


@MODELS.register_module()
class PixelDecoder(BaseModule):
    """An FPN from the coarsest to the finest map; queries attend to the backbone's coarsest map."""

    def __init__(self, in_channels: list[int], feat_channels: int, out_channels: int, norm_cfg: dict | None = GN,
                 act_cfg: dict | None = dict(type='ReLU'), init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.memory_channels = in_channels[-1]
        add_fpn(self, in_channels[:-1], feat_channels, norm_cfg, act_cfg)
        self.last_feat_conv = ConvModule(in_channels[-1], feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 3, padding=1)
        initialise(self, self.mask_feature, self.last_feat_conv.conv)

    def forward(self, feats: tuple[Tensor, ...], sizes: Tensor | None, input_size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """Return the mask features (N, C, h_0, w_0) and the memory of the queries, from maps (N, C_l, h_l, w_l), fine to coarse. Image
        sizes are not used."""
        return upwards(self, self.last_feat_conv(feats[-1]), feats), feats[-1]


@MODELS.register_module()
class TransformerEncoderPixelDecoder(BaseModule):
    """An FPN on top of a transformer encoder for the coarsest map; queries attend to the encoder's output."""

    def __init__(self, in_channels: list[int], feat_channels: int, out_channels: int, encoder: dict, norm_cfg: dict | None = GN,
                 act_cfg: dict | None = dict(type='ReLU'), positional_encoding: dict = SINE, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.memory_channels = feat_channels
        add_fpn(self, in_channels[:-1], feat_channels, norm_cfg, act_cfg)
        self.encoder = MODELS.build(encoder, type=Encoder, attention=MultiheadAttention)
        if self.encoder.embed_dims != feat_channels:
            raise ConfigError(f'embed_dims={self.encoder.embed_dims} of the encoder and feat_channels={feat_channels} must agree.')
        self.positional_encoding = build_encoding(positional_encoding, feat_channels)
        self.encoder_in_proj = nn.Conv2d(in_channels[-1], feat_channels, 1)
        self.encoder_out_proj = ConvModule(feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 3, padding=1)
        initialise(self, self.mask_feature, self.encoder_in_proj, self.encoder_out_proj.conv)

    def forward(self, feats: tuple[Tensor, ...], sizes: Tensor | None, input_size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """Return the same as PixelDecoder. ``sizes`` (N, 2): height and width of each image in a batch padded to ``input_size``; None: no
        padding."""
        tokens = flatten_levels((self.encoder_in_proj(feats[-1]),), self.positional_encoding, None, sizes, input_size)
        visible = None if tokens.padding is None else ~tokens.padding[:, None, None]
        memory = self.encoder(tokens.feats, tokens.pos, visible=visible).transpose(1, 2).unflatten(2, tokens.shapes[0])
        return upwards(self, self.encoder_out_proj(memory), feats), memory


def add_fpn(decoder: nn.Module, in_channels: list[int], channels: int, norm_cfg: dict | None, act_cfg: dict | None) -> None:
    """Add the layers that ``upwards`` uses to ``decoder``, one of each for every map except the coarsest."""
    decoder.lateral_convs, decoder.output_convs = fpn_convs(in_channels, channels, norm_cfg, act_cfg)
    decoder.upsamples = nn.ModuleList(Resize(mode='nearest') for _ in in_channels)
    decoder.adds = nn.ModuleList(Add() for _ in in_channels)


def upwards(decoder: nn.Module, top: Tensor, feats: tuple[Tensor, ...]) -> Tensor:
    """Apply the FPN from ``top`` down to the finest map, and the convolution that computes the mask features."""
    steps = zip(decoder.lateral_convs, decoder.upsamples, decoder.adds, decoder.output_convs, feats)
    for lateral, upsample, add, output, x in list(steps)[::-1]:
        top = output(add(lateral(x), upsample(top, x.shape[-2:])))
    return decoder.mask_feature(top)


def initialise(decoder: nn.Module, *others: nn.Conv2d) -> None:
    for conv in (*(m.conv for m in (*decoder.lateral_convs, *decoder.output_convs)), *others):
        caffe2_xavier_init(conv)
