"""`/v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

from langcodes import closest_supported_match
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from multimodal.api.bodies import parse_form
from multimodal.api.event_streams import events, format_sse, while_connected
from multimodal.api.fields import TRANSCRIPTIONS, TRANSLATIONS
from multimodal.api.guard import with_error_events
from multimodal.api.schemas import choose_card
from multimodal.api.subtitles import srt, vtt
from multimodal.build import Program
from multimodal.catalog.cards import AUTO, ModelCard, truncate
from multimodal.errors import RequestError, UnsupportedFieldError
from multimodal.events import EngineEvent, Segment, SpeechTranscribed, Transcription
from multimodal.messages import Task

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
FIELDS = 50
LANGUAGE = re.compile("([a-z]{2,3})(?:[-_][a-z0-9]{1,8})*", re.IGNORECASE)
DETECTED = {"", AUTO}
"""What stands for a language that the model is to find out."""
MAX_TEMPERATURE = 1.0
PROMPT_CHARACTERS = 4000
"""Of words that may occur in a recording."""
NEAR = 3
"""A language is taken for one that the model knows where it is this near, as Bokmål is to
Norwegian."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the form says beside the recording."""

    card: ModelCard
    format: str
    language: str | None
    english: bool
    prompt: str
    temperature: float | None
    is_streamed: bool


async def transcriptions(request: Request, program: Program) -> Response:
    return await _heard(request, program, english=False)


async def translations(request: Request, program: Program) -> Response:
    return await _heard(request, program, english=True)


async def _heard(request: Request, program: Program, english: bool) -> Response:
    async with parse_form(request, FIELDS) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("The form has no file; send the recording in the field “file”.")
        read, name = file.file.read, file.filename or "recording"
        asked = _asked(form, program, english)
        part = await while_connected(
            lambda stop: program.media.add_audio(read, name, program.media.intake(stop)), request
        )
    stream = events(
        lambda stop: program.assistant.transcribe(
            part,
            asked.card.name,
            stop,
            language=asked.language,
            translate_to_english_unless=("en",) if english else (),
            prompt=asked.prompt,
            temperature=asked.temperature,
        ),
        request,
    )
    if asked.is_streamed:
        first = await anext(stream, None)  # an error before the first event keeps its status
        lines = _lines(first, stream, asked)
        return StreamingResponse(with_error_events(lines), media_type="text/event-stream")
    heard = SpeechTranscribed(Transcription("", None))
    async with aclosing(stream) as happening:
        async for event in happening:
            if isinstance(event, SpeechTranscribed):
                heard = event
    return _answer(heard, part.seconds, asked)


async def _lines(
    first: EngineEvent | None, stream: AsyncGenerator[EngineEvent | None, None], asked: _Asked
) -> AsyncGenerator[str, None]:
    """Server-sent events as OpenAI names them. The words come together, once the recording was
    heard; until then a comment keeps the connection open."""
    async with aclosing(stream) as happening:
        heard = first if isinstance(first, SpeechTranscribed) else None
        async for event in happening:
            if event is None:
                yield ": still at it\n\n"
            elif isinstance(event, SpeechTranscribed):
                heard = event
    if heard is not None:
        wanted = _wanted(heard, asked)
        for piece in _pieces(wanted):
            yield format_sse({"type": "transcript.text.delta", "delta": piece})
        yield format_sse({"type": "transcript.text.done", "text": wanted.text})


def _asked(form: FormData, program: Program, english: bool) -> _Asked:
    given: dict[str, list[Any]] = {}
    for name, value in form.multi_items():
        if value not in {"", "null"}:
            given.setdefault(name.partition("[")[0], []).append(value)
    (TRANSLATIONS if english else TRANSCRIPTIONS).check(
        {name: values[0] if len(values) == 1 else values for name, values in given.items()}
    )
    kind = str(given.get("response_format", ["json"])[-1])
    if kind not in FORMATS:
        raise RequestError(
            f"response_format {truncate(kind)!r} is not one of {', '.join(FORMATS)}."
        )
    is_streamed = _boolean("stream", given.get("stream", ["false"])[-1])
    if is_streamed and kind != "json":
        raise RequestError(
            f"stream: the events carry text, not {kind}; ask for response_format json, or do not "
            "stream."
        )
    for wanted in given.get("timestamp_granularities", []):
        if wanted != "segment":
            raise UnsupportedFieldError(
                f"timestamp_granularities[] {truncate(str(wanted))!r} is not offered; segment is.",
                "timestamp_granularities",
            )
    card = choose_card(program, Task.SPEECH, str(form.get("model", "")))
    words = [str(word) for word in (*given.get("prompt", []), *given.get("keywords", []))]
    return _Asked(
        card,
        kind,
        _language(
            card, [str(code) for name in ("language", "languages") for code in given.get(name, [])]
        ),
        english,
        _prompt(words),
        _temperature(given.get("temperature", [None])[-1]),
        is_streamed,
    )


def _prompt(words: Sequence[str]) -> str:
    """The prompt and the keywords. Whisper reads the last 223 tokens of it, and takes all of it
    apart for every window of speech."""
    length = sum(map(len, words))
    if length > PROMPT_CHARACTERS:
        raise RequestError(
            f"prompt and keywords are {length:,} characters long and at most {PROMPT_CHARACTERS:,} "
            "are taken, of which Whisper reads about the last thousand. Shorten them."
        )
    return ", ".join(words)


def _language(card: ModelCard, given: list[str]) -> str | None:
    """The language asked for by an ISO 639 code, with or without a country; None for any."""
    codes = list(
        dict.fromkeys(code.strip() for code in given if code.strip().lower() not in DETECTED)
    )
    if len(codes) > 1:
        raise UnsupportedFieldError(
            f"languages: {truncate(', '.join(codes))} are more than one. Leave it out, and each "
            "passage is written in the language it is spoken in.",
            "languages",
        )
    if not codes:
        return None
    if not (found := LANGUAGE.fullmatch(codes[0])):
        raise RequestError(f"language {truncate(codes[0])!r} is not a code such as en or fr.")
    language = found[1].lower()
    if not card.languages or language in card.languages:
        return language
    return closest_supported_match(language, list(card.languages), NEAR) or language


def _temperature(given: Any) -> float | None:
    try:
        temperature = None if given is None else float(given)
    except (TypeError, ValueError):
        temperature = math.nan
    if temperature is not None and not 0 <= temperature <= MAX_TEMPERATURE:
        raise RequestError(f"temperature {truncate(str(given))!r} is not a number from 0 to 1.")
    return temperature


def _boolean(field: str, given: Any) -> bool:
    if str(given).lower() not in {"true", "false", "1", "0"}:
        raise RequestError(f"{field} {truncate(str(given))!r} is neither true nor false.")
    return str(given).lower() in {"true", "1"}


def _pieces(wanted: Transcription) -> list[str]:
    """Its text as its segments, which joined are the text; in one piece where they are not."""
    text = wanted.text
    pieces = [(" " if index else "") + s.text for index, s in enumerate(wanted.segments)]
    return pieces if "".join(pieces) == text else [text] * bool(text)


def _answer(heard: SpeechTranscribed, seconds: float, asked: _Asked) -> Response:
    """`seconds`: how long the recording is."""
    wanted = _wanted(heard, asked)
    if asked.format == "text":
        return PlainTextResponse(wanted.text + "\n")
    if asked.format == "srt":
        return PlainTextResponse(srt(wanted.segments), media_type="application/x-subrip")
    if asked.format == "vtt":
        return PlainTextResponse(vtt(wanted.segments), media_type="text/vtt")
    body: dict[str, Any] = {"text": wanted.text}
    if asked.format == "verbose_json":
        body |= {
            "task": "translate" if asked.english else "transcribe",
            "language": heard.spoken.language,
            "duration": seconds,
            "segments": [_segment(number, s) for number, s in enumerate(wanted.segments)],
        }
    return JSONResponse(body)


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """As OpenAI tells one, and its language; how sure the engine was, where it says so."""
    return {
        "id": number,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "language": segment.language,
        **(asdict(segment.statistics) if segment.statistics else {}),
    }


def _wanted(heard: SpeechTranscribed, asked: _Asked) -> Transcription:
    if asked.english and heard.english is not None:
        return heard.english
    if asked.english and heard.spoken.text and set(heard.spoken.languages) != {"en"}:
        raise RequestError(
            f"{asked.card.title} does not translate. Choose a model that does, such as Whisper, or "
            "ask for a transcription."
        )
    return heard.spoken
