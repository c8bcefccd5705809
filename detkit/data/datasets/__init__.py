"""Datasets: read annotation files and return samples."""
