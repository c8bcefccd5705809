"""Heads of query detectors: a fixed number of predictions, matched one-to-one with the objects."""
