"""Untrusted pictures and recordings in, bounded and normalised files out.

What a file is, its content says, never its name. A picture loses all metadata (place and camera
too), is turned upright and made at most `MediaLimits.stored_side` pixels wide and high. A recording
becomes mono FLAC at 16 kHz. Files are named by the SHA-256 of what is stored, so the same
picture is kept once. Whatever cannot be used raises MediaError: one sentence, with the way out.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from multimodal import sound
from multimodal.errors import MediaError, StoreError
from multimodal.media_files import MediaFiles, MediaOwner
from multimodal.messages import AudioPart, ImagePart

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
PICTURE_SIGNS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
OTHERS = {b"%PDF": "a PDF", b"PK\3\4": "an archive", b"\x7fELF": "software", b"MZ": "software"}
MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What is accepted; sides in pixels, times in seconds."""

    file_bytes: int = 50_000_000
    min_side: int = 16
    pixels: int = 50_000_000
    aspect: int = 50
    stored_side: int = 2048
    min_audio_s: float = 0.1
    max_audio_s: float = 1800.0


class MediaFolder:
    """A folder of normalised media; every method is thread-safe."""

    def __init__(
        self, root: Path, limits: MediaLimits | None = None, owner: MediaOwner | None = None
    ) -> None:
        self._root = root
        self._files = MediaFiles(root, owner)
        self.limits = limits or MediaLimits()

    def add(self, source: Path | bytes, name: str) -> ImagePart | AudioPart:
        """Normalise and keep a picture or a recording, whichever it is."""
        data, name = self._read(source, name), safe_name(name)
        return self._image(data, name) if _is_picture(data) else self._audio(data, name)

    def add_image(self, source: Path | bytes, name: str) -> ImagePart:
        data, name = self._read(source, name), safe_name(name)
        _refuse_other_kinds(data, name)
        if not _is_picture(data):
            raise MediaError(f"“{name}” is not a picture this program reads. Use JPEG or PNG.")
        return self._image(data, name)

    def add_audio(self, source: Path | bytes, name: str) -> AudioPart:
        return self._audio(self._read(source, name), safe_name(name))

    def add_made(self, png: bytes, description: str, facts: Mapping[str, str]) -> ImagePart:
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
        """The picture in RGB, what was transparent on white."""
        with _picture_errors(part.name), Image.open(self.path(part), formats=FORMATS) as stored:
            stored.load()
            if stored.mode == "RGB":
                return stored.copy()
            layer = stored.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")

    def waveform(self, part: AudioPart) -> NDArray[np.float32]:
        """The recording, float32 in [-1, 1], mono, 16 kHz, shape (samples,)."""
        return sound.decode(self.path(part).read_bytes(), part.name, self.limits.max_audio_s)

    def adopt(self) -> None:
        """Find what the owner once added, wherever in the folder it lies; see `MediaFiles`."""
        self._files.adopt()

    def sweep(self, older_than_s: float) -> int:
        """Remove what the owner added longer ago than that and no longer uses; return how many
        files. Raises StoreError."""
        with self._saving_errors():
            return self._files.sweep(older_than_s)

    def _read(self, source: Path | bytes, name: str) -> bytes:
        """The bytes of `source`, if it is not empty and not too large."""
        name, limit, size = safe_name(name), self.limits.file_bytes, 0
        try:
            if isinstance(source, Path):
                size = source.stat().st_size
                with source.open("rb") as file:  # it may grow while it is read, or have no end
                    source = file.read(limit + 1)
        except OSError as error:
            raise MediaError(
                f"“{name}” cannot be read ({error.strerror}). Send it again."
            ) from error
        if (size := max(size, len(source))) > limit:
            most = f"at most {limit / 1e6:.0f} MB can be sent"
            raise MediaError(f"“{name}” has {size / 1e6:.0f} MB and {most}. Make it smaller.")
        if not source:
            raise MediaError(f"“{name}” is empty. Send the original again.")
        return source

    def _image(self, data: bytes, name: str) -> ImagePart:
        with _picture_errors(name), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            self._check_size(opened.size, name)
            opened.draft(None, (self.limits.stored_side,) * 2)  # a huge JPEG is decoded smaller
            opened.load()
            upright: Image.Image = opened
            with suppress(Exception):  # broken metadata; the picture itself is whole
                upright = ImageOps.exif_transpose(opened)
            upright = _eight_bit(upright)
            picture = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        picture.info.clear()  # Pillow would write a colour profile into the new file
        picture.thumbnail((self.limits.stored_side,) * 2, Image.Resampling.LANCZOS)
        lossless = picture.mode == "RGBA" or opened.format in {"PNG", "GIF", "BMP"}
        media_type, buffer = "image/png" if lossless else "image/webp", io.BytesIO()
        picture.save(buffer, "PNG" if lossless else "WEBP", quality=92, method=2)
        digest = self._keep(buffer.getvalue(), media_type)
        return ImagePart(digest, media_type, picture.width, picture.height, name)

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

    def _audio(self, data: bytes, name: str) -> AudioPart:
        _refuse_other_kinds(data, name)
        waveform = sound.decode(data, name, self.limits.max_audio_s)
        seconds = len(waveform) / sound.SAMPLE_RATE
        if seconds < self.limits.min_audio_s:
            raise MediaError(f"“{name}” holds {seconds:.2f} seconds of sound. Record it again.")
        digest = self._keep(sound.flac(waveform), "audio/flac")
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


def _is_picture(data: bytes) -> bool:
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


def _eight_bit(image: Image.Image) -> Image.Image:
    """A picture of 16 or 32 bits a pixel stretched to 8; `convert` alone would clip it to white."""
    if image.mode[0] not in "IF":
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / ((high - low) or 1))).astype(np.uint8))


@contextmanager
def _picture_errors(name: str) -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # whatever a decoder makes of hostile bytes
        fault = "is damaged. Send the original again."
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            fault = "unpacks to far more pixels than a picture should. Scale it down."
        elif "truncated" in str(error):
            fault = "is cut off: the file ends before the picture does. Send the original again."
        raise MediaError(f"“{name}” {fault}") from error
