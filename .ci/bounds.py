"""Requirements of pyproject.toml as CI needs them, one a line.

    bounds.py only NAME  the requirement of that name, as it stands
    bounds.py open       all of them, those for development too, without upper bounds

PyTorch keeps its range in `open` as well: a newer one is also another choice of CUDA.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

KEPT = {"torch"}


def requirements() -> list[Requirement]:
    """The program's, the development extra's and the build's."""
    facts = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))
    project = facts["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [Requirement(line) for line in (*lines, *facts["build-system"]["requires"])]


def without_upper_bound(need: Requirement) -> str:
    """“gradio>=6.31” for “gradio>=6.31,<6.32”."""
    if need.name in KEPT:
        return str(need)
    least = [f">={spec.version}" for spec in need.specifier if spec.operator in {">=", "=="}]
    need.specifier = SpecifierSet(",".join(least))
    return str(need)


def asked(arguments: list[str]) -> Iterator[str]:
    match arguments:
        case ["open"]:
            yield from (without_upper_bound(need) for need in requirements())
        case ["only", name]:
            yield from (str(need) for need in requirements() if need.name == name)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    print(*asked(sys.argv[1:]), sep="\n")
