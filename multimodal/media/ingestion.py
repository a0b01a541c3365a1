"""Untrusted pictures and recordings in, bounded and normalised files out.

What a file is, its content says, never its name. A picture loses all metadata (place and camera
too), is turned upright and made as small as `Limits.stored_size` says. A recording becomes mono
FLAC at 16 kHz. Files are named by the SHA-256 of what is stored, so the same picture is kept once.
Whatever cannot be used raises MediaError: one sentence, with the way out.
"""

from __future__ import annotations

import io
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from multimodal.errors import MediaError, MultimodalError, StoreError
from multimodal.limits import DecodeQuota, Limits
from multimodal.media import audio
from multimodal.media.audio import amplify_quiet_speech
from multimodal.media.decode_queue import DecodeQueue
from multimodal.media.folder import MediaFiles, MediaOwner
from multimodal.media.pixels import eight_bit_colour, flatten
from multimodal.messages import AudioPart, ImagePart

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
PICTURE_SIGNS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
OTHERS = {b"%PDF": "a PDF", b"PK\3\4": "an archive", b"\x7fELF": "software", b"MZ": "software"}
SIGN_BYTES = 64
ORIENTATION = 0x0112
MAX_NAME = 60


ByteSource = Path | bytes | Callable[[], bytes]
"""A file, its bytes, or what reads them; read only when it is the file's turn to be decoded."""


@dataclass(frozen=True)
class MediaIntake:
    """One request's pictures and recordings on their way in: what may still be decoded of them, and
    whether anybody still waits for it."""

    quota: DecodeQuota
    stop: threading.Event = field(default_factory=threading.Event)


class MediaFolder:
    """A folder of normalised media; every method is thread-safe."""

    def __init__(
        self, root: Path, limits: Limits | None = None, owner: MediaOwner | None = None
    ) -> None:
        self._root = root
        self._files = MediaFiles(root, owner)
        self.limits = limits or Limits()
        self._pictures, self._recordings = DecodeQueue("pictures"), DecodeQueue("recordings")

    def intake(self, stop: threading.Event | None = None) -> MediaIntake:
        """For the files of one request; setting `stop` ends the work on them."""
        return MediaIntake(DecodeQuota(self.limits), stop or threading.Event())

    def add(
        self, source: ByteSource, name: str, intake: MediaIntake | None = None
    ) -> ImagePart | AudioPart:
        """Normalise and keep a picture or a recording, whichever it is.

        Raises MediaError for what cannot be used, CapacityError where too many wait, and
        TurnStoppedError once the intake is stopped.
        """
        if is_picture(self._beginning(source, name)):
            return self.add_image(source, name, intake)
        return self.add_audio(source, name, intake)

    def add_image(
        self, source: ByteSource, name: str, intake: MediaIntake | None = None
    ) -> ImagePart:
        intake = intake or self.intake()
        return self._pictures.run(
            lambda: self._image(self._read(source, name), safe_name(name), intake), intake.stop
        )

    def add_audio(
        self, source: ByteSource, name: str, intake: MediaIntake | None = None
    ) -> AudioPart:
        intake = intake or self.intake()
        return self._recordings.run(
            lambda: self._audio(self._read(source, name), safe_name(name), intake), intake.stop
        )

    def add_generated(self, png: bytes, description: str, facts: Mapping[str, str]) -> ImagePart:
        """Keep a picture that a model of ours made, as PNG with `facts` in its text metadata."""
        told = PngInfo()
        for name, value in facts.items():
            told.add_itxt(name, value)
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(png), formats=("PNG",)) as made:
            size = made.size
            made.save(buffer, "PNG", pnginfo=told)
        digest = self._keep(buffer.getvalue(), "image/png")
        return ImagePart(digest, "image/png", *size, safe_name(f"{description}.png"), description)

    def path(self, part: ImagePart | AudioPart) -> Path:
        """Where the part's bytes are. Raises MediaError if they were deleted."""
        path = self._files.find(part.sha256, _suffix(part.media_type))
        if path is None:
            kind = "picture" if isinstance(part, ImagePart) else "recording"
            raise MediaError(
                f"The {kind} “{part.name}” is gone: its file is no longer in the data folder. "
                "Send it again to ask about it."
            )
        return path

    def image(self, part: ImagePart) -> Image.Image:
        """The picture in RGB, what was transparent on a ground that it stands out from."""
        with _picture_errors(part.name), Image.open(self.path(part), formats=FORMATS) as stored:
            stored.load()
            return stored.copy() if stored.mode == "RGB" else flatten(stored)

    def waveform(self, part: AudioPart) -> NDArray[np.float32]:
        """The recording as it is to be heard, float32 in [-1, 1], mono, 16 kHz, shape (samples,);
        quiet speech is amplified."""
        heard = audio.decode(self.path(part).read_bytes(), part.name, self.limits)
        return amplify_quiet_speech(heard)

    def close(self) -> None:
        """Stop what is being decoded; nothing can be added any more."""
        self._pictures.close()
        self._recordings.close()

    def adopt(self) -> None:
        """Find what the owner once added, wherever in the folder it lies; see `MediaFiles`."""
        self._files.adopt()

    def sweep(self, older_than_s: float) -> int:
        """Remove what the owner added longer ago than that and no longer uses; return how many
        files. Raises StoreError."""
        with self._saving_errors():
            return self._files.sweep(older_than_s)

    def _beginning(self, source: ByteSource, name: str) -> bytes:
        if isinstance(source, bytes):
            return source[:SIGN_BYTES]
        if not isinstance(source, Path):
            return source()[:SIGN_BYTES]
        with _reading(safe_name(name)), source.open("rb") as file:
            return file.read(SIGN_BYTES)

    def _read(self, source: ByteSource, name: str) -> bytes:
        """The bytes of `source`, if it is not empty and not too large."""
        name, limit, size = safe_name(name), self.limits.file_bytes, 0
        if isinstance(source, Path):
            with _reading(name):
                size = source.stat().st_size
                with source.open("rb") as file:  # it may grow while it is read, or have no end
                    source = file.read(limit + 1)
        data = source if isinstance(source, bytes) else source()
        if (size := max(size, len(data))) > limit:
            most = f"at most {limit / 1e6:.0f} MB can be sent"
            raise MediaError(f"“{name}” has {ceil(size / 1e6)} MB and {most}. Make it smaller.")
        if not data:
            raise MediaError(f"“{name}” is empty. Send the original again.")
        return data

    def _image(self, data: bytes, name: str, intake: MediaIntake) -> ImagePart:
        _refuse_other_kinds(data, name)
        if not is_picture(data):
            raise MediaError(f"“{name}” is not a picture this program reads. Use JPEG or PNG.")
        with _picture_errors(name), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            self._check_size(opened.size, name)
            intake.quota.take_pixels(opened.width * opened.height)
            sent = opened.size
            side = max(self.limits.stored_size(*sent))
            opened.draft(None, (side, side))  # a huge JPEG is decoded smaller
            opened.load()
            picture = eight_bit_colour(opened, side, intake.stop)
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            made_smaller = picture.size != sent
            with suppress(Exception):  # broken metadata; the picture itself is whole
                picture.getexif()[ORIENTATION] = opened.getexif().get(ORIENTATION, 1)
                upright = ImageOps.exif_transpose(picture)
                if upright.size != picture.size:
                    sent = sent[::-1]
                picture = upright
        picture.info.clear()  # Pillow would write a colour profile into the new file
        lossless = picture.mode == "RGBA" or opened.format in {"PNG", "GIF", "BMP"}
        media_type, buffer = "image/png" if lossless else "image/webp", io.BytesIO()
        picture.save(buffer, "PNG" if lossless else "WEBP", quality=92, method=2)
        digest = self._keep(buffer.getvalue(), media_type)
        reduced_from = sent if made_smaller else None
        return ImagePart(digest, media_type, *picture.size, name, reduced_from=reduced_from)

    def _check_size(self, size: tuple[int, int], name: str) -> None:
        width, height = size
        limits, shown = self.limits, f"{width}x{height} pixels"
        if min(size) < 1 or width * height > limits.pixels:
            most = f"at most {limits.pixels // 1_000_000} million pixels can be opened"
            raise MediaError(f"“{name}” is {shown}; {most}. Scale it down.")
        if max(size) / min(size) > limits.aspect:
            fault = "too narrow a strip to see anything in"
            raise MediaError(f"“{name}” is {shown}, {fault}. Cut out the part you mean.")
        if min(size) < limits.min_side:
            least = f"at least {limits.min_side} on each side are needed to see anything"
            raise MediaError(f"“{name}” is only {shown}; {least}. Send a larger one.")

    def _audio(self, data: bytes, name: str, intake: MediaIntake) -> AudioPart:
        _refuse_other_kinds(data, name)
        waveform = audio.decode(data, name, self.limits, intake.quota, intake.stop)
        seconds = len(waveform) / audio.SAMPLE_RATE
        if seconds < self.limits.min_audio_s:
            raise MediaError(f"“{name}” holds {seconds:.2f} seconds of sound. Record it again.")
        digest = self._keep(audio.flac(waveform), "audio/flac")
        return AudioPart(digest, "audio/flac", round(seconds, 3), name)

    def _keep(self, data: bytes, media_type: str) -> str:
        with self._saving_errors():
            return self._files.keep(data, _suffix(media_type))

    @contextmanager
    def _saving_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"The file could not be saved in {self._root} ({error.strerror}). Free some space, "
                "or start with another folder: --data DIR."
            ) from error


def _suffix(media_type: str) -> str:
    return media_type.partition("/")[2]


def safe_name(name: str) -> str:
    """A file's name as it may be shown: no folders, no control characters, not too long."""
    base = PurePath(name.replace("\\", "/")).name
    shown = "".join(c for c in base if unicodedata.category(c)[0] != "C").strip() or "file"
    return shown if len(shown) <= MAX_NAME else f"{shown[: MAX_NAME - 9]}…{shown[-8:]}"


def is_picture(data: bytes) -> bool:
    """Whether `data` begins as a picture that is read here."""
    bitmap = data.startswith(b"BM") and data[14:18] in BMP_HEADERS
    webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    return bitmap or webp or data.startswith(PICTURE_SIGNS)


def _refuse_other_kinds(data: bytes, name: str) -> None:
    """Name what people send by mistake most often, rather than call it damaged."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        raise MediaError(f"“{name}” is a HEIC or AVIF picture. Save it as JPEG and send that.")
    for sign, kind in OTHERS.items():
        if data.startswith(sign):
            fault = f"is not a picture or a recording but {kind}"
            raise MediaError(f"“{name}” {fault}. Send a JPEG or an MP3.")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(f"“{name}” cannot be read ({error.strerror}). Send it again.") from error


@contextmanager
def _picture_errors(name: str) -> Iterator[None]:
    try:
        yield
    except MultimodalError:
        raise
    except Exception as error:  # whatever a decoder makes of hostile bytes
        fault = "is damaged. Send the original again."
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            fault = "unpacks to far more pixels than a picture should. Scale it down."
        elif "truncated" in str(error):
            fault = "is cut off: the file ends before the picture does. Send the original again."
        raise MediaError(f"“{name}” {fault}") from error
