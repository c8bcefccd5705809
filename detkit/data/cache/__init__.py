"""Samples stored on disk as they are before the first random transform of their pipeline."""
