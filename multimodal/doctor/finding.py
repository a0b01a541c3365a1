"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["ok", "info", "warn", "fail"]
"""fail: the program cannot do what it was asked to. warn: it can, with less than there might be.
info: something is not there, and what was chosen does not need it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is a command or a sentence that mends it; what has to be mended always has one."""

    verdict: Verdict
    name: str
    found: str
    fix: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether there is nothing to mend."""
        return self.verdict in {"ok", "info"}

    def as_dict(self) -> dict[str, str | bool]:
        """As `--json` prints it."""
        return {"name": self.name, "ok": self.is_ok, **asdict(self)}
