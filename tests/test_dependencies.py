"""What pyproject.toml asks for: ranges that were tried at both ends, nothing used that is not asked
for, and constraints.txt within them."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROGRAM = [Requirement(line) for line in FACTS["project"]["dependencies"]]
VOICES = [Requirement(line) for line in FACTS["project"]["optional-dependencies"]["voices"]]
STUDIO = [Requirement(line) for line in FACTS["project"]["optional-dependencies"]["studio"]]
EXAMPLES = [Requirement(line) for line in FACTS["project"]["optional-dependencies"]["examples"]]
DEVELOPMENT = [Requirement(line) for line in FACTS["project"]["optional-dependencies"]["dev"]]
BUILD = [Requirement(line) for line in FACTS["build-system"]["requires"]]
OURS = {"multimodal", "benchmarks", "examples", "tests"}


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(need.name) for need in requirements}


@pytest.mark.parametrize(
    "need", [*PROGRAM, *VOICES, *STUDIO, *DEVELOPMENT, *BUILD], ids=lambda need: need.name
)
def test_every_range_has_two_ends(need: Requirement) -> None:
    operators = {spec.operator for spec in need.specifier}
    assert operators in ({"=="}, {">=", "<"})


def test_developers_have_the_studio_and_what_examples_need() -> None:
    assert set(map(str, [*STUDIO, *EXAMPLES])) <= set(map(str, DEVELOPMENT))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): release for name, release in pins}


@pytest.mark.parametrize("need", [*PROGRAM, *VOICES, *DEVELOPMENT], ids=lambda need: need.name)
def test_constraints_name_a_release_within_every_range(need: Requirement) -> None:
    assert need.specifier.contains(pinned()[canonicalize_name(need.name)])


def test_constraints_are_release_numbers() -> None:
    for name, release in pinned().items():
        version = Version(release)
        assert (version.local, version.is_prerelease) == (None, False), name


def imported(folder: Path) -> Iterator[str]:
    """The top-level modules that the files of `folder` import."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("folder", "asked"),
    [
        ("multimodal", names([*PROGRAM, *VOICES, *STUDIO])),
        ("tests", names([*PROGRAM, *DEVELOPMENT])),
        ("benchmarks", names([*PROGRAM, *VOICES, *DEVELOPMENT])),
        ("examples", names([*PROGRAM, *STUDIO, *EXAMPLES])),
    ],
)
def test_what_is_imported_is_asked_for(folder: str, asked: set[str]) -> None:
    beside = {path.stem for path in (ROOT / "tests").rglob("*.py")} if folder == "tests" else set()
    known = sys.stdlib_module_names | OURS | beside
    brought = packages_distributions()
    for module in sorted(set(imported(ROOT / folder)) - known):
        from_ = {canonicalize_name(name) for name in brought.get(module, [])}
        if not from_:  # of the extra that is not installed here; its packages are named after it
            wanted = canonicalize_name(module)
            from_ = {name for name in names(VOICES) if name.startswith(wanted)}
        assert from_ & asked, f"{module} comes with {from_ or 'nothing that is installed'}"


def bounds(*arguments: str) -> list[str]:
    command = [sys.executable, str(ROOT / ".ci" / "bounds.py"), *arguments]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return told.stdout.split()


def test_bounds_are_lifted_where_ci_asks_for_the_newest() -> None:
    open_ = {need.name: need for need in map(Requirement, bounds("open"))}
    assert set(open_) == {need.name for need in (*PROGRAM, *DEVELOPMENT, *BUILD)}
    for need in (*PROGRAM, *DEVELOPMENT):
        release = "1!0"  # later than all others
        assert open_[need.name].specifier.contains(release) == (need.name != "torch")
        assert open_[need.name].extras == need.extras
    assert bounds("only", "torch") == [str(open_["torch"])]
    assert [Requirement(line) for line in bounds("only", "hatchling")] == BUILD
