"""Starting, failing to start, being killed, and starting again, as a person lives through it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from browser import Person, visit
from conftest import ROOT, free_port, running_app, wait_until
from playwright.sync_api import Browser, expect

from multimodal.catalog.cards import Catalog


def start(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python app.py` where it is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "app.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def told(run: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line of an ended start, beside the one about files that others could read."""
    assert run.returncode == status, run.stderr
    lines = run.stderr.strip().splitlines()
    (line,) = (line for line in lines if not line.startswith("Others could read "))
    assert line.startswith("multimodal: ")
    return line


@contextmanager
def visited(browser: Browser, data: Path, *options: str, **more: Any) -> Iterator[Person]:
    """A person at an app of its own."""
    with running_app(data, *options, **more) as app, visit(browser, app.url) as person:
        yield person


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = told(start("--data", str(tmp_path), "--port", str(port)), 2)
    assert f"Port {port}" in line
    assert "--port" in line


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = told(start("--data", str(tmp_path / "file"), "--port", "0"), 2)
    assert "cannot be written" in line
    assert "--data DIR" in line


def test_a_corrupt_database_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "conversations.sqlite3"
    path.write_bytes(b"garbage" * 1000)
    line = told(start("--data", str(tmp_path), "--port", "0"), 1)
    assert str(path) in line
    assert "Nothing was changed" in line
    assert path.read_bytes() == b"garbage" * 1000


def test_a_second_start_on_a_data_folder_is_told_who_has_it_and_takes_nothing(
    tmp_path: Path,
) -> None:
    with running_app(tmp_path, "--offline", weights=tmp_path / "weights") as app:
        unsent = tmp_path / "page-cache" / "abc" / "unsent.png"
        unsent.parent.mkdir()
        unsent.write_bytes(b"an upload of somebody who still types")
        line = told(start("--data", str(tmp_path), "--port", "0"), 2)
        assert f"the server at {app.url} (process {app.process.pid})" in line
        assert "--data DIR" in line
        assert unsent.exists()
        assert httpx.get(f"{app.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--profile", "embeded"], "did you mean 'embedded'"),
        (["--device", "gpu"], "choose auto, cpu, cuda"),
        (["--device", "cuda"], "--device sim:12GB"),
        (["--budget", "lots"], "--budget lots"),
        (["--port", "99999"], "--port 99999"),
        (["--auth", "ann"], "USER:PASSWORD"),
        (["--auth", ""], "USER:PASSWORD"),
        (["--auth-file", os.devnull], "names nobody"),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, options: list[str], sentence: str) -> None:
    line = told(
        start("--data", str(tmp_path), *["--port", "0"][: 2 * ("--port" not in options)], *options),
        2,
    )
    assert sentence in line


def test_a_second_start_is_usable_after_little_work(
    browser: Browser, all_weights: Path, tmp_path: Path
) -> None:
    """Counted in processor time, which is the same on a busy machine."""
    with running_app(tmp_path):
        pass
    with running_app(tmp_path) as app, visit(browser, app.url):
        spent = psutil.Process(app.process.pid).cpu_times()
    print(f"usable after {spent.user + spent.system:.1f} s of processor time")
    assert spent.user + spent.system < 20


def test_a_killed_app_shows_the_conversation_again(
    browser: Browser, all_weights: Path, tmp_path: Path
) -> None:
    port = free_port()
    with (
        running_app(tmp_path, port=port) as app,
        closing(Person(browser, app.url)) as person,
    ):
        person.ask("Say the word apple.")
        person.say("Tell me a very long story about a dragon and a princess.")
        wait_until(lambda: person.replies.count() == 2 and len(person.reply()) > 150, every_s=0.01)
        time.sleep(0.5)
        app.process.send_signal(signal.SIGKILL)
        app.process.wait()
        with running_app(tmp_path, port=port):
            person.open()
            expect(person.said).to_have_count(2)
            assert "Interrupted" in person.reply()
            assert len(person.reply()) > 100, "what was written before the kill is lost"
            person.do("Answer again")
            person.stop_button.click()
            person.page.locator("#chat .pane:not(.busy)").wait_for()
            assert person.said.count() == 2


def test_an_index_that_cannot_be_reached_is_told_on_the_page_and_the_page_stays(
    browser: Browser, tmp_path: Path
) -> None:
    with visited(browser, tmp_path, "--offline", weights=tmp_path / "none") as person:
        alert = person.page.locator("#fetching [role=alert]")
        alert.wait_for()
        assert "SmolLM2 135M has no weights yet" in alert.inner_text()
        assert "--offline" in person.ask("Hello")
        assert person.said.last.locator("> .body").inner_text() == "Hello"


def test_the_first_start_shows_its_progress_and_answers_when_ready(
    browser: Browser, all_weights: Path, tmp_path: Path
) -> None:
    """Weights that were copied are verified on the first start, which takes a moment."""
    shutil.copytree(all_weights, tmp_path / "weights", ignore=shutil.ignore_patterns("verified*"))
    with visited(browser, tmp_path / "data", weights=tmp_path / "weights") as person:
        assert "plants" in person.ask("What is photosynthesis?").lower()


def test_weights_that_are_damaged_are_told_when_they_cannot_be_fetched(
    browser: Browser, catalog: Catalog, weights_of: Callable[[str], Path], tmp_path: Path
) -> None:
    name = catalog.profile("embedded").names[0]
    folder = tmp_path / "weights" / name
    shutil.copytree(weights_of(name), folder)
    path = folder / "model.gguf"
    path.write_bytes(path.read_bytes()[:-1000] + b"\0" * 1000)
    with visited(browser, tmp_path / "data", "--offline", weights=tmp_path / "weights") as person:
        assert "SmolLM2 135M has no weights yet" in person.ask("Hello")


def test_sigterm_ends_it(all_weights: Path, tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        app.process.terminate()
        assert app.process.wait(60) == 0
