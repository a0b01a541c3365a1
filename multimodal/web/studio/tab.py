"""One browser tab's part of the studio, as the server knows it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

Frame = dict[str, Any]
MOST_FRAMES = 16


@dataclass
class StudioTab:
    """What a tab looks at, and what was last sent to it. Events of one tab are served at once, and
    the browser may miss a frame that another one follows at once, so each is sent again until an
    action says that it came (`acknowledge`)."""

    view: str = ""
    """"" while it shows the chat."""
    job: str = ""
    told: dict[str, str] = field(default_factory=dict)
    """Digests of the parts that it has."""
    seen: str = ""
    """The fingerprint of what they were made from."""
    serial: int = 0
    sent: list[Frame] = field(default_factory=list)
    """Frames that were not acknowledged, the oldest first."""
    rows: Sequence[Mapping[str, Any]] = ()
    """Of the person's own chats, as they were shown for editing."""
    rows_stamp: str = ""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()  # no field, for Gradio copies those of a State's first value

    def __deepcopy__(self, memo: object) -> StudioTab:
        return StudioTab()

    def look(self, view: str, job: str) -> None:
        """Show another part, and all of it anew."""
        with self.lock:
            self.view, self.job, self.seen = view, job, ""
            self.told.clear()

    def changed(self, parts: Mapping[str, str]) -> dict[str, str]:
        """Those of the parts that it does not have yet; it has them from now on."""
        digests = {name: sha256(html.encode()).hexdigest() for name, html in parts.items()}
        with self.lock:
            fresh = {name: parts[name] for name in parts if self.told.get(name) != digests[name]}
            self.told |= digests
        return fresh

    def packet(self, frame: Frame) -> Frame:
        """What is sent: this frame, and those before it that may not have come, without parts that
        are newer by now."""
        with self.lock:
            self.serial += 1
            newer = frame.get("parts", {})
            for old in self.sent:
                parts = old.get("parts", {})
                old["parts"] = {name: html for name, html in parts.items() if name not in newer}
            told = [old for old in self.sent if old["parts"] or len(old) > 2]
            self.sent = [*told, {"serial": self.serial, **frame}][-MOST_FRAMES:]
            return {"frames": [dict(one) for one in self.sent]}

    def acknowledge(self, serial: int) -> None:
        """The browser has the frames up to that one."""
        with self.lock:
            self.sent = [frame for frame in self.sent if frame["serial"] > serial]
