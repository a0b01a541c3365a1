"""Subtitles as SubRip and WebVTT, read back as a player reads them."""

from __future__ import annotations

import io
from pathlib import Path

import av
import httpx2 as httpx
import openai
import pytest
from fakes import FakeSource, program, served

from multimodal.api.subtitles import srt, vtt
from multimodal.events import Segment

SAID = (
    Segment(0.0, 1.5, "Fish & chips --> 3 < 4"),
    Segment(59.9996, 3725.25, "first\n\n second"),
)


def test_subrip_is_written_as_players_read_it() -> None:
    assert srt(SAID) == (
        "1\n00:00:00,000 --> 00:00:01,500\nFish & chips -> 3 < 4\n"
        "\n2\n00:01:00,000 --> 01:02:05,250\nfirst second\n"
    )
    assert srt(()) == ""


def test_webvtt_is_written_as_its_specification_says() -> None:
    assert vtt(SAID) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nFish &amp; chips --&gt; 3 &lt; 4\n"
        "\n00:01:00.000 --> 01:02:05.250\nfirst second\n"
    )
    assert vtt(()) == "WEBVTT\n"


@pytest.mark.parametrize(("write", "kind"), [(srt, "srt"), (vtt, "webvtt")])
def test_ffmpeg_reads_the_same_times(write: object, kind: str) -> None:
    assert callable(write)
    with av.open(io.BytesIO(write(SAID).encode()), format=kind) as container:
        packets = [p for p in container.demux() if p.size]
        found = [(float(p.pts * p.time_base), float(p.duration * p.time_base)) for p in packets]
    assert found == [(0.0, 1.5), (60.0, 3665.25)]


# ------------------------------------------------------------ over HTTP, with the real Whisper


def test_a_recording_becomes_subtitles(client: openai.OpenAI, examples: Path) -> None:
    file = examples / "speech-en.wav"
    told = client.audio.transcriptions.create(
        model="whisper-base",
        file=file,
        language="en",
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    assert (told.language, told.segments is not None) == ("en", True)
    assert told.segments
    assert " ".join(segment.text for segment in told.segments) == told.text
    assert 0 <= told.segments[0].start < told.segments[-1].end <= float(told.duration) + 0.5
    said = [Segment(s.start, s.end, s.text) for s in told.segments]
    for kind, write in (("srt", srt), ("vtt", vtt)):
        asked = {"model": "whisper-base", "file": file, "language": "en", "response_format": kind}
        assert client.audio.transcriptions.create(**asked) == write(said)  # type: ignore[call-overload]


def test_a_translation_has_the_times_of_its_own_words(
    client: openai.OpenAI, examples: Path
) -> None:
    told = client.audio.translations.create(
        model="whisper-base", file=examples / "question-fr.wav", response_format="verbose_json"
    )
    assert "music" in told.text.lower()
    assert told.segments
    assert "music" in " ".join(segment.text for segment in told.segments).lower()


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"response_format": "ass"}, "'ass' is not one of json, text, verbose_json, srt, vtt"),
        ({"timestamp_granularities[]": ["segment", "word"]}, "'word' is not offered; segment is"),
    ],
)
def test_what_is_not_offered_is_refused(
    tmp_path: Path, form: dict[str, object], sentence: str
) -> None:
    with served(program(tmp_path, FakeSource())) as url:
        reply = httpx.post(
            f"{url}/v1/audio/transcriptions",
            files={"file": b"RIFF"},
            data=form,  # type: ignore[arg-type]
        )
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]["message"]
