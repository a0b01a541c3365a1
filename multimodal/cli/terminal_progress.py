"""What a command is doing, on the terminal."""

from __future__ import annotations

import sys


class TerminalProgress:
    """Prints what is done, once each, where a person reads along."""

    def __init__(self) -> None:
        self._told = ""

    def __call__(self, doing: str) -> None:
        if doing != self._told and sys.stderr.isatty():
            print(doing, file=sys.stderr, flush=True)
        self._told = doing
