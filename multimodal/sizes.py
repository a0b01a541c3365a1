"""How sizes in bytes are written for people."""

from __future__ import annotations

import math


def download_size(size_bytes: float) -> str:
    """“11 kB”, “93 MB”, “4.0 GB”."""
    if size_bytes < 1e6:
        return f"{math.ceil(size_bytes / 1e3)} kB"
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"


def gigabytes(size_bytes: float) -> str:
    """“1.25 GB”; a gigabyte is a thousand million bytes, as on the box of a graphics card."""
    return f"{size_bytes / 1e9:.2f} GB"
