"""Multimodal chat within 12 GB: one page, one router, one memory budget."""

__version__ = "0.1.0"
