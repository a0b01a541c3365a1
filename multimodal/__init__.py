"""Multimodal chat within 12 GB: one page, one router, one memory budget."""

import os

__version__ = "0.1.0"

# huggingface_hub reads this when it is imported; it would otherwise tell the hub about this machine
# and ask it for more than the files. Whoever sets it decides.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
