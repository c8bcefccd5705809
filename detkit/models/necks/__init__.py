"""Necks: mix feature maps of several strides."""
