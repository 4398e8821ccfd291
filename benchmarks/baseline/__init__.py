"""The former pipeline's way, as plainly as it can be written: what ours is held against."""
