"""Runs the probes in a process of its own, and goes on in a new one where it ends early."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from multimodal.memory.calibration.record import Probe

MOST_S = 300.0
"""For all probes of one process; the first time, PyTorch alone may take a minute to load."""

Show = Callable[[str, Probe | None], None]
"""Told the name of a probe when it begins, with None, and when it is over."""
Start = Callable[[Sequence[str]], Iterator[str]]


def run_probes(names: Sequence[str], show: Show, start: Start) -> dict[str, Probe]:
    """The result of every probe, by name; never raises for what a card does. `start` runs those of
    that name in a process and yields the lines it writes."""
    found: dict[str, Probe] = {}
    while left := [name for name in names if name not in found]:
        begun = ""
        for line in start(left):
            told = _parse_line(line)
            if "begun" in told:
                begun = str(told["begun"])
                show(begun, None)
            elif "name" in told:
                name = str(told.pop("name"))
                found[name] = Probe.model_validate(told)
                show(name, found[name])
        if not begun:
            return found | {name: Probe(error="its process did not begin") for name in left}
        if begun not in found:
            found[begun] = Probe(error="it ended the process that tried it")
            show(begun, found[begun])
    return found


def lines_of(module: str, names: Sequence[str]) -> Iterator[str]:
    """What a process writes in which `module` runs these probes, line by line; it is ended after
    MOST_S."""
    command = [sys.executable, "-P", "-m", module, *names]
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        watch = threading.Timer(MOST_S, process.kill)
        watch.daemon = True
        watch.start()
        try:
            yield from process.stdout or ()
        finally:
            watch.cancel()
            process.kill()


def _parse_line(line: str) -> dict[str, object]:
    """One line of the process; libraries write others, which say nothing."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
