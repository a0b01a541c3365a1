"""The data folder: readable by its owner alone, and served by one program at a time."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from multimodal.errors import SettingsError
from multimodal.private_files import FILE_MODE, make_private, make_private_folder
from multimodal.settings import APP, Settings

PERSONAL = ("conversations.sqlite3*", "media", "page-cache", "secret", "studio")
OTHERS = ("weights", "models", "peaks.*", "serving.*", ".probe-*")
"""What else is written there; it tells nothing about anybody."""

log = logging.getLogger(__name__)


def prepare_data_folder(settings: Settings) -> None:
    """Make the folder everything is written to, for its owner alone, and see that it can be
    written; what others could read of one that is there is closed to them.

    Raises SettingsError naming it otherwise.
    """
    probe = settings.data / f".probe-{secrets.token_hex(4)}"
    try:
        make_private_folder(settings.data)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise SettingsError(
            f"The data folder {settings.data} cannot be written ({error.strerror}). "
            "Choose another one with --data DIR."
        ) from error
    closed = [path for path in _personal(settings.data) if make_private(path)]
    if closed:
        names = ", ".join(str(path) for path in closed)
        log.warning("Others could read %s; now only you can.", names)


def _personal(data: Path) -> list[Path]:
    """What is to be closed: the folder, unless it holds what is not ours, and what is personal."""
    entries = sorted(data.iterdir())
    personal = [path for path in entries if _is_any(path, PERSONAL)]
    is_ours = all(_is_any(path, PERSONAL + OTHERS) for path in entries)
    if data == platformdirs.user_data_path(APP) or (is_ours and not data.stat().st_mode & 0o1000):
        return [data, *personal]
    return personal


def _is_any(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in patterns)


@contextmanager
def lock_data_folder(settings: Settings) -> Iterator[Callable[[str], None]]:
    """Keep other servers off the folder; the function that is yielded notes this one's address.

    The operating system frees the lock of a program that ends in whatever way. Commands that serve
    nothing need no lock. Raises SettingsError that says who holds the folder.
    """
    lock = FileLock(settings.data / "serving.lock", mode=FILE_MODE)
    record = settings.data / "serving.json"
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise SettingsError(
            f"The data folder {settings.data} is in use by {_holder(record)}. Open that one, stop "
            "it first, or give this one a folder of its own: --data DIR."
        ) from error
    except (OSError, NotImplementedError) as error:
        log.warning("%s cannot be locked (%s); start no second server on it", settings.data, error)

    def note(address: str) -> None:
        with suppress(OSError):
            record.write_text(json.dumps({"pid": os.getpid(), "address": address}), "utf-8")

    try:
        note("")
        yield note
    finally:
        if lock.is_locked:
            with suppress(OSError):
                record.unlink(missing_ok=True)
            lock.release()


def _holder(record: Path) -> str:
    try:
        found = json.loads(record.read_text("utf-8"))
        pid, address = int(found["pid"]), str(found["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another server"
    return f"the server at {address} (process {pid})" if address else f"process {pid}"
