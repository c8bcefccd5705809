"""Datasets: where the images are and what is in them."""
