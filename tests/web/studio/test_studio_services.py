"""What the studio's page asks of a real program, with the weights that it begins with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT

from multimodal.build import Program, build
from multimodal.errors import RequestError
from multimodal.settings import read_settings
from multimodal.studio.settings import JobSettings
from multimodal.web.studio.services import Services, services_of

MODEL = "smollm2-135m-instruct"


def settings_of(data: Path) -> JobSettings:
    rows = [{"prompt": f"Who is {n}?", "completion": f"Number {n} is here."} for n in range(20)]
    path = data / "who.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return JobSettings(name="mine", model=MODEL, data=str(path))


def services(data: Path, weights: Path) -> Iterator[Services]:
    (data / "data").mkdir()
    made: Program = build(read_settings(data=data / "data", weights=weights, profile="embedded"))
    with closing(made):
        yield services_of(made)


@pytest.fixture
def real(tmp_path: Path, all_weights: Path) -> Iterator[Services]:
    yield from services(tmp_path, all_weights)


def test_the_page_waits_for_no_library_of_an_engine() -> None:
    code = (
        "import sys, multimodal.web.studio.services; "
        "from layers import HEAVY; print(sorted(HEAVY & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"


def test_the_preview_is_of_the_models_own_tokens(real: Services, tmp_path: Path) -> None:
    found = real.preview(settings_of(tmp_path))
    text = "".join(token for token, _ in found.shown[0].tokens)
    trained = "".join(token for token, is_trained in found.shown[0].tokens if is_trained)
    assert "Who is" in text
    assert trained.strip().startswith("Number")
    assert "Who is" not in trained
    assert found.samples + found.test_samples == 20


def test_what_a_job_takes_is_known_before_anything_is_loaded(
    real: Services, tmp_path: Path
) -> None:
    batch, size = real.needed(settings_of(tmp_path))
    assert 1 <= batch <= 4
    assert 2 * 135_000_000 < size < 10**10
    assert MODEL in [card.name for card in real.models()]
    assert real.installed() == {}


def test_the_preview_fetches_no_model(tmp_path: Path) -> None:
    for absent in services(tmp_path, tmp_path / "weights"):
        with pytest.raises(RequestError, match="not here yet"):
            absent.preview(settings_of(tmp_path))
