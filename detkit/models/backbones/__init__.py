"""Backbones: networks that return feature maps of several strides for an image."""
