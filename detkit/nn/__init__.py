"""Blocks with parameters, shared by backbones, necks and heads."""
