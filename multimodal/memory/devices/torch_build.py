"""What the PyTorch that is installed can do with a card, and whether bitsandbytes can with it.

A broken build may end the process that imports it, and bitsandbytes writes what it misses to the
terminal. Both are therefore looked at in a process of their own (`look`), once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

LOAD_S = 180.0
"""Seconds that loading both may take; the first time, on a slow disk, takes tens."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """`cuda`: the CUDA version that it was built for; empty where it was built without.

    `gpu`: the name of the first card that it finds, with its bytes of memory and its compute
    capability. `kernels`: what PyTorch was compiled for, such as sm_86. `error`: why it cannot be
    loaded; `gpu_error`: why it finds no card; `bnb_error`: why bitsandbytes cannot use the card
    that was found.
    """

    error: str = ""
    cuda: str = ""
    gpu: str = ""
    gpu_bytes: int = 0
    gpu_error: str = ""
    compute: tuple[int, ...] = ()
    kernels: tuple[str, ...] = ()
    bnb_error: str = ""


NOTHING = TorchBuild()


def probe_build(timeout_s: float = LOAD_S) -> TorchBuild:
    """Load PyTorch in a process of its own and ask it; never raises."""
    command = [sys.executable, "-P", __file__]  # -P: the modules beside it are not for import
    try:
        told = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return TorchBuild(error=f"loading it did not end ({type(error).__name__})")
    return parse_probe_output(told.stdout, told.stderr, told.returncode)


def parse_probe_output(stdout: str, stderr: str, status: int) -> TorchBuild:
    """The last line of what `look`'s process wrote, after whatever noise came before."""
    try:
        facts = json.loads(stdout.strip().splitlines()[-1])
        lists = {name: tuple(facts[name]) for name in ("compute", "kernels")}
        return TorchBuild(**facts | lists)
    except (IndexError, KeyError, TypeError, ValueError):
        last = next(iter(reversed(stderr.strip().splitlines())), "it said nothing")
        return TorchBuild(error=f"loading it ended the process with status {status}: {last}")


def installed_build() -> TorchBuild:
    """The facts of this process."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return TorchBuild(error=_first_line(error))
    cuda = str(torch.version.cuda or "")
    if not cuda:
        return TorchBuild()
    try:
        gpu = torch.cuda.get_device_properties(0)
    except (RuntimeError, AssertionError) as error:
        return TorchBuild(cuda=cuda, gpu_error=_first_line(error))
    return TorchBuild(
        cuda=cuda,
        gpu=gpu.name,
        gpu_bytes=int(gpu.total_memory),
        compute=(gpu.major, gpu.minor),
        kernels=tuple(torch.cuda.get_arch_list()),
        bnb_error=_bitsandbytes_error(),
    )


def _bitsandbytes_error() -> str:
    """Empty where bitsandbytes loaded its library for CUDA."""
    try:
        from bitsandbytes.cextension import CudaBNBNativeLibrary, lib
    except (ImportError, OSError, RuntimeError) as error:
        return _first_line(error)
    if isinstance(lib, CudaBNBNativeLibrary):
        return ""
    return str(getattr(lib, "error_msg", "it loaded its library for the CPU")).strip()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


if __name__ == "__main__":
    print(json.dumps(asdict(installed_build())))
