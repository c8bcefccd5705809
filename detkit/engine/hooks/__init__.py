"""What happens around training, beyond mmengine's hooks: one idea a file."""
