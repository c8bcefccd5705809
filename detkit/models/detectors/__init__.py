"""Detectors: a backbone, a neck and heads in one model."""
