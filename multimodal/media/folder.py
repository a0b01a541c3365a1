"""Where the bytes of pictures and recordings lie: files named by their SHA-256, in one folder.

Each database has a subfolder of its own and removes nothing elsewhere, so whatever is started on a
data folder loses no other database's media. What is found only in another's subfolder, or in the
folder itself where older versions kept everything, is linked into its own (copied where the file
system has no links): the bytes stay until the last link goes.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from multimodal.private_files import FILE_MODE, make_private_folder

DIGEST = re.compile(r"[0-9a-f]{64}")
UNFINISHED = ".new-"
UNFINISHED_S = 3600.0
"""A file that was not finished in that time was left by a program that was killed."""
LOCK_WAIT_S = 30.0
"""For another program, which holds the lock while it writes or removes one file."""

log = logging.getLogger(__name__)


class MediaOwner(Protocol):
    """The database that media belong to: it knows what it once added."""

    media_owner: str
    """A name that no other database has, for the subfolder."""

    def record_media(self, digests: Iterable[str]) -> None: ...
    def recorded_media(self) -> Collection[str]: ...
    def unused_media(self, older_than_s: float) -> Collection[str]: ...
    def forget_media(self, digest: str, older_than_s: float) -> bool: ...


class MediaFiles:
    """The files of one owner; without an owner, of the folder itself, where nothing is removed.

    Every method is safe for threads and for other processes on the same folder, and raises OSError.
    `lock_wait_s`: how long another process may hold the folder's lock, in seconds.
    """

    def __init__(
        self, root: Path, owner: MediaOwner | None = None, lock_wait_s: float = LOCK_WAIT_S
    ) -> None:
        self._root = root
        self._owner = owner
        self._own = root / owner.media_owner if owner is not None else root
        self._lock = threading.Lock()
        self._lock_wait_s = lock_wait_s
        self._has_warned = False

    def find(self, digest: str, suffix: str) -> Path | None:
        """The file with these bytes, from now on an own one; None where it is gone."""
        if not DIGEST.fullmatch(digest):
            return None
        own = self._place(digest, suffix)
        if own.is_file():
            return own
        other = next(self._others(f"{digest}.{suffix}"), None)
        if other is None or self._owner is None:
            return other
        try:
            with self._locked():
                self._owner.record_media([digest])
                self._take_over(other, own)
        except OSError as error:
            log.warning("%s could not be linked to %s (%s)", other, own, error)
            return other
        return own

    def keep(self, data: bytes, suffix: str) -> str:
        """Write the bytes where they are not there yet; return their digest."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._place(digest, suffix)
        make_private_folder(path.parent)
        with self._locked():
            if self._owner is not None:
                self._owner.record_media([digest])  # `sweep` counts from now
            if not path.exists():
                self._write(path, lambda file: _write_all(file, data))
        return digest

    def adopt(self) -> None:
        """Make sure that what the owner once added is in its own subfolder: after its file was
        copied or moved, or by a version that had none."""
        if self._owner is None or not self._root.is_dir():
            return
        missing = [d for d in self._owner.recorded_media() if not self._kept(d)]
        with suppress(OSError):
            for digest in missing:
                for other in list(self._others(f"{digest}.*"))[:1]:
                    with self._locked():
                        self._take_over(other, self._place(digest, other.suffix[1:]))

    def sweep(self, older_than_s: float) -> int:
        """Remove what the owner added longer ago than that and no longer uses; return how many
        files. Younger ones may belong to a message that is being stored."""
        if self._owner is None or not self._own.is_dir():
            return 0
        removed = 0
        for digest in self._owner.unused_media(older_than_s):
            with self._locked():
                if self._owner.forget_media(digest, older_than_s):
                    removed += self._remove(digest)
        for path in self._own.glob(f"{UNFINISHED}*"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - UNFINISHED_S:
                    path.unlink()
        return removed

    def _remove(self, digest: str) -> int:
        """Remove the files with these bytes; return how many went. One that cannot be removed, as
        on Windows while it is sent to a browser, is tried again by a later sweep."""
        removed = 0
        for path in self._kept(digest):
            try:
                path.unlink(missing_ok=True)
                removed += 1
            except OSError as error:
                log.warning("%s cannot be removed now (%s)", path, error)
                if self._owner is not None:
                    self._owner.record_media([digest])
        return removed

    def _place(self, digest: str, suffix: str) -> Path:
        return self._own / digest[:2] / f"{digest}.{suffix}"

    def _kept(self, digest: str) -> list[Path]:
        return list(self._own.glob(f"{digest[:2]}/{digest}.*"))

    def _others(self, name: str) -> Iterator[Path]:
        """Files of that name in the subfolders of other owners, and in the folder itself."""
        for pattern in (f"{name[:2]}/{name}", f"*/{name[:2]}/{name}"):
            yield from (path for path in self._root.glob(pattern) if path.is_file())

    def _take_over(self, other: Path, own: Path) -> None:
        make_private_folder(own.parent)
        try:
            os.link(other, own)
        except FileExistsError:
            return
        except OSError:
            self._write(own, lambda file: shutil.copyfile(other, file))
        own.chmod(FILE_MODE)

    def _write(self, path: Path, fill: Callable[[Path], object]) -> None:
        """All of the file or nothing, for its owner alone."""
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=self._own)
        os.close(handle)
        try:
            fill(Path(name))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Between looking whether a file is wanted and removing it, nobody may begin to want it.

        On a file system without locks, threads of this program alone are kept apart.
        """
        make_private_folder(self._own)
        with self._lock, ExitStack() as held:
            try:
                held.enter_context(
                    FileLock(self._own / ".lock", timeout=self._lock_wait_s, mode=FILE_MODE)
                )
            except Timeout as error:
                raise OSError(
                    errno.EBUSY, f"another program holds {self._own / '.lock'}"
                ) from error
            except (OSError, NotImplementedError) as error:
                self._warn(error)
            yield

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s cannot be locked (%s); start no second program on it", self._own, error)


def _write_all(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
