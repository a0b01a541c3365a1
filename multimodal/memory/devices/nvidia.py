"""The NVIDIA driver and its cards, as nvidia-smi tells them."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
ANSWER_S = 30.0
FIELDS = ("driver_version", "name", "memory.total", "memory.free", "compute_cap")
OLD_FIELDS = FIELDS[:-1]
"""Drivers up to 470 do not know the last one."""
ELSEWHERE = (
    Path("C:/Windows/System32/nvidia-smi.exe"),
    Path("C:/Program Files/NVIDIA Corporation/NVSMI/nvidia-smi.exe"),
    Path("/usr/lib/wsl/lib/nvidia-smi"),
)
"""Where it lies without being on the PATH: Windows, Windows long ago, WSL."""
HEADER = re.compile(r"CUDA (?:UMD )?Version\s*:\s*(\d+)\.(\d+)")
"""In the table that it prints; from driver 610 on with “UMD”."""

Version = tuple[int, int]
BRANCHES: tuple[tuple[int, Version], ...] = ((580, (13, 0)), (570, (12, 8)), (560, (12, 6)))
"""The CUDA version that each branch of drivers came with, by NVIDIA's release notes of CUDA."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Sizes in bytes; 0 where the driver does not tell. `compute`: its compute capability."""

    name: str
    memory_bytes: int
    free_bytes: int = 0
    compute: Version | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """`cuda`: the highest version that it supports. `error`: why it does not answer."""

    version: str = ""
    cuda: Version | None = None
    gpus: tuple[Gpu, ...] = ()
    error: str = ""


CommandResult = tuple[int, str]
"""The exit status and what was written."""


def driver() -> Driver | None:
    """The driver of this machine; None where there is no nvidia-smi."""
    beside = (str(path) for path in ELSEWHERE if path.is_file())
    program = shutil.which("nvidia-smi") or next(beside, None)
    if program is None:
        return None
    return query_driver(lambda options: _run([program, *options]))


def query_driver(ask: Callable[[list[str]], CommandResult]) -> Driver:
    """What `ask`, which runs nvidia-smi with options, tells of the driver and its cards."""
    for fields in (FIELDS, OLD_FIELDS):
        query = f"--query-gpu={','.join(fields)}"
        status, text = ask([query, "--format=csv,noheader,nounits"])
        if "not a valid field" not in text:
            break
    if status:
        return Driver(error=" ".join(text.split()) or f"it ended with status {status}")
    rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if len(row) > 3]
    if not rows:
        return Driver(error=" ".join(text.split()) or "it names no card")
    _status, table = ask([])
    version = rows[0][0].strip()
    header = HEADER.search(table)
    cuda = (int(header[1]), int(header[2])) if header else _by_branch(version)
    return Driver(version, cuda, tuple(_gpu(row) for row in rows))


def _by_branch(version: str) -> Version | None:
    number = version.partition(".")[0]
    branch = int(number) if number.isdigit() else 0
    return next((cuda for first, cuda in BRANCHES if branch >= first), None)


def _gpu(row: list[str]) -> Gpu:
    """One line of FIELDS; the driver writes “[N/A]” for what it does not know."""
    capability = re.fullmatch(r"(\d+)\.(\d+)", row[4].strip()) if len(row) > 4 else None
    compute = (int(capability[1]), int(capability[2])) if capability else None
    return Gpu(row[1].strip(), _mib(row[2]), _mib(row[3]), compute)


def _mib(text: str) -> int:
    return int(text) * MIB if text.strip().isdigit() else 0


def _run(command: list[str]) -> CommandResult:
    try:
        told = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"nvidia-smi did not answer within {ANSWER_S:.0f} seconds"
    except OSError as error:
        return 1, f"nvidia-smi cannot be run: {error.strerror or error}"
    return told.returncode, told.stdout if told.returncode == 0 else told.stdout + told.stderr
