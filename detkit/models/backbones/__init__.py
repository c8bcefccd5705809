"""Backbones: image -> feature maps of several strides."""
