"""Losses. Each is called as ``(pred, target, weight, avg_factor) -> scalar`` and returns a weighted sum divided by ``avg_factor``."""
