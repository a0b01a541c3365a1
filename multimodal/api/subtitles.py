"""A transcript as subtitles: SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import html
from collections.abc import Iterable

from multimodal.events import Segment


def srt(segments: Iterable[Segment]) -> str:
    """Numbered from 1; the arrow that separates the times is no part of a text."""
    return "\n".join(
        f"{number}\n{_time(s.start_s, ',')} --> {_time(s.end_s, ',')}\n"
        f"{_line(s.text).replace('-->', '->')}\n"
        for number, s in enumerate(segments, 1)
    )


def vtt(segments: Iterable[Segment]) -> str:
    """Signs that WebVTT reads as markup are escaped, as its specification asks."""
    cues = (
        f"{_time(s.start_s, '.')} --> {_time(s.end_s, '.')}\n"
        f"{html.escape(_line(s.text), quote=False)}\n"
        for s in segments
    )
    return "\n".join(("WEBVTT\n", *cues))


def _line(text: str) -> str:
    """An empty line would end the subtitle."""
    return " ".join(text.split())


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    whole, thousandths = divmod(rest, 1000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02}{point}{thousandths:03}"
