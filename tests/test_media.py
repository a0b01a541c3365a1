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
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

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


def encoded(form: str, seconds: int) -> bytes:
    """A tone of 440 Hz, at 16 kHz."""
    buffer, rate = io.BytesIO(), 16_000
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(form, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for start in range(0, seconds * rate, 1000):
            tone = np.sin((start + np.arange(1000)) * (440 * 2 * np.pi / rate)) * 9000
            samples = tone.astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
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


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_nothing_but_pixels_is_kept(media: MediaFolder, form: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRET"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)  # where it was taken
    written = PngImagePlugin.PngInfo()
    written.add_text("Comment", "SECRET")
    more: dict[str, Any] = {"exif": exif, "icc_profile": b"SECRET" * 50, "xmp": b"<x>SECRET</x>"}
    source = picture(form=form, comment=b"SECRET", pnginfo=written, **more)
    assert source.count(b"SECRET") >= 2
    kept = media.path(media.add(source, "a")).read_bytes()
    assert not any(mark in kept for mark in (b"SECRET", b"Exif", b"eXIf", b"iCCP", b"ICCP"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_does_not_cost_the_picture(media: MediaFolder) -> None:
    whole = picture()
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\x7f" * 30
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + whole[2:]
    assert isinstance(media.add(data, "a.jpg"), ImagePart)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_pictures_of_more_than_8_bits_keep_their_shades(media: MediaFolder, kind: type) -> None:
    buffer = io.BytesIO()
    ramp: NDArray[Any] = np.linspace(0, 60_000, 64 * 64).reshape(64, 64).astype(kind)
    Image.fromarray(ramp).save(buffer, "TIFF")
    shades = np.asarray(media.image(media.add_image(buffer.getvalue(), "x-ray.tif")))
    assert shades.mean() == pytest.approx(127, abs=3)


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
    assert len(list((tmp_path / "media").rglob("*.webp"))) == 1


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
        (picture(form="WEBP")[:500], "cut.webp", "is damaged"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 500, "IMG_1.HEIC", "Save it as JPEG"),
        (b"%PDF-1.7" + b"\0" * 500, "letter.pdf", "is not a picture or a recording but a PDF"),
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


def test_a_header_that_claims_ten_hours_is_not_believed(media: MediaFolder) -> None:
    data = bytearray(encoded("flac", 2))
    data[21] &= 0xF0
    data[22:26] = struct.pack(">I", 36_000 * 16_000)
    part = media.add(bytes(data), "a.flac")
    assert isinstance(part, AudioPart)
    assert part.seconds == pytest.approx(2, abs=0.1)


def test_of_a_damaged_recording_the_rest_is_heard(media: MediaFolder) -> None:
    data = encoded("mp3", 4)
    hurt = data[: len(data) // 2] + bytes(400) + data[len(data) // 2 + 400 :]
    part = media.add(hurt, "a.mp3")
    assert isinstance(part, AudioPart)
    assert 3 < part.seconds < 4.2


def test_a_video_without_sound_is_told(media: MediaFolder) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="has no sound"):
        media.add(buffer.getvalue(), "clip.mp4")


def test_a_file_that_only_says_it_is_small_is_not_read_to_its_end(media: MediaFolder) -> None:
    with pytest.raises(MediaError, match="at most 50 MB"):
        media.add(Path("/dev/zero"), "endless")


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_an_error_even_where_warnings_are(media: MediaFolder) -> None:
    with pytest.raises(MediaError, match="pixels"):
        media.add(png_header(10_000, 10_000), "bomb.png")


def test_a_recording_is_no_picture(media: MediaFolder) -> None:
    with pytest.raises(MediaError, match="is not a picture"):
        media.add_image(sound(1), "a.wav")


def test_a_file_that_was_deleted_is_told(media: MediaFolder) -> None:
    part = media.add(picture(), "a.jpg")
    media.path(part).unlink()
    with pytest.raises(MediaError, match="is gone"):
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
