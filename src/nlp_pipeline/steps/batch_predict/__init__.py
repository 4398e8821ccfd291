"""Classifies all rows of a file: shard by shard, so that it can be stopped and goes on where it was."""
