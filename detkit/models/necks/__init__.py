"""Necks: modules that combine feature maps of several strides."""
