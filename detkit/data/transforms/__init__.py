"""Steps of a pipeline, from a file to a packed sample."""
