"""Heads of detectors whose predictions are queries: a fixed number of boxes, matched with the objects one to one."""
