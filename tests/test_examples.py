"""The programs in examples/ run, and what they teach is learned."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from PIL import Image


def program(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / name))


def test_the_adversarial_network_learns_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gan.png"
    recognised = program("gan.py")["main"](["--epochs", "40", "--out", str(out)])
    assert recognised > 0.6
    assert f"{recognised:.1%} are now" in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.size == (480, 384)


def test_the_policy_learns_to_balance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "reinforcement.png"
    steps = program("reinforcement.py")["main"](["--steps", "25000", "--out", str(out)])
    assert steps > 80
    assert f"for {steps:.0f} now, of 500" in capsys.readouterr().out
    with Image.open(out) as plot:
        assert plot.width > 500


def test_digits_are_written_into_a_folder_for_each(tmp_path: Path) -> None:
    program("studio/digits.py")["main"]([str(tmp_path / "digits")])
    assert len(list((tmp_path / "digits").glob("*/*.png"))) == 1797
    assert len(list((tmp_path / "digits").iterdir())) == 10
    with Image.open(tmp_path / "digits" / "zero" / "0000.png") as picture:
        assert (picture.size, picture.mode, picture.getextrema()) == ((8, 8), "L", (0, 239))
