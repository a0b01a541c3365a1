"""What one request may bring, one message may hold, and one decoder may be given to do: the bounds
that the page and the HTTP interface share, each checked before the work that it bounds.

Where a bound cannot be known before the work (a header may lie), it is checked again meanwhile, so
that what is done is bounded whatever the header says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from multimodal.errors import MediaError, PromptError, RequestError


@dataclass(frozen=True, slots=True)
class Limits:
    """Sides and counts of pixels, times in seconds, texts in characters, sizes in bytes.

    `audio_samples` counts those of all channels as they are stored, before anything is mixed or
    resampled: half an hour of stereo at 48 kHz. What ends in `_in_all` is for one request.
    """

    text_characters: int = 400_000
    conversation_characters: int = 1_000_000
    message_files: int = 10
    files_in_all: int = 50
    chat_characters: int = 2_000_000
    """Of a kept conversation: all that was typed, heard, seen and answered in it."""
    chat_files: int = 200

    file_bytes: int = 50_000_000
    min_side: int = 16
    pixels: int = 50_000_000
    pixels_in_all: int = 200_000_000
    aspect: int = 50
    stored_side: int = 2048
    """Of the longer side of a picture as it is kept; a long page or panorama may be longer."""
    page_width: int = 1280
    """Of the shorter side, which a long page keeps so that its text can be read."""
    page_length: int = 12_288
    """Of the longer side, whatever the shorter one; WebP holds 16,383."""
    min_audio_s: float = 0.1
    max_audio_s: float = 1800.0
    audio_samples: int = 180_000_000
    audio_samples_in_all: int = 360_000_000

    body_bytes: int = 80_000_000
    """Of a request that may carry pictures and sound; twice as much is held at once."""
    words_body_bytes: int = 3_000_000
    """Of one that carries words alone."""
    json_items: int = 500_000
    """Lists, objects and what they hold: small on the wire, a hundred times larger when parsed."""
    upload_bytes: int = 100_000_000
    """Of all files of one upload."""
    least_file_bytes: int = 65_536
    """What an uploaded file counts for at least: each has a folder of its own on the disk."""
    visitor_upload_bytes: int = 500_000_000
    """Of all uploads from one address that are still kept."""
    uploads_in_all_bytes: int = 2_000_000_000

    def stored_size(self, width: int, height: int) -> tuple[int, int]:
        """The size that a picture is kept at, never larger than it is: at most 16 million pixels
        with the usual sides."""
        shorter, longer = min(width, height), max(width, height)
        page = min(self.page_width / shorter, self.page_length / longer)
        scale = min(1.0, max(self.stored_side / longer, page))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def check_text(self, text: str) -> None:
        """Raise PromptError for a message that is too long."""
        if len(text) > self.text_characters:
            raise PromptError(
                f"This message is {len(text):,} characters long and at most "
                f"{self.text_characters:,} can be sent. Shorten it, or send it in parts."
            )

    def check_conversation(self, texts: Iterable[str]) -> None:
        """Raise PromptError where one of the texts, or all of them together, are too long."""
        total = 0
        for text in texts:
            self.check_text(text)
            total += len(text)
        if total > self.conversation_characters:
            raise PromptError(
                f"This conversation is {total:,} characters long and at most "
                f"{self.conversation_characters:,} can be sent. Leave out its oldest messages."
            )

    def check_chat(self, characters: int, files: int) -> None:
        """Raise PromptError for more than one kept conversation holds."""
        if characters > self.chat_characters or files > self.chat_files:
            raise PromptError(
                f"One chat holds {self.chat_characters:,} characters and {self.chat_files} files, "
                "and this would be more. Begin a new chat, and send it there."
            )

    def check_files(self, most_in_a_message: int, in_all: int) -> None:
        """Raise PromptError for more pictures and recordings than a message or a request holds."""
        if most_in_a_message > self.message_files:
            raise PromptError(
                f"{most_in_a_message} files are too many for one message; send "
                f"{self.message_files}."
            )
        if in_all > self.files_in_all:
            raise PromptError(
                f"{in_all} pictures and recordings are too many for one request; at most "
                f"{self.files_in_all} are taken. Leave out the oldest."
            )

    def check_json(self, body: bytes) -> None:
        """Raise RequestError for a body that would take far more memory than its own size."""
        if sum(body.count(sign) for sign in (b",", b"[", b"{")) > self.json_items:
            raise RequestError(
                f"The body holds more than {self.json_items:,} values. Send less at once."
            )


class DecodeQuota:
    """What one request may still have decoded, shared by all its pictures and recordings."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pixels = self._samples = 0

    def take_pixels(self, count: int) -> None:
        self._pixels += count
        if self._pixels > self._limits.pixels_in_all:
            raise MediaError(
                "The pictures have more than "
                f"{self._limits.pixels_in_all // 1_000_000} million pixels together. Send fewer at "
                "once, or scale them down."
            )

    def take_samples(self, count: int) -> None:
        self._samples += count
        if self._samples > self._limits.audio_samples_in_all:
            raise MediaError(
                "The recordings are too long for one request. Send fewer at once, or as mono at "
                "16 kHz."
            )
