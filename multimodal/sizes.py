"""How sizes in bytes are written for people."""

from __future__ import annotations


def gigabytes(size_bytes: float) -> str:
    """“1.25 GB”; a gigabyte is a thousand million bytes, as on the box of a graphics card."""
    return f"{size_bytes / 1e9:.2f} GB"
