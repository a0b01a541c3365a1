"""`/v1/audio/speech` and `/v1/audio/voices`: a text said aloud, sentence by sentence."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from multimodal.api.bodies import parse_body
from multimodal.api.event_streams import events, format_sse
from multimodal.api.guard import with_error_events
from multimodal.api.schemas import SpokenText
from multimodal.backends.engine_options import default_language
from multimodal.backends.speech.speakers import (
    can_speak,
    choose_speaker,
    missing_voice_error,
    offered_voices,
)
from multimodal.backends.speech.spoken_text import spoken_text
from multimodal.build import Program
from multimodal.catalog.cards import ModelCard, truncate
from multimodal.errors import BackendError, PromptError, RequestError
from multimodal.events import EngineEvent, SentenceSpoken
from multimodal.media.audio_encoder import FORMATS, AudioEncoder
from multimodal.requests import TTSRequest

MODELS = frozenset({"auto", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"})
"""OpenAI's names for the model, which stand for the profile's own."""
_OPENAI = "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse"
VOICES = frozenset(_OPENAI.split())
"""OpenAI's names of voices, which stand for the usual one of the model and language."""


async def create_speech(request: Request, program: Program) -> Response:
    """The sound, chunk by chunk as the sentences are made, or server-sent events with them."""
    async with parse_body(request, SpokenText, program.media.limits) as text:
        card, asked = _card(program, text), text
    words = spoken_text(asked.input, asked.text_language or asked.language or _language(card))
    if not words:
        raise PromptError("input has no word to speak. Write some.")
    wanted = TTSRequest(
        words,
        asked.language,
        asked.text_language,
        None if asked.voice in VOICES else asked.voice,
        asked.speed,
    )
    stream = events(lambda stop: program.assistant.speak(wanted, card.name, stop), request)
    # An error before the first sentence keeps its status.
    first = await next_sentence(stream)
    if first is None:
        raise BackendError(f"{card.title} was stopped before it had spoken. Ask again.")
    encoder = AudioEncoder(asked.response_format)
    chunks = encode_sentences(first, stream, encoder)
    if asked.stream_format == "sse":
        return StreamingResponse(with_error_events(_lines(chunks)), media_type="text/event-stream")
    return StreamingResponse(chunks, media_type=FORMATS[asked.response_format].media_type)


async def voices(request: Request, program: Program) -> Response:
    """The voices of the profile's models, with the languages that each speaks."""
    found = [
        {"id": name, "name": title, "language": languages[0], "languages": languages}
        | {"model": card.name, "license": card.license}
        for card, name, title, languages in offered_voices(program.cards)
    ]
    return JSONResponse({"object": "list", "voices": found})


async def next_sentence(stream: AsyncGenerator[EngineEvent | None, None]) -> SentenceSpoken | None:
    """The first sentence that is spoken; None where there is none."""
    async for event in stream:
        if isinstance(event, SentenceSpoken):
            return event
    return None


async def encode_sentences(
    first: SentenceSpoken, stream: AsyncGenerator[EngineEvent | None, None], encoder: AudioEncoder
) -> AsyncGenerator[bytes, None]:
    """The bytes of that sentence and of those that follow, as they are made."""
    async with aclosing(stream) as happening:
        yield encoder.encode(first.pcm, first.sample_rate)
        async for event in happening:
            if isinstance(event, SentenceSpoken):
                yield encoder.encode(event.pcm, event.sample_rate)
        yield encoder.finish()


async def _lines(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[str, None]:
    """As OpenAI names the events."""
    async with aclosing(chunks) as ready:
        async for chunk in ready:
            if chunk:
                audio = base64.b64encode(chunk).decode()
                yield format_sse({"type": "speech.audio.delta", "audio": audio})
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    yield format_sse({"type": "speech.audio.done", "usage": usage})


def _card(program: Program, text: SpokenText) -> ModelCard:
    """The model that was named; else the profile's for the language, and for the voice."""
    if text.model not in MODELS:
        card = program.card(text.model)
        if not can_speak(card):
            able = ", ".join(card.name for card in program.cards if can_speak(card)) or "none"
            raise RequestError(f"{card.title} does not speak. Models that do: {able}.")
        return card
    voice = None if text.voice in VOICES else text.voice
    names = [name for _, name, _, _ in offered_voices(program.cards)]
    if voice is not None and names and voice not in names and not voice.isdecimal():
        raise RequestError(
            f"There is no voice {truncate(voice)!r} here. There are: {_list(names)}."
        )
    found = choose_speaker(program.cards, text.language, voice, text.text_language)
    if found is not None:
        return found
    if text.language is not None and any(map(can_speak, program.cards)):
        raise missing_voice_error(program.cards, text.language)
    raise RequestError(f"The profile {program.profile.title} has no model that speaks.")


def _list(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _language(card: ModelCard) -> str:
    """The one that a text is taken for where nothing is said about it."""
    if card.voices:
        return card.voices[0].languages[0]
    return default_language(card) or "en"
