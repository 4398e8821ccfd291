"""The steps of the pipeline, one a file.

A step travels to its pod as source text, so everything in this package follows the same rules: only kfp, the standard
library, this package and types of artifacts are imported at module top; a component function is thin; the helpers that
it lists as `additional_funcs` are hermetic (they import what they need in their bodies, and know no module constants).
"""
