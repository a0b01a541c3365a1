"""Untrusted pictures and recordings: bounded, normalised, or refused in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimodal.errors import MediaError, StoreError
from multimodal.media import MediaFolder, MediaLimits, safe_name
from multimodal.messages import AudioPart, ImagePart


@pytest.fixture
def media(tmp_path: Path) -> MediaFolder:
    return MediaFolder(tmp_path / "media")


def picture(
    size: tuple[int, int] = (64, 48), form: str = "JPEG", mode: str = "RGB", **more: object
) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, form, **more)
    return buffer.getvalue()


def sound(seconds: float, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\1\0" * round(seconds * rate))
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be this large; a few dozen bytes on the wire."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_every_usual_kind_are_kept(media: MediaFolder, form: str) -> None:
    part = media.add(picture(form=form), "a.xyz")
    assert isinstance(part, ImagePart)
    assert (part.width, part.height) == (64, 48)
    assert media.image(part).size == (64, 48)
    assert media.image(part).mode == "RGB"


def test_metadata_is_removed_and_the_picture_turned_upright(media: MediaFolder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "SecretCamera"
    part = media.add(picture(exif=exif), "a.jpg")
    assert isinstance(part, ImagePart)
    assert (part.width, part.height) == (48, 64)
    assert b"SecretCamera" not in media.path(part).read_bytes()


def test_what_is_transparent_becomes_white(media: MediaFolder) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(buffer, "PNG")
    part = media.add_image(buffer.getvalue(), "a.png")
    assert media.image(part).getpixel((0, 0)) == (255, 255, 255)


def test_a_large_picture_is_scaled_down(media: MediaFolder) -> None:
    part = media.add_image(picture((4000, 1000)), "wide.jpg")
    assert (part.width, part.height) == (2048, 512)


def test_the_same_picture_is_kept_once(media: MediaFolder, tmp_path: Path) -> None:
    first, second = media.add(picture(), "a.jpg"), media.add(picture(), "b.jpg")
    assert first.sha256 == second.sha256
    assert len([p for p in (tmp_path / "media").rglob("*") if p.is_file()]) == 1


@pytest.mark.parametrize("name", ["question-en.wav", "question-fr.wav", "speech-en.wav"])
def test_recordings_become_16_khz(media: MediaFolder, examples: Path, name: str) -> None:
    part = media.add(examples / name, name)
    assert isinstance(part, AudioPart)
    waveform = media.waveform(part)
    assert waveform.dtype == np.float32
    assert len(waveform) / 16_000 == pytest.approx(part.seconds, abs=0.01)
    assert 0.1 < np.abs(waveform).max() <= 1


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (picture((1, 1), "PNG"), "dot.png", "only 1x1 pixels"),
        (picture((20000, 20), "PNG"), "strip.png", "20000x20 pixels, too narrow a strip"),
        (picture()[: len(picture()) // 2], "cut.jpg", "is cut off"),
        (png_header(30000, 30000), "bomb.png", "far more pixels"),
        (png_header(9000, 9000), "big.png", "at most 50 million pixels"),
        (b"", "nothing.jpg", "is empty"),
        (b"\0" * 200_000_000, "huge.bin", "has 200 MB and at most 50 MB"),
        (b"MZ" + os.urandom(4096), "virus.jpg", "is not a picture or a recording"),
        (Path(sys.executable).resolve().read_bytes()[:100_000], "photo.png", "is not a picture"),
        (b"Dear diary, " * 50, "notes.txt", "is not a picture or a recording"),
        (sound(0), "silent.wav", "holds 0 seconds"),
        (sound(0.05), "blip.wav", "Record it again"),
        (sound(3 * 3600, rate=1000), "lecture.wav", "3:00:00 or longer; at most 0:30:00"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "list.m3u8", "is not a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 15 else "",
)
def test_what_cannot_be_used_is_refused_by_name_with_a_way_out(
    media: MediaFolder, data: bytes, name: str, sentence: str
) -> None:
    with pytest.raises(MediaError) as caught:
        media.add(data, name)
    told = str(caught.value)
    assert told.startswith(f"“{name}”")
    assert sentence in told
    assert "\n" not in told


def test_a_length_in_the_header_is_not_believed(tmp_path: Path) -> None:
    """A WAV whose header says one second, with far more sound behind it."""
    data = bytearray(sound(20))
    short = MediaFolder(tmp_path, MediaLimits(max_audio_s=5))
    with pytest.raises(MediaError, match="or longer"):
        short.add(bytes(data), "long.wav")
    stream = MediaFolder(tmp_path)
    full = stream.add(bytes(data), "ok.wav")
    assert isinstance(full, AudioPart)
    assert full.seconds == pytest.approx(20, abs=0.1)


def test_a_recording_is_no_picture(media: MediaFolder) -> None:
    with pytest.raises(MediaError, match="is not a picture"):
        media.add_image(sound(1), "a.wav")


def test_a_file_that_was_deleted_is_told(media: MediaFolder) -> None:
    part = media.add(picture(), "a.jpg")
    media.path(part).unlink()
    with pytest.raises(MediaError, match="no longer in"):
        media.path(part)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--data DIR"):
        MediaFolder(tmp_path / "file").add(picture(), "a.jpg")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.jpg", "cat.jpg"),
        ("a\x00b\u202egpj.exe", "abgpj.exe"),
        ("", "file"),
        ("x" * 100 + ".jpg", "x" * 51 + "…" + "xxxx.jpg"),
    ],
)
def test_names_are_made_safe_to_show(name: str, shown: str) -> None:
    assert safe_name(name) == shown


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.sampled_from(["", "jpeg", "png", "wav", "ogg"]))
def test_any_bytes_are_a_part_or_a_media_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, kind: str
) -> None:
    heads = {"": b"", "jpeg": picture()[:200], "png": picture(form="PNG")[:60]}
    heads |= {"wav": sound(0.2)[:60], "ogg": b"OggS\0\2" + b"\0" * 20}
    folder = MediaFolder(tmp_path_factory.getbasetemp() / "any")
    with contextlib.suppress(MediaError):
        assert isinstance(folder.add(heads[kind] + noise, "x"), ImagePart | AudioPart)
