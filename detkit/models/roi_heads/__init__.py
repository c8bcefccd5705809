"""Heads that look at proposed regions."""
