"""Untrusted pictures and recordings: bounded, normalised, or refused in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import as_wav, saved
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from multimodal.errors import MediaError, StoreError, TurnStoppedError
from multimodal.limits import Limits
from multimodal.media.ingestion import MediaFolder, safe_name
from multimodal.media.pixels import flatten
from multimodal.messages import AudioPart, ImagePart


@pytest.fixture
def media(tmp_path: Path) -> MediaFolder:
    return MediaFolder(tmp_path / "media")


def picture(size: tuple[int, int] = (64, 48), form: str = "JPEG", **more: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return saved(Image.fromarray(noise), form, **more)


def sound(seconds: float, rate: int = 8000) -> bytes:
    return as_wav(np.full(round(seconds * rate), 1 / 32768), rate=rate)


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
    ramp: NDArray[Any] = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype(kind)
    shades = np.asarray(seen(media, Image.fromarray(ramp), "TIFF"))
    assert shades.mean() == pytest.approx(127, abs=3)


def seen(media: MediaFolder, image: Image.Image, form: str = "PNG") -> Image.Image:
    """The picture as it is kept."""
    return media.image(media.add_image(saved(image, form), "a picture"))


def letters(ink: tuple[int, ...]) -> Image.Image:
    """A word in `ink` on a ground that is wholly transparent, whatever its colour."""
    page = Image.new("RGBA", (400, 120), (255, 255, 255, 0))
    ImageDraw.Draw(page).text((20, 20), "NINE", (*ink, 255), ImageFont.load_default(60))
    return page


@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        ((0, 0, 0), 255),
        ((30, 60, 160), 255),
        ((200, 0, 0), 255),
        ((255, 255, 255), 0),
        ((255, 240, 60), 0),
        ((120, 230, 255), 0),
    ],
    ids=["black", "blue", "red", "white", "yellow", "cyan"],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pictures_stand_on_a_ground_their_letters_stand_out_from(
    media: MediaFolder, ink: tuple[int, ...], ground: int, mode: str
) -> None:
    image = letters(ink).convert("LA" if mode == "LA" else "RGBA")
    if mode == "PA":
        image = image.quantize(16)
    kept = seen(media, image)
    assert kept.getpixel((0, 0)) == (ground,) * 3
    shades = np.asarray(kept.convert("L"), np.int16)
    assert np.ptp(shades) > 100, "the letters can be told from the ground"


def test_letters_of_both_kinds_stand_out_from_grey(media: MediaFolder) -> None:
    image = letters((255, 255, 255))
    ImageDraw.Draw(image).text((220, 20), "NINE", (0, 0, 0, 255), ImageFont.load_default(60))
    shades = np.asarray(seen(media, image).convert("L"), np.int16)
    assert min(shades.max() - shades[0, 0], shades[0, 0] - shades.min()) > 100


def test_where_nothing_is_drawn_the_ground_is_white(media: MediaFolder) -> None:
    for colour in ((255, 0, 0, 0), (255, 255, 255, 255)):
        kept = seen(media, Image.new("RGBA", (32, 32), colour))
        assert kept.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("ink", "ground"),
    [((20, 30, 20), 255), ((250, 240, 230), 0)],
    ids=["dark", "light"],
)
def test_the_ground_of_a_long_translucent_page_takes_little_memory(
    ink: tuple[int, ...], ground: int
) -> None:
    """Each of its 15.7 million pixels is visible and beside a transparent one."""
    page = Image.new("RGBA", (1280, 12_288), (*ink, 100))
    page.putpixel((0, 0), (*ink, 0))
    tracemalloc.start()
    try:
        made = flatten(page)
        _, peak_bytes = tracemalloc.get_traced_memory()  # numpy's arrays; not Pillow's pictures
    finally:
        tracemalloc.stop()
    assert made.getpixel((0, 0)) == (ground,) * 3
    assert peak_bytes < 100_000_000


def test_a_ground_chosen_by_every_so_manieth_pixel_is_that_of_all(media: MediaFolder) -> None:
    """White letters above and black ones below: on white or black, half could not be read."""
    page = Image.new("RGBA", (1200, 4000), (255, 255, 255, 0))
    draw = ImageDraw.Draw(page)
    for top in range(0, 4000, 40):
        shade = 255 if top < 2000 else 0
        draw.text((0, top), "W" * 60, (shade, shade, shade, 255), ImageFont.load_default(36))
    assert seen(media, page).getpixel((1199, 3999)) == (118, 118, 118)


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


SHADES: dict[str, tuple[NDArray[Any], int, int]] = {
    "white": (np.full((64, 64), 65_535, np.uint16), 255, 255),
    "black": (np.full((64, 64), 0, np.uint16), 0, 0),
    "grey": (np.full((64, 64), 32_768, np.uint16), 127, 128),
    "white of shares": (np.full((64, 64), 1.0, np.float32), 255, 255),
    "white of bytes": (np.full((64, 64), 255.0, np.float32), 255, 255),
    "white of 32 bits": (np.full((64, 64), 65_535, np.int32), 255, 255),
    "white paper": ((65_535 - 200 * RAMP).astype(np.uint16), 254, 255),
    "a pale print": ((65_535 - 3000 * RAMP).astype(np.uint16), 243, 255),
    "8 bits in 16": ((200 * RAMP).astype(np.uint16), 0, 200),
    "12 bits in 16": ((4095 * RAMP).astype(np.uint16), 0, 255),
    "mid-tones": ((20_000 + 30_000 * RAMP).astype(np.uint16), 77, 195),
    "warmth": ((30_000 + 1000 * RAMP).astype(np.uint16), 0, 255),
    "shares": ((0.25 + 0.5 * RAMP).astype(np.float32), 63, 192),
    "signed": ((-1 + 2 * RAMP).astype(np.float32), 0, 255),
    "no number": (np.where(RAMP > 0.5, np.inf, np.nan).astype(np.float32), 0, 255),
}
"""Values of one channel, and the darkest and lightest that is kept of them."""


@pytest.mark.parametrize("name", SHADES)
def test_white_stays_white_and_only_a_low_range_is_stretched(media: MediaFolder, name: str) -> None:
    values, low, high = SHADES[name]
    shades = np.asarray(seen(media, Image.fromarray(values), "TIFF"), np.int16)
    assert shades.min() == pytest.approx(low, abs=3)
    assert shades.max() == pytest.approx(high, abs=3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_pictures_far_larger_than_what_is_kept_look_the_same(tmp_path: Path, mode: str) -> None:
    """They are made smaller strip by strip; no seam may show."""
    media = MediaFolder(tmp_path, Limits(page_width=16))
    ramp = np.linspace(0, 255, 6500).astype(np.uint8)[None].repeat(400, 0)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(ramp).convert("RGB" if mode in {"P", "CMYK"} else "L").convert(mode)
    kept = np.asarray(seen(media, image, "TIFF").convert("L"))
    assert kept.shape == (126, 2048)
    expected = np.linspace(0, 255, 2048)[None].repeat(126, 0)
    assert np.abs(kept.astype(float).mean(0) - expected[0]).mean() < (40 if mode == "1" else 4)


def test_an_abandoned_picture_is_decoded_no_further(media: MediaFolder) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(TurnStoppedError):
        media.add(picture(), "a.jpg", media.intake(stop))
    with pytest.raises(TurnStoppedError):
        media.add(sound(5), "a.wav", media.intake(stop))
    assert isinstance(media.add(picture(), "a.jpg"), ImagePart)


def test_the_pictures_of_one_request_are_bounded_together(tmp_path: Path) -> None:
    media = MediaFolder(tmp_path, Limits(pixels_in_all=64 * 48 * 2))
    intake = media.intake()
    for _ in range(2):
        media.add(picture(), "a.jpg", intake)
    with pytest.raises(MediaError, match="pixels together"):
        media.add(picture(), "a.jpg", intake)
    media.add(picture(), "a.jpg", media.intake())


def test_sound_is_bounded_by_its_samples_whatever_the_header_says(tmp_path: Path) -> None:
    data = bytearray(encoded("flac", 4))
    limits = Limits(audio_samples=3 * 16_000)
    with pytest.raises(MediaError, match="1 channels of 16,000 samples a second; at most 0:00:03"):
        MediaFolder(tmp_path, limits).add(bytes(data), "a.flac")
    data[21] &= 0xF0
    data[22:26] = struct.pack(">I", 16_000)  # it claims one second
    with pytest.raises(MediaError, match="at most 0:00:03"):
        MediaFolder(tmp_path, limits).add(bytes(data), "a.flac")


TONE = 0.3 * np.sin(np.arange(32_000) * (440 * 2 * np.pi / 16_000))
OTHER = 0.3 * np.sin(np.arange(32_000) * (700 * 2 * np.pi / 16_000))


@pytest.mark.parametrize(
    ("left", "right", "level"),
    [
        (TONE, TONE, 0.3),
        (TONE, -TONE, 0.3),
        (TONE, -0.8 * TONE, 0.27),
        (TONE, np.roll(-TONE, 1), 0.3),
        (TONE, 0 * TONE, 0.15),
        (0 * TONE, TONE, 0.15),
        (TONE, OTHER, 0.21),
    ],
    ids=["same", "inverted", "almost", "late", "left", "right", "two"],
)
def test_the_sides_of_a_recording_do_not_cancel_each_other(
    media: MediaFolder, left: NDArray[Any], right: NDArray[Any], level: float
) -> None:
    part = media.add_audio(as_wav(left, right), "a.wav")
    heard = media.waveform(part)
    assert np.sqrt(np.mean(np.square(heard))) == pytest.approx(level / np.sqrt(2), rel=0.1)


def test_a_large_picture_is_scaled_down(media: MediaFolder) -> None:
    part = media.add_image(picture((4000, 3000)), "photo.jpg")
    assert (part.width, part.height) == (2048, 1536)
    assert part.reduced_from == (4000, 3000)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ((1080, 8000), (1080, 8000)),
        ((8000, 600), (8000, 600)),
        ((2048, 2048), (2048, 2048)),
        ((2160, 8000), (1280, 4741)),
        ((1400, 20_000), (860, 12_288)),
        ((49_000, 1000), (12_288, 251)),
    ],
)
def test_a_long_page_keeps_its_width_within_bounds(
    sent: tuple[int, int], kept: tuple[int, int]
) -> None:
    assert Limits().stored_size(*sent) == kept
    assert Limits().stored_size(*sent[::-1]) == kept[::-1]


def test_no_picture_is_kept_with_more_than_16_million_pixels_or_longer_than_webp_holds() -> None:
    limits = Limits()
    for longer in range(16, 50_001, 499):
        for shorter in range(max(1, longer // limits.aspect), longer + 1, 97):
            width, height = limits.stored_size(longer, shorter)
            assert width * height <= 16_000_000
            assert max(width, height) <= 16_383


def test_a_long_page_is_kept_whole_and_a_turned_one_says_its_size_upright(
    media: MediaFolder,
) -> None:
    page = media.add_image(picture((1080, 4000)), "page.png")
    assert (page.width, page.height, page.reduced_from) == (1080, 4000, None)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = media.add_image(picture((4000, 3000), exif=exif), "phone.jpg")
    assert (turned.width, turned.height) == (1536, 2048)
    assert turned.reduced_from == (3000, 4000)


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
        (b"\0" * 50_000_001, "a.bin", "has 51 MB and at most 50 MB"),
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
    short = MediaFolder(tmp_path, Limits(max_audio_s=5))
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
