"""Losses. Each is a callable ``(pred, target, weight, avg_factor) -> scalar``: a weighted sum over ``avg_factor``."""
