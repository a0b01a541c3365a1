"""The data folder: closed to others, and served by one program at a time."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from command_line import run
from conftest import ROOT
from fakes import FakeSource, program

from multimodal.data_folder import lock_data_folder, prepare_data_folder
from multimodal.errors import SettingsError
from multimodal.messages import Message, TextPart
from multimodal.settings import page_secret, read_settings

posix = pytest.mark.skipif(os.name != "posix", reason="rights come from the folder on Windows")
HOLD = """
import sys, time
from multimodal.data_folder import lock_data_folder, prepare_data_folder
from multimodal.settings import read_settings
settings = read_settings(data=sys.argv[1])
prepare_data_folder(settings)
with lock_data_folder(settings) as note:
    note("http://127.0.0.1:7860")
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Files of this program are readable by everybody, unless it closes them itself."""
    before = os.umask(0o000)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_data_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    settings = read_settings(data=tmp_path / "a" / "b")
    prepare_data_folder(settings)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_data_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot be written .* Choose another one with --data"):
        prepare_data_folder(read_settings(data=tmp_path / "file" / "data"))


def fill(data: Path) -> None:
    """Everything that a conversation with a recording leaves in the folder."""
    settings = read_settings(data=data)
    prepare_data_folder(settings)
    page_secret(settings)
    with closing(program(data, FakeSource())) as made:
        part = made.media.add_audio(ROOT / "examples" / "question-en.wav", "q.wav")
        made.store.put_message(
            "ann", made.store.create("ann"), Message("user", (part, TextPart("Hello")))
        )
        assert (data / "conversations.sqlite3-wal").exists(), "looked at while it is open"
        for path in [data, *data.rglob("*")]:
            assert not mode(path) & 0o077, f"others can read {path}"


@posix
@pytest.mark.usefixtures("open_umask")
def test_everything_of_a_person_is_closed_to_others(tmp_path: Path) -> None:
    for _ in range(2):
        fill(tmp_path / "new" / "data")


@posix
def test_a_folder_that_others_could_read_is_closed_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    for folder in (data, data / "media", data / "page-cache"):
        folder.mkdir()
        folder.chmod(0o755)
    personal = [data / name for name in ("conversations.sqlite3", "conversations.sqlite3-wal")]
    for path in personal:
        path.write_bytes(b"")
        path.chmod(0o644)
    (data / "weights").mkdir()
    prepare_data_folder(read_settings(data=data))
    assert [mode(path) for path in (data, data / "media", *personal)] == [0o700] * 2 + [0o600] * 2
    (line,) = caplog.messages
    assert f"Others could read {data}, " in line
    caplog.clear()
    prepare_data_folder(read_settings(data=data))
    assert caplog.messages == [], "it is told once"


@posix
def test_a_folder_with_other_things_in_it_stays_open_and_only_ours_is_closed(
    tmp_path: Path,
) -> None:
    data = tmp_path / "home"
    data.mkdir()
    data.chmod(0o755)
    (data / "letter.txt").write_text("")
    (data / "letter.txt").chmod(0o644)
    (data / "media").mkdir(0o755)
    prepare_data_folder(read_settings(data=data))
    assert [mode(path) for path in (data, data / "letter.txt", data / "media")] == [
        0o755,
        0o644,
        0o700,
    ]


@posix
@pytest.mark.usefixtures("open_umask")
def test_a_database_elsewhere_is_closed_to_others_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite3'}"
    with closing(program(tmp_path / "data", FakeSource(), database=url)) as made:
        made.store.create("ann")
        found = list(tmp_path.glob("elsewhere.sqlite3*"))
        assert len(found) == 3, "the database and what SQLite keeps beside it"
        assert {mode(each) for each in found} == {0o600}


# ---------------------------------------------------------------- one server at a time


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that serves the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_served_once_and_the_second_is_told_by_whom(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught, lock_data_folder(read_settings(data=tmp_path)):
        pass
    told = str(caught.value)
    assert f"http://127.0.0.1:7860 (process {holder.pid})" in told
    assert str(tmp_path) in told
    assert "--data DIR" in told
    assert "\n" not in told


def test_a_server_that_was_killed_holds_nothing(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "serving.json").exists(), "it had no time to put that away"
    with lock_data_folder(read_settings(data=tmp_path)):
        assert str(os.getpid()) in (tmp_path / "serving.json").read_text("utf-8")
    assert not (tmp_path / "serving.json").exists()
    with lock_data_folder(read_settings(data=tmp_path)):
        pass


@pytest.mark.usefixtures("holder")
def test_what_serves_nothing_works_beside_a_server(tmp_path: Path) -> None:
    assert run("models", "--data", str(tmp_path), "--json").exit_code == 0
    with closing(program(tmp_path, FakeSource())) as made:
        made.store.create("ann")
