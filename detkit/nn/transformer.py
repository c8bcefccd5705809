"""Encoders and decoders of detection transformers, with MMDetection's parameter names."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detkit.nn.attention import MultiheadAttention
from detkit.nn.conv import build_norm
from detkit.nn.ffn import FFN
from detkit.nn.ms_deform_attn import MultiScaleDeformableAttention
from detkit.registry import MODELS, ConfigError

DEFAULT_ATTENTION = dict(embed_dims=256, num_heads=8)


class EncoderLayer(nn.Module):
    """Self-attention and FFN, each followed by a norm. ``attention``: the class of the attention."""

    def __init__(self, attention: type[nn.Module], self_attn_cfg: dict = DEFAULT_ATTENTION, ffn_cfg: dict = dict(),
                 norm_cfg: dict = dict(type='LN')) -> None:
        super().__init__()
        self.self_attn = MODELS.build(self_attn_cfg, type=attention)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = MODELS.build(ffn_cfg, type=FFN)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims)[1] for _ in range(2))

    def forward(self, query: Tensor, pos: Tensor, **where: Any) -> Tensor:
        """Return tokens (N, S, C). ``where``: further arguments of the attention."""
        query = self.norms[0](self.self_attn(query, query, pos, **where))
        return self.norms[1](self.ffn(query))


class Encoder(BaseModule):
    """``num_layers`` identical layers. The first ``num_cp`` layers are recomputed in the backward pass: less memory, more time."""

    def __init__(self, attention: type[nn.Module], num_layers: int, layer_cfg: dict, num_cp: int = -1,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if num_cp > num_layers:
            raise ConfigError(f'encoder num_cp={num_cp} exceeds num_layers={num_layers}.')
        self.layers = nn.ModuleList(MODELS.build(layer_cfg, type=EncoderLayer, attention=attention) for _ in range(num_layers))
        self.embed_dims, self.num_cp = self.layers[0].embed_dims, num_cp
        xavier(self)

    def forward(self, feats: Tensor, pos: Tensor, **where: Any) -> Tensor:
        """Return encoded tokens (N, S, C)."""
        for i, layer in enumerate(self.layers):
            if i < self.num_cp and feats.requires_grad:
                feats = checkpoint(layer, feats, pos, use_reentrant=False, **where)
            else:
                feats = layer(feats, pos, **where)
        return feats


class DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the memory, and FFN, each followed by a norm."""

    def __init__(self, cross_attention: type[nn.Module], self_attention: type[nn.Module] = MultiheadAttention,
                 self_attn_cfg: dict = DEFAULT_ATTENTION, cross_attn_cfg: dict = DEFAULT_ATTENTION, ffn_cfg: dict = dict(),
                 norm_cfg: dict = dict(type='LN')) -> None:
        super().__init__()
        self.self_attn = MODELS.build(self_attn_cfg, type=self_attention)
        self.cross_attn = MODELS.build(cross_attn_cfg, type=cross_attention)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = MODELS.build(ffn_cfg, type=FFN)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims)[1] for _ in range(3))

    def forward(self, query: Tensor, memory: Tensor, query_pos: Tensor, among: Tensor | None = None, **where: Any) -> Tensor:
        """Return queries (N, Q, C). ``among``: the mask of the self-attention (its ``visible``). ``where``: further arguments of the
        cross-attention."""
        query = self.norms[0](self.self_attn(query, query, query_pos, visible=among))
        query = self.norms[1](self.cross_attn(query, memory, query_pos, **where))
        return self.norms[2](self.ffn(query))


class Decoder(BaseModule):
    """``num_layers`` identical layers, for ``run_decoder``, and a norm (``post_norm_cfg``; None: no norm) before the prediction head.

    ``return_intermediate``: return the predictions of all layers, not only of the last. ``layer``: the class of the layers.
    """

    def __init__(self, cross_attention: type[nn.Module], num_layers: int, layer_cfg: dict,
                 self_attention: type[nn.Module] = MultiheadAttention, post_norm_cfg: dict | None = dict(type='LN'),
                 return_intermediate: bool = True, init_cfg: dict | None = None, layer: type[nn.Module] = DecoderLayer) -> None:
        super().__init__(init_cfg)
        self.layers = nn.ModuleList(MODELS.build(layer_cfg, type=layer, cross_attention=cross_attention,
                                                 self_attention=self_attention) for _ in range(num_layers))
        self.embed_dims, self.return_intermediate = self.layers[0].embed_dims, return_intermediate
        if post_norm_cfg is not None:
            self.post_norm = build_norm(post_norm_cfg, self.embed_dims)[1]
        xavier(self)


def run_decoder(layers: nn.ModuleList, query: Tensor, memory: Tensor, carried: Any, look: Callable[[int, Tensor, Any], dict],
                predict: Callable[[int, Tensor, Any], tuple[Any, Any]]) -> list[Any]:
    """Run the decoder layers; the parts that differ between papers are passed as functions.

    Args:
        query: (N, Q, C).
        memory: (N, S, C).
        carried: state passed from layer to layer in addition to the queries, such as references.
        look: (index of the layer, query, carried) -> the arguments of the layer: ``query_pos``, ``among`` and those of its cross-attention.
        predict: (index of the layer, its output query, carried) -> (prediction, carried for the next layer).

    Returns:
        the predictions, one per layer.
    """
    predictions = []
    for i, layer in enumerate(layers):
        query = layer(query, memory, **look(i, query, carried))
        prediction, carried = predict(i, query, carried)
        predictions.append(prediction)
    return predictions


def xavier(stack: nn.Module) -> None:
    """Initialise every matrix with Xavier uniform, as DETR does, except in deformable attention, which has its own initialisation."""
    for parameter in stack.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for module in stack.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            module.reset_parameters()
