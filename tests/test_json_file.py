"""A value that is kept as a JSON file: what is left of it after damage, a full or forbidden folder,
and a crash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from multimodal.json_file import JsonFile
from multimodal.messages import Task


@dataclass(frozen=True)
class Kept:
    tasks: tuple[Task, ...] = ()
    seconds: float = 0.0


KEPT = Kept((Task.TEXT,), 1.5)


def kept(path: Path) -> JsonFile[Kept]:
    return JsonFile(path, Kept, "it is begun anew")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.json"


def test_what_was_written_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert kept(path).read() == Kept(), "without a file"
    kept(path).write(KEPT)
    assert kept(path).read() == KEPT
    assert [file.name for file in path.parent.iterdir()] == ["kept.json"]
    assert not caplog.records


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff\xfe{", b"[]", b'{"tasks": ["no-task"]}', b'{"tasks": 1}', b"[" * 10_000],
)
def test_a_damaged_file_is_begun_anew_and_the_log_says_so(
    path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(damage)
    assert kept(path).read() == Kept()
    (line,) = caplog.messages
    assert line.startswith(f"{path} cannot be read (")
    assert line.endswith("); it is begun anew")
    kept(path).write(KEPT)
    assert kept(path).read() == KEPT


def test_a_folder_that_cannot_be_written_stops_nobody(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()
    kept(path).write(KEPT)
    kept(path.parent / "gone" / "kept.json").write(KEPT)
    written, missing = caplog.messages
    assert written.startswith(f"{path} cannot be written (")
    assert missing.startswith(f"{path.parent / 'gone' / 'kept.json'} cannot be written (")
    assert kept(path).read() == Kept(), "a folder is no file"


class Crashing(type(Path())):  # type: ignore[misc]
    """A path at which the program ends before a file takes the place of another."""

    def replace(self, target: Path) -> Path:
        raise KeyboardInterrupt


def test_a_crash_while_it_is_written_leaves_the_old_value(path: Path) -> None:
    kept(path).write(KEPT)
    with pytest.raises(KeyboardInterrupt):
        kept(Crashing(path)).write(Kept((), 2.5))
    assert kept(path).read() == KEPT
    kept(path).write(Kept((), 3.5))
    assert kept(path).read() == Kept((), 3.5)
