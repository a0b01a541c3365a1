"""Standard output and error for text in any language."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import TextIOWrapper
from typing import TextIO


def accept_any_text(streams: Iterable[TextIO | None], is_windows: bool = os.name == "nt") -> None:
    """Let everything that a model or a file name may hold be printed to those streams.

    Windows gives files and pipes the encoding of its language, such as cp1252, which has neither
    Japanese nor an arrow: a print would end the program. UTF-8 is written there, as it is to
    Windows' consoles anyway. Elsewhere the encoding is what the person set, and a letter that it
    lacks becomes a question mark.
    """
    for stream in streams:
        if isinstance(stream, TextIOWrapper) and not _is_utf8(stream):
            encoding = "utf-8" if is_windows else stream.encoding
            stream.reconfigure(encoding=encoding, errors="replace")


def _is_utf8(stream: TextIO) -> bool:
    return stream.encoding.lower().replace("_", "-") in {"utf-8", "utf8"}
