"""Ours against the former pipeline and against this route's ceiling, measured on this machine: `make bench`."""
