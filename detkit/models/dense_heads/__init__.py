"""Heads that predict at every position of the feature maps."""
