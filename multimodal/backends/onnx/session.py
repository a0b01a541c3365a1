"""A graph in ONNX Runtime, on the CPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from multimodal.backends.base import cores
from multimodal.backends.onnx.layout import MODEL
from multimodal.errors import BackendError


def open_session(folder: Path, threads: int, name: str = MODEL) -> onnxruntime.InferenceSession:
    """The graph `name` of `folder`; `threads`: 0 for one for each physical core. Raises
    BackendError where there is none, or ONNX Runtime refuses it."""
    path = folder / name
    if not path.is_file():
        raise BackendError(f"there is no {name} in {folder}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    # A thread that waits leaves its core to other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # warnings are about how it was exported
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own classes, which have no common base
        raise BackendError(f"ONNX Runtime refuses {path.name}: {error}") from error
