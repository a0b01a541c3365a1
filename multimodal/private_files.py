"""Files and folders that only their owner can read. On Windows, where a file's rights come from its
folder, nothing is changed."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600

log = logging.getLogger(__name__)


def make_private_folder(path: Path) -> None:
    """Make the folder, and those above it that are not there, for its owner alone; one that is
    there stays as it is. Raises OSError."""
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            folder.mkdir(FOLDER_MODE, exist_ok=True)


def is_shared(path: Path) -> bool:
    """Whether somebody beside the owner may reach it."""
    try:
        return os.name == "posix" and bool(stat.S_IMODE(path.lstat().st_mode) & 0o077)
    except OSError:
        return False


def make_private(path: Path) -> bool:
    """Take everybody's rights but the owner's; return whether there were any and they are gone.

    What belongs to somebody else stays as it is, and a line of the log says so.
    """
    if path.is_symlink() or not is_shared(path):
        return False
    try:
        path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
    except OSError as error:
        log.warning("%s can be read by others and that cannot be changed (%s)", path, error)
        return False
    return True
