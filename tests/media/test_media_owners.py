"""Which files of the media folder are removed: only those that this database once added and no
longer holds, whatever else is started on the folder."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fakes import FakeSource, picture, program
from filelock import FileLock

from multimodal.build import Program
from multimodal.chats.service import Chats
from multimodal.errors import MediaError, StoreError
from multimodal.media.folder import MediaFiles
from multimodal.messages import ImagePart, Message, TextPart

OLD = "2001-01-01 00:00:00.000000"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def copy_database(data: Path) -> Path:
    copy = data / "copy.sqlite3"
    change(database(data), f"VACUUM INTO '{copy}'")
    return copy


def database(data: Path) -> Path:
    return data / "conversations.sqlite3"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@contextmanager
def opened(data: Path, address: str | None = None) -> Iterator[Program]:
    more = {"database": address} if address else {}
    with closing(program(data, FakeSource(), **more)) as made:
        yield made


def show(made: Program, width: int = 64, name: str = "a.png") -> tuple[str, ImagePart]:
    """A conversation that holds a picture of that width."""
    part = made.media.add_image(png(width), name)
    talk = made.store.create("ann")
    made.store.put_message("ann", talk, Message("user", (part,)))
    return talk, part


def png(width: int) -> bytes:
    return picture((width, 64), "red", "PNG")


def age(data: Path) -> None:
    """Make everything in the folder look as if it had been added years ago."""
    for path in data.rglob("*"):
        os.utime(path, (0, 0))
    for path in data.rglob("*.sqlite3"):
        with closing(sqlite3.connect(path)) as connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'media'").fetchone():
                connection.execute("UPDATE media SET added_at = ?", (OLD,))
                connection.commit()


def sweep_later(made: Program, data: Path) -> None:
    age(data)
    made.sweep()


def is_here(made: Program, part: ImagePart) -> bool:
    try:
        return made.media.path(part).stat().st_size > 0
    except MediaError:
        return False


def media_files(data: Path) -> list[Path]:
    return [path for path in (data / "media").rglob("*.png") if path.is_file()]


def test_what_was_added_and_is_not_held_is_removed_once_it_is_old(data: Path) -> None:
    with opened(data) as made:
        _, held = show(made, 64)
        talk, dropped = show(made, 65)
        never = made.media.add_image(png(66), "never sent.png")
        again = made.media.add_image(png(67), "again.png")
        made.store.delete("ann", talk)
        made.sweep()
        assert all(is_here(made, part) for part in (held, dropped, never, again)), "all are young"
        age(data)
        made.media.add_image(png(67), "again.png")
        made.sweep()
        assert [is_here(made, part) for part in (held, dropped, never, again)] == [1, 0, 0, 1]


def test_a_picture_that_cannot_be_removed_yet_goes_with_a_later_sweep(data: Path) -> None:
    """As on Windows while it is sent to a browser; here a folder stands in its place."""
    with opened(data) as made:
        busy, other = (made.media.add_image(png(width), "never sent.png") for width in (66, 67))
        path = made.media.path(busy)
        path.unlink()
        path.mkdir()
        sweep_later(made, data)
        assert not is_here(made, other)
        path.rmdir()
        path.write_bytes(png(66))
        sweep_later(made, data)
        assert not path.exists()


@pytest.mark.parametrize("where", ["data/other.sqlite3", "elsewhere.sqlite3", None])
def test_another_database_on_the_same_folder_removes_nothing(
    data: Path, tmp_path: Path, where: str | None
) -> None:
    """None: the first file was moved away, as one does with a corrupt one, and begun anew."""
    with opened(data) as made:
        talk, part = show(made)
    age(data)
    if where is None:
        for path in data.glob("conversations.sqlite3*"):
            path.rename(tmp_path / path.name)
    with opened(data, where and f"sqlite:///{tmp_path / where}") as other:
        other.sweep()
        mine, same = show(other)
        other.store.delete("ann", mine)
        assert same == part
        sweep_later(other, data)
    if where is None:
        for path in tmp_path.glob("conversations.sqlite3*"):
            path.rename(data / path.name)
    with opened(data) as again:
        again.sweep()
        assert again.store.load("ann", talk).messages[0].images == (part,)
        assert is_here(again, part)


def test_what_two_databases_hold_stays_until_neither_does(data: Path) -> None:
    second = f"sqlite:///{data / 'second.sqlite3'}"
    with opened(data) as one, opened(data, second) as two:
        (mine, part), (yours, _) = show(one), show(two)
        one.store.delete("ann", mine)
        sweep_later(one, data)
        assert is_here(two, part)
        assert not any(str(one.store.media_owner) in str(path) for path in media_files(data))
        two.store.delete("ann", yours)
        sweep_later(two, data)
    assert media_files(data) == []


def test_a_copy_of_a_database_has_the_pictures_and_the_first_one_keeps_them(data: Path) -> None:
    with opened(data) as made:
        talk, part = show(made)
    copy = copy_database(data)
    with opened(data, f"sqlite:///{copy}") as other:
        other.store.delete("ann", talk)
        sweep_later(other, data)
        with opened(data) as made:
            assert is_here(made, part)
    with opened(data, f"sqlite:///{copy}") as other, opened(data) as made:
        talk = other.store.create("ann")
        other.store.put_message("ann", talk, Message("user", (part,)))
        assert is_here(other, part)
        made.media.sweep(0)
        made.store.delete("ann", made.store.headings("ann")[0].id)
        sweep_later(made, data)
        assert is_here(other, part)


def test_yesterdays_backup_put_in_place_loses_nothing_of_today(data: Path) -> None:
    with opened(data) as made:
        show(made, 64)
    path = database(data)
    backup = path.read_bytes()
    with opened(data) as made:
        today, part = show(made, 65)
    whole = path.read_bytes()
    age(data)
    path.write_bytes(backup)
    age(data)
    with opened(data) as made:
        made.sweep()
    path.write_bytes(whole)
    with opened(data) as made:
        assert made.store.load("ann", today).messages[0].images == (part,)
        assert is_here(made, part)


def test_the_advice_for_a_corrupt_database_loses_nothing(data: Path) -> None:
    with opened(data) as made:
        talk, part = show(made)
    path = database(data)
    whole = path.read_bytes()
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError) as caught, opened(data):
        pass
    told = str(caught.value)
    for name in (f"{path}.damaged", f"{path}-wal", f"{path}-shm"):
        assert name in told
    path.rename(f"{path}.damaged")
    age(data)
    with opened(data) as fresh:
        fresh.sweep()
        assert fresh.store.headings("ann") == []
    path.unlink()
    path.write_bytes(whole)  # as somebody repaired it
    with opened(data) as made:
        assert made.store.load("ann", talk).messages[0].images == (part,)
        assert is_here(made, part)


def make_older(data: Path) -> None:
    """As a version before this one left it: all files in the folder itself, and no list of them."""
    for path in media_files(data):
        (data / "media" / path.parent.name).mkdir(exist_ok=True)
        path.rename(data / "media" / path.parent.name / path.name)
    change(database(data), "DROP TABLE media", "DROP TABLE properties")


def test_what_an_older_version_added_is_found_and_stays_where_it_was(data: Path) -> None:
    with opened(data) as made:
        _, held = show(made, 64)
        talk, dropped = show(made, 65)
    make_older(data)
    before = {path: path.read_bytes() for path in media_files(data)}
    with opened(data) as made:
        assert is_here(made, held)
        own = data / "media" / made.store.media_owner
        made.store.delete("ann", talk)
        sweep_later(made, data)
        assert [path.stem for path in own.rglob("*.png")] == [held.sha256]
    assert {path: path.read_bytes() for path in before} == before
    assert {path.stem for path in before} == {held.sha256, dropped.sha256}


def test_a_copy_that_is_opened_before_its_original_takes_nothing_from_it(data: Path) -> None:
    """Both were made by an older version, so neither is known to hold what lies in the folder."""
    with opened(data) as made:
        talk, part = show(made)
    make_older(data)
    copy = copy_database(data)
    with opened(data, f"sqlite:///{copy}") as other:
        other.store.delete("ann", talk)
        sweep_later(other, data)
    with opened(data) as made:
        assert made.store.load("ann", talk).messages[0].images == (part,)
        assert is_here(made, part)


def test_a_data_folder_that_was_moved_is_the_same_one(data: Path, tmp_path: Path) -> None:
    with opened(data) as made:
        talk, part = show(made)
    data.rename(tmp_path / "moved")
    with opened(tmp_path / "moved") as made:
        assert is_here(made, part)
        made.store.delete("ann", talk)
        age(tmp_path / "moved")
        made.sweep()
    assert media_files(tmp_path / "moved") == []


def test_a_damaged_message_still_holds_its_picture(data: Path) -> None:
    with opened(data) as made:
        _, part = show(made)
    change(database(data), "UPDATE messages SET parts = substr(parts, 1, length(parts) - 3)")
    age(data)
    with opened(data) as made:
        made.sweep()
        assert is_here(made, part)


def test_what_was_undone_or_edited_stays_to_be_sent_again(data: Path) -> None:
    with opened(data) as made:
        chats = Chats(made.store, made.media, made.assistant)
        (first, undone), (second, edited) = show(made, 64), show(made, 65)
        age(data)
        chats.open("ann", first).take_back()
        message = made.store.load("ann", second).messages[0]
        chats.open("ann", second).edit(message.id, "Other words")
        made.sweep()
        assert is_here(made, undone)
        assert is_here(made, edited)
        assert made.store.load("ann", second).messages[0].parts == (
            edited,
            TextPart("Other words"),
        )


def test_sweeping_while_pictures_are_added_loses_none(data: Path) -> None:
    """What is swept at once, however young, may be added again at that moment."""
    with opened(data) as made:
        ended, lost = threading.Event(), []

        def sweep() -> None:
            while not ended.is_set():
                made.sweep()

        sweeper = threading.Thread(target=sweep)
        sweeper.start()
        for _ in range(15):
            age(data)
            part = made.media.add_image(png(64), "a.png")
            if not is_here(made, part):
                lost.append(part)
        ended.set()
        sweeper.join()
        assert lost == []


def test_a_digest_that_is_none_leads_nowhere(data: Path) -> None:
    with opened(data) as made:
        (data / "secret.png").write_bytes(b"secret")
        part = ImagePart("../../secret", "image/png", 4, 3)
        assert not is_here(made, part)


def test_what_a_kill_left_unfinished_is_removed(data: Path) -> None:
    with opened(data) as made:
        _, part = show(made)
        left = made.media.path(part).parent.parent / ".new-abc"
        left.write_bytes(b"half")
        made.sweep()
        assert left.exists(), "it may be under way"
        sweep_later(made, data)
        assert not left.exists()


def test_pictures_are_kept_on_a_file_system_without_locks(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder in the place of the lock's file fails as such a file system does: with OSError."""
    with opened(data) as made:
        (data / "media" / made.store.media_owner / ".lock").mkdir(parents=True)
        talk, part = show(made)
        assert is_here(made, part)
        made.store.delete("ann", talk)
        show(made, 65)
        sweep_later(made, data)
        assert not is_here(made, part)
    told = [record.getMessage() for record in caplog.records if "locked" in record.getMessage()]
    assert len(told) == 1
    assert "start no second program" in told[0]


def test_a_lock_that_another_program_keeps_is_told(data: Path) -> None:
    with opened(data) as made:
        own = data / "media" / made.store.media_owner
        own.mkdir(parents=True)
        files = MediaFiles(data / "media", made.store, lock_wait_s=0.1)
        with FileLock(own / ".lock"), pytest.raises(OSError, match=r"another program holds .*lock"):
            files.keep(b"x", "png")
        assert files.keep(b"x", "png")
