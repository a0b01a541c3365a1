"""What the folder of a model in ONNX holds, and how it is read; imports no library."""

from __future__ import annotations

MODEL = "model.onnx"
"""The graph; its weights lie beside it, in `model.onnx.data`. Of Whisper, that of the decoder."""
ENCODER = "encoder.onnx"
"""Of Whisper, what is computed once for a window of 30 s."""
PIECE_TOKENS = 128
"""Of a prompt, read at once: the graph of a text model gives logits behind each of them."""
