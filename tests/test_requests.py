"""What an engine is asked, and what it answers, could go over a wire: JSON, and the bytes of pixels
and samples beside it. The codec here knows nothing but the types of the fields."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL.Image import Image, frombytes, new

from multimodal import requests
from multimodal.events import (
    DecodingStatistics,
    EngineEvent,
    ImageDescribed,
    ImageGenerated,
    Notice,
    Preview,
    Progress,
    Segment,
    SentenceSpoken,
    SpeechGenerated,
    SpeechTranscribed,
    TextDelta,
    Transcription,
)
from multimodal.messages import Sampling, Usage
from multimodal.requests import (
    ChatMessage,
    ImageDescriptionRequest,
    ImageGenerationRequest,
    TextRequest,
    TranscriptionRequest,
    TTSRequest,
)

NAMES = {"np": np, "NDArray": NDArray, "Image": Image}
RED = new("RGB", (3, 2), "red")
SEGMENT = Segment(0.5, 1.5, "Hello", "en", DecodingStatistics(-0.2, 0.1, 1.1, 0.0, (5, 7), 0))
VALUES: list[Any] = [
    TextRequest(
        (ChatMessage("user", "What is it?", (RED, RED)), ChatMessage("assistant", "Red.")),
        "Be brief.",
        Sampling(0.5, seed=7, stop=("\n",)),
        512,
    ),
    TranscriptionRequest(np.linspace(-1, 1, 5, dtype=np.float32), "en", ("en", "fr"), 2, "de"),
    ImageDescriptionRequest(RED, "colours", "Which colour?", (600, 400)),
    ImageGenerationRequest("a cat", seed=7, source=RED, strength=0.5),
    TTSRequest("Hello", "en", voice="joe", speed=1.5),
    Progress("Reading", 0.5),
    Notice("Left out."),
    Usage(10, 4, 3, 0.5, "stop", 7, 20),
    TextDelta("é"),
    Preview(b"\xff\xd8\x00"),
    SentenceSpoken(b"\x00\x01", 16_000, "Hello"),
    SpeechTranscribed(
        Transcription("Bonjour", "fr", (SEGMENT,)), Transcription("Hello", "en"), None
    ),
    ImageDescribed("a red square", "Red."),
    ImageGenerated(b"\x89PNG", 7),
    SpeechGenerated(b"RIFF", 0.5),
]


def encoded(value: Any, blobs: list[bytes]) -> Any:
    """JSON of `value`; an index stands for what is put into `blobs`."""
    if isinstance(value, Image):
        return [value.mode, value.size, encoded(value.tobytes(), blobs)]
    if isinstance(value, np.ndarray):
        assert value.dtype == np.float32
        return [value.shape, encoded(value.tobytes(), blobs)]
    if isinstance(value, bytes):
        blobs.append(value)
        return len(blobs) - 1
    if isinstance(value, tuple):
        return [encoded(item, blobs) for item in value]
    if is_dataclass(value):
        return {f.name: encoded(getattr(value, f.name), blobs) for f in fields(value)}
    assert value is None or isinstance(value, str | int | float | bool), value
    return value


def decoded(kind: Any, told: Any, blobs: list[bytes]) -> Any:
    """The value of type `kind` that `told` stands for."""
    if told is None or get_origin(kind) is Literal or kind in {str, int, float, bool}:
        return told
    if isinstance(kind, UnionType):
        (some,) = [one for one in get_args(kind) if one is not type(None)]
        return decoded(some, told, blobs)
    if kind is Image:
        mode, size, pixels = told
        return frombytes(mode, tuple(size), blobs[pixels])
    if get_origin(kind) is np.ndarray:
        shape, samples = told
        return np.frombuffer(blobs[samples], np.float32).reshape(shape)
    if kind is bytes:
        return blobs[told]
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        each = [kinds[0]] * len(told) if kinds[-1] is ... else kinds
        return tuple(decoded(one, item, blobs) for one, item in zip(each, told, strict=True))
    hints = get_type_hints(kind, localns=NAMES)
    return kind(**{name: decoded(hints[name], item, blobs) for name, item in told.items()})


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_it_is_the_same_behind_a_wire(value: Any) -> None:
    blobs: list[bytes] = []
    wire = json.dumps(encoded(value, blobs))
    found = decoded(type(value), json.loads(wire), blobs)
    if isinstance(value, TranscriptionRequest):  # arrays have no truth value
        assert np.array_equal(found.waveform, value.waveform)
        assert encoded(found, []) == encoded(value, [])
    else:
        assert found == value


def test_every_request_and_every_answer_was_tried() -> None:
    tried = {type(value) for value in VALUES}
    assert tried == {*get_args(requests.Request), *get_args(EngineEvent)}
