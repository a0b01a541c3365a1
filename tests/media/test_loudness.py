"""Speech that is far quieter than usual is heard like any other; what is no speech stays silent."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from fakes import served
from media_files import as_wav
from numpy.typing import NDArray

from multimodal.build import Program, build
from multimodal.chats.service import Chats
from multimodal.limits import Limits
from multimodal.media import audio
from multimodal.media.audio import amplify_quiet_speech
from multimodal.messages import Controls
from multimodal.settings import read_settings

RATE = 16_000
SECONDS = 6
SAMPLES = RATE * SECONDS
WORDS = {
    "speech-en.wav": "the children come home from school",
    "question-fr.wav": "la musique",
}


@pytest.fixture(scope="module")
def real(all_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Program:
    data = tmp_path_factory.mktemp("loudness")
    return build(read_settings(data=data, weights=all_weights, offline=True, device="cpu"))


@pytest.fixture(scope="module")
def url(real: Program) -> Iterator[str]:
    with served(real) as url:
        yield url


def spoken(examples: Path, name: str, decibels: float = 0.0) -> NDArray[np.float32]:
    heard = audio.decode((examples / name).read_bytes(), name, Limits())
    return heard * np.float32(10 ** (decibels / 20))


def heard_by_api(url: str, data: bytes) -> str:
    reply = httpx.post(
        f"{url}/v1/audio/transcriptions", files={"file": ("a.wav", data)}, timeout=280
    )
    assert reply.status_code == 200, reply.text
    return letters(reply.json()["text"])


def heard_by_page(program: Program, data: bytes, folder: Path) -> str:
    """As a message that somebody recorded, on its way to the answer."""
    path = folder / "recording.wav"
    path.write_bytes(data)
    chats = Chats(program.store, program.media, program.assistant)
    conversation = chats.store.create("ann", Controls())
    chats.open("ann", conversation).say("", [(path, path.name)])
    for draft in chats.open("ann", conversation).answer(threading.Event()):
        if (said := draft.conversation.messages[-1].recordings[0].transcript) is not None:
            return letters(said)
    raise AssertionError("nothing was heard")


def letters(text: str) -> str:
    return re.sub(r"[^\w\s]", "", text).lower().strip()


@pytest.mark.parametrize("decibels", [-44, pytest.param(-50, marks=pytest.mark.thorough), -62])
@pytest.mark.parametrize("name", WORDS)
def test_quiet_speech_is_heard(url: str, examples: Path, name: str, decibels: int) -> None:
    assert WORDS[name] in heard_by_api(url, as_wav(spoken(examples, name, decibels)))


def test_quiet_speech_is_heard_on_the_page(real: Program, examples: Path, tmp_path: Path) -> None:
    quiet = as_wav(spoken(examples, "speech-en.wav", -56))
    assert WORDS["speech-en.wav"] in heard_by_page(real, quiet, tmp_path)


@pytest.mark.parametrize("other", [-1.0, -0.7], ids=["inverted", "inverted and softer"])
def test_stereo_with_an_inverted_side_is_heard(
    real: Program, url: str, examples: Path, tmp_path: Path, other: float
) -> None:
    one = spoken(examples, "speech-en.wav")
    both = as_wav(one, other * one)
    assert WORDS["speech-en.wav"] in heard_by_api(url, both)
    assert WORDS["speech-en.wav"] in heard_by_page(real, both, tmp_path)


def noises() -> dict[str, NDArray[Any]]:
    chance, times = np.random.default_rng(0), np.arange(SAMPLES) / RATE
    hiss = chance.normal(size=SAMPLES)
    rumble = np.cumsum(hiss) - np.convolve(np.cumsum(hiss), np.ones(2000) / 2000, "same")
    return {
        "nothing": np.zeros(SAMPLES),
        "hiss": hiss,
        "rumble": rumble / rumble.std(),
        "hum": np.sin(2 * np.pi * 50 * times),
        "clicks": (chance.random(SAMPLES) < 1e-4) * 20.0,
        "gusts": hiss * (np.sin(2 * np.pi * 0.3 * times) > 0.7),
        "doors": hiss * np.exp(-(times % 2.5) * 12),
    }


@pytest.mark.parametrize("decibels", [-50, -66, -80])
@pytest.mark.parametrize("kind", noises())
def test_what_nobody_says_stays_without_words(url: str, kind: str, decibels: int) -> None:
    noise = noises()[kind] * 10 ** (decibels / 20)
    assert heard_by_api(url, as_wav(np.clip(noise, -1, 1))) == ""


def test_speech_of_usual_loudness_is_left_as_it_is(examples: Path) -> None:
    for name in WORDS:
        usual = spoken(examples, name)
        assert amplify_quiet_speech(usual) is usual


def test_silence_and_steady_noise_are_not_amplified() -> None:
    for kind in ("nothing", "hiss", "hum"):
        quiet = (noises()[kind] * 0.003).astype(np.float32)
        assert amplify_quiet_speech(quiet) is quiet
    short = np.zeros(100, np.float32)
    assert amplify_quiet_speech(short) is short


def test_a_click_does_not_keep_quiet_speech_quiet(examples: Path) -> None:
    quiet = spoken(examples, "speech-en.wav", -50).copy()
    quiet[1000:1400] = 0.9
    louder = amplify_quiet_speech(quiet)
    assert np.abs(louder).max() <= 1
    assert np.sqrt(np.mean(np.square(louder[RATE:]))) > 0.03
