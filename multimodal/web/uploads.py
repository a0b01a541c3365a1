"""What the files that people send to the page may take of the disk, in all and each of them."""

from __future__ import annotations

import heapq
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from python_multipart.multipart import MultipartParser, parse_options_header

from multimodal.errors import CapacityError, MediaError, MultimodalError, TooLargeError
from multimodal.limits import Limits

SPARE_BYTES = 200_000_000
"""Of the disk, left to conversations and to what else runs on this machine."""
ABANDONED_S = 120.0
"""Without a byte; longer than a client may stand still."""
FIELD_BYTES = 10_000
"""Of what is no file in an upload; it would be held in memory."""


@dataclass
class Upload:
    """One that is being received; it counts for `size` bytes, which are set to what really came."""

    size: int


class UploadLedger:
    """What is being uploaded, and what was and is not yet deleted. For one event loop.

    `folder`: where uploads are kept, each for at most `kept_s` seconds.
    """

    def __init__(self, folder: Path, limits: Limits, kept_s: float) -> None:
        self._folder = folder
        self._limits = limits
        self._kept_s = kept_s
        self._in_all = 0
        self._of_visitor: Counter[str] = Counter()
        self._kept: list[tuple[float, str, int]] = []
        """Heap of uploads that were received: until when each counts, of whom, and for how much."""

    @contextmanager
    def receiving(self, visitor: str, size: int | None) -> Iterator[Upload]:
        """Count an upload of `size` bytes, or of any size, from `visitor`.

        Raises TooLargeError or CapacityError before anything of it is received.
        """
        limits = self._limits
        if size is not None and size > limits.upload_bytes:
            raise too_large(size, limits)
        expected = max(size or limits.upload_bytes, limits.least_file_bytes)
        self._check(visitor, expected)
        self._count(visitor, expected)
        upload = Upload(expected)
        kept_s = ABANDONED_S  # what was cut off lies there until it is found
        try:
            yield upload
            kept_s = self._kept_s
        finally:
            self._count(visitor, upload.size - expected)
            heapq.heappush(self._kept, (time.monotonic() + kept_s, visitor, upload.size))

    def remove_abandoned(self) -> None:
        """Delete what is left of uploads that were cut off: nothing was written for a while."""
        before = time.time() - ABANDONED_S
        for path in self._folder.glob("tmp*"):
            with suppress(OSError):
                if path.is_file() and path.stat().st_mtime < before:
                    path.unlink()

    def _count(self, visitor: str, size: int) -> None:
        self._in_all += size
        self._of_visitor[visitor] += size
        if not self._of_visitor[visitor]:
            del self._of_visitor[visitor]

    def _forget_deleted(self) -> None:
        now = time.monotonic()
        while self._kept and self._kept[0][0] <= now:
            _, visitor, size = heapq.heappop(self._kept)
            self._count(visitor, -size)

    def _check(self, visitor: str, size: int) -> None:
        limits = self._limits
        self._forget_deleted()
        if self._of_visitor[visitor] + size > limits.visitor_upload_bytes:
            raise CapacityError(
                f"You have sent more than {limits.visitor_upload_bytes / 1e6:.0f} MB within the "
                "last hour. Send this later."
            )
        if self._in_all + size > limits.uploads_in_all_bytes:
            raise CapacityError("The server holds too many files at the moment. Send this later.")
        self._folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free < size + SPARE_BYTES:
            raise full_disk()


def too_large(size: int, limits: Limits) -> TooLargeError:
    return TooLargeError(
        f"These files have {size / 1e6:.0f} MB together or more, and at most "
        f"{limits.upload_bytes / 1e6:.0f} MB can be sent at once. Send fewer, or make them smaller."
    )


def full_disk() -> CapacityError:
    return CapacityError(
        "The file was not kept: the server's disk is full. Whoever runs it has to free some space."
    )


class UploadForm:
    """Watches a form as it passes: refuses too many files, and fields that are none."""

    def __init__(self, content_type: bytes, limits: Limits) -> None:
        """Raises MediaError where it is not a form with files."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise MediaError("Files are sent as multipart/form-data.")
        self._limits = limits
        self._files = self._field_bytes = self._bytes = 0
        self._is_file = False
        self._name, self._value = bytearray(), bytearray()
        self._refusal: MultimodalError | None = None
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_part_data": self._count,
            },
        )

    @property
    def kept_bytes(self) -> int:
        """What has come so far counts for so much of the disk."""
        return max(self._bytes, self._files * self._limits.least_file_bytes)

    def feed(self, piece: bytes) -> None:
        """Raises MediaError or TooLargeError; what is no form is left to who reads it."""
        self._bytes += len(piece)
        if self._bytes > self._limits.upload_bytes:
            raise too_large(self._bytes, self._limits)
        with suppress(ValueError):  # python_multipart's errors are ones
            self._parser.write(piece)
        if self._refusal is not None:
            raise self._refusal

    def _begin_part(self) -> None:
        self._is_file = False

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._is_file = b"filename" in parse_options_header(bytes(self._value))[1]
            self._files += self._is_file
        if self._files > (most := self._limits.message_files):
            self._refusal = MediaError(f"More than {most} files were sent at once. Send fewer.")
        self._name.clear()
        self._value.clear()

    def _count(self, _data: bytes, start: int, end: int) -> None:
        self._field_bytes += 0 if self._is_file else end - start
        if self._field_bytes > FIELD_BYTES:
            self._refusal = MediaError("Only files can be uploaded. Send them as files.")
