"""Labelled text to a live, checked text classification endpoint."""

__version__ = "0.1.0"
