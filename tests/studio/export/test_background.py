"""Exports that run behind a page."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import wait_until
from studio_page import certificate

from multimodal.errors import CapacityError, JobError, SettingsError, TurnStoppedError
from multimodal.studio.export.background import BackgroundExports
from multimodal.studio.export.plan import Exported, ExportSettings, write_certificate


class Runner:
    """In place of `export_model`: waits to be let go, then does what the test says."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: Exception | None = None
        self.is_passed = True

    def __call__(
        self, settings: ExportSettings, stop: threading.Event, tell: Callable[[str], None]
    ) -> Exported:
        tell("Writing it")
        while not self.go.wait(0.01):
            if stop.is_set():
                raise TurnStoppedError("stopped")
        if self.error is not None:
            raise self.error
        made = certificate(self.is_passed)
        if not self.is_passed:
            return Exported(None, made)
        settings.out.mkdir(parents=True)
        write_certificate(settings.out, made)
        return Exported(settings.out, made)


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def exports(runner: Runner, tmp_path: Path) -> BackgroundExports:
    return BackgroundExports(tmp_path, runner)


def until_done(exports: BackgroundExports) -> None:
    wait_until(lambda: not exports.of("ledger").is_running, every_s=0.01)


def test_it_is_told_while_it_runs_and_listed_once_it_is_done(
    exports: BackgroundExports, runner: Runner, tmp_path: Path
) -> None:
    exports.start("ledger", "gguf", ("q8_0",))
    wait_until(lambda: exports.of("ledger").doing == "Writing it", every_s=0.01)
    with pytest.raises(JobError, match="under way already"):
        exports.start("ledger", "gguf", ("f16",))
    runner.go.set()
    until_done(exports)
    exports.start("ledger", "gguf", ("f16",))
    until_done(exports)
    found = exports.of("ledger")
    assert [it.path for it in found.done] == [
        tmp_path / "ledger/exports/gguf",
        tmp_path / "ledger/exports/gguf-2",
    ]
    assert found.error == ""
    again = BackgroundExports(tmp_path, runner).of("ledger")
    assert again.done == found.done, "known after a restart"
    assert exports.of("other").done == ()


def test_it_can_be_stopped_once(exports: BackgroundExports) -> None:
    exports.start("ledger", "safetensors", ("bf16",))
    exports.stop("ledger")
    until_done(exports)
    assert "was stopped" in exports.of("ledger").error
    with pytest.raises(JobError, match="No export of ledger"):
        exports.stop("ledger")


def test_what_went_wrong_is_told(exports: BackgroundExports, runner: Runner) -> None:
    runner.go.set()
    runner.error = CapacityError("The disk is full.")
    exports.start("ledger", "gguf", ("f16",))
    until_done(exports)
    assert exports.of("ledger").error == "The disk is full."
    runner.error, runner.is_passed = None, False
    exports.start("ledger", "gguf", ("f16",))
    until_done(exports)
    assert "failed “chat template”" in exports.of("ledger").error
    assert exports.of("ledger").done == ()


def test_what_cannot_be_written_is_refused_at_once(exports: BackgroundExports) -> None:
    with pytest.raises(SettingsError, match="no quantization 'q8_0'"):
        exports.start("ledger", "safetensors", ("q8_0",))
    assert not exports.of("ledger").is_running
