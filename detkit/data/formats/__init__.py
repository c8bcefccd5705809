"""Annotation files of other formats, read into COCO's dict and written from it."""
