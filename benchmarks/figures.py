"""Where the figures of a run go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def tell(found: Mapping[str, Any], out: Path | None) -> None:
    """Print them, and write them to `out` if one is given."""
    text = json.dumps(found, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n", "utf-8")
