"""What the memory manager costs and saves, in one command:

    python -m benchmarks.memory [--only card] [--budget 12GB] [--turns 200] [--out FILE]

On a machine with an NVIDIA card, models of full size with random weights are loaded, evicted and
restored under the budget, and compared with `.to()` and with accelerate's hooks. Elsewhere the run
of mixed turns is played on a simulated card, and says so. What mirrors cost in host memory is
measured everywhere.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import tell
from benchmarks.memory import card, host, simulated
from multimodal.build import read_catalog
from multimodal.settings import byte_size, read_settings

FOUR = Path(__file__).parent / "four.toml"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--only", choices=("host", "card"), help="both unless given")
    parser.add_argument("--profile", default=str(FOUR), help="a name or a TOML file")
    parser.add_argument("--budget", default="12GB")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--out", type=Path, help="where the figures go, beside the terminal")
    given = parser.parse_args()
    catalog = read_catalog(read_settings())
    profile, budget = catalog.profile(given.profile), byte_size("budget", given.budget)
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "card": "none: nothing here was measured on a GPU",
    }
    if given.only != "card":
        found["host"] = host.measure(catalog)
        found["simulated"] = simulated.measure(catalog, profile, budget, given.turns)
    if torch.cuda.is_available() and given.only != "host":
        found["card"] = card.measure(catalog, profile, budget, given.turns)
    tell(found, given.out)


if __name__ == "__main__":
    main()
