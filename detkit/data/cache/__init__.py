"""Samples kept on disk up to the first random step of their pipeline."""
