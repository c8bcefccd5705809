"""Datasets, transforms and what turns them into batches."""
