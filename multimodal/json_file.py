"""One value of the program kept as a JSON file. Losing it costs little, so a file that cannot be
read or written is a line of the log and no error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

log = logging.getLogger(__name__)

T = TypeVar("T")


class JsonFile(Generic[T]):
    """A value of the type `kind`; `kind()` is the one of a file that is not there or is damaged,
    and `consequence` is what follows from a damaged one, in words. Not thread-safe: its owner holds
    a lock."""

    def __init__(self, path: Path, kind: type[T], consequence: str) -> None:
        self._path = path
        self._kind = kind
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._consequence = consequence

    def read(self) -> T:
        try:
            return self._adapter.validate_json(self._path.read_text("utf-8-sig"))
        except FileNotFoundError:
            return self._kind()
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
        except (OSError, UnicodeDecodeError) as error:
            reason = str(error)
        log.warning("%s cannot be read (%s); %s", self._path, reason, self._consequence)
        return self._kind()

    def write(self, value: T) -> None:
        """Replace the file in one step, so that a crash leaves the old one."""
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(self._adapter.dump_json(value, indent=2))
            fresh.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error)
