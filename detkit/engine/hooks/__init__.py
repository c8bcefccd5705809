"""Training hooks in addition to mmengine's, one idea per file."""
