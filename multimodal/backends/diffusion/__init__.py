"""Models that draw, on diffusers."""
