"""Diffusion models of pixels that draw one of the classes which they were taught here."""
