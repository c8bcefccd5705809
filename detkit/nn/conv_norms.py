"""Find the norm that follows each convolution, for folding, pruning and quantisation."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.nn as nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from detkit.nn.deform_conv import DeformConv2d

CONVS = (_ConvNd, nn.Linear, DeformConv2d)
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
UNORDERED = (nn.ModuleList, nn.ModuleDict)          # the order of their children is not the call order


@dataclass
class ConvNorms:
    """A convolution (or linear layer) and the norms of its outputs: one, or one per level if levels share the convolution."""

    conv_name: str                                                # as in ``named_modules``
    conv: nn.Module
    norms: dict[str, nn.Module] = field(default_factory=dict)     # by name, ordered as in ``named_modules``


def conv_norm_pairs(model: nn.Module) -> list[ConvNorms]:
    """List the convolutions and linear layers whose outputs go through a norm, in the order of ``named_modules``.

    A module can declare the pairs among its children with a method ``conv_norms() -> {name of the convolution: name of the norm}``. For
    other modules, the order of the children is used: a norm directly after a convolution with the same number of output channels is its
    norm. This is correct for ``nn.Sequential`` and for timm's networks, whose norms may include the activation. A norm that follows no
    convolution (before a convolution, or after a sum) is not listed.
    """
    pairs: dict[nn.Module, ConvNorms] = {}
    for owner_name, owner in model.named_modules():
        for conv_name, norm_name in names_of_pairs(owner):
            conv, prefix = owner.get_submodule(conv_name), f'{owner_name}.' if owner_name else ''
            pair = pairs.setdefault(conv, ConvNorms(prefix + conv_name, conv))
            pair.norms[prefix + norm_name] = owner.get_submodule(norm_name)
    return list(pairs.values())


def names_of_pairs(owner: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of a convolution and its norm for each pair among the children of ``owner``."""
    if hasattr(owner, 'conv_norms'):
        yield from owner.conv_norms().items()
    elif type(owner) not in UNORDERED:
        children = [(name, child) for name, child in owner.named_children() if not isinstance(child, nn.Identity)]
        for (name, child), (norm_name, norm) in zip(children, children[1:]):
            while isinstance(child, nn.Sequential) and len(child):                 # its last child computes its output
                last, child = list(child.named_children())[-1]
                name = f'{name}.{last}'
            if isinstance(child, CONVS) and isinstance(norm, NORMS) and out_channels(child) == norm_channels(norm):
                yield name, norm_name


def out_channels(conv: nn.Module) -> int:
    if isinstance(conv, nn.Linear):
        return conv.out_features
    return conv.weight.shape[0] if isinstance(conv, DeformConv2d) else conv.out_channels


def norm_channels(norm: nn.Module) -> int:
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[-1]
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features
