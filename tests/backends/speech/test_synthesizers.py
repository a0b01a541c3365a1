"""Models for speech: what they are given, what they say, and when they stop."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_speech import ENGLISH, JAPANESE, VOCABULARY, card, levels, save_kokoro, save_piper

from multimodal.backends.base import load
from multimodal.backends.registry import has_family
from multimodal.backends.speech.phonemes import EspeakPhonemizer, can_pronounce, phonemizer
from multimodal.backends.speech.synthesizer import PAUSE_S
from multimodal.catalog.cards import Catalog, Voice, best_voice
from multimodal.errors import BackendError, PromptError, RequestError
from multimodal.events import Progress, SentenceSpoken, SpeechGenerated, SpeechTranscribed
from multimodal.limits import Limits
from multimodal.media.audio import at_speed, decode
from multimodal.requests import TranscriptionRequest, TTSRequest


@pytest.fixture(scope="module")
def kokoro(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny") / "kokoro"
    save_kokoro(folder)
    return load(card("kokoro", folder, ENGLISH, JAPANESE), folder, "cpu")


@pytest.fixture(scope="module")
def piper(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny") / "piper"
    save_piper(folder)
    return load(card("piper", folder, ENGLISH), folder, "cpu")


def events_of(model: Any, text: str, **more: Any) -> list[Any]:
    return list(model.run(TTSRequest(text, **more), threading.Event()))


def samples_of(event: SentenceSpoken) -> NDArray[np.float32]:
    return np.frombuffer(event.pcm, "<i2").astype(np.float32) / 32768


# ------------------------------------------------------------ what a model is given


def test_the_family_of_a_card_is_found_in_the_room_of_speech() -> None:
    assert has_family("piper")
    assert has_family("kokoro")
    assert has_family("llama_cpp")
    assert not has_family("parrot")


def test_kokoro_is_given_padded_phonemes_and_the_row_of_their_number(kokoro: Any) -> None:
    spoken = events_of(kokoro, "Bad.")[0]
    said = levels(samples_of(spoken))
    letters = [VOCABULARY[letter] for letter in "bˈæd."]
    row = 1 + (len(letters) - 1) / 1000
    assert said == pytest.approx([level * row for level in (0, *letters, 0)], abs=0.1)
    other = events_of(kokoro, "Bad.", voice="two", language="en")[0]
    assert levels(samples_of(other)) == pytest.approx([2 * level for level in said], abs=0.2)


def test_kokoro_writes_diphthongs_as_one_letter(kokoro: Any) -> None:
    assert kokoro.phoneme_ids("dʒoʊ eɪ", "en-US") == [VOCABULARY[letter] for letter in "ʤO A"]
    assert kokoro.phoneme_ids("eɪ", "fr-FR") == [VOCABULARY["e"], VOCABULARY["ɪ"]]


def test_kokoro_reads_both_names_of_its_first_input_and_each_kind_of_voice(tmp_path: Path) -> None:
    save_kokoro(tmp_path / "other", tokens="input_ids")
    alone = Voice(name="two", title="Two", language="en-US", file="two.bin")
    model: Any = load(card("kokoro", tmp_path / "other", alone), tmp_path / "other", "cpu")
    assert len(samples_of(events_of(model, "Bad.")[0]))


def test_piper_is_given_phonemes_between_its_own_signs(piper: Any) -> None:
    said = levels(samples_of(events_of(piper, "Bad.")[0]))
    letters = [number for letter in "bˈæd." for number in (VOCABULARY[letter] + 3, 0)]
    assert said == pytest.approx([1, 0, *letters, 2], abs=0.1)


@pytest.mark.parametrize("family", ["kokoro", "piper"])
def test_half_the_speed_takes_no_less_and_double_takes_half(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(family)
    usual, fast = (len(events_of(model, "Bad.", speed=speed)[0].pcm) for speed in (1.0, 2.0))
    assert fast == pytest.approx(usual / 2, abs=4)


# ------------------------------------------------------------ what comes back


def test_each_sentence_comes_as_it_is_made_and_the_whole_at_the_end(piper: Any) -> None:
    happened = events_of(piper, "One. Two!")
    assert [type(event) for event in happened] == [
        SentenceSpoken, Progress, SentenceSpoken, Progress, SpeechGenerated,
    ]  # fmt: skip
    first, second, whole = happened[0], happened[2], happened[4]
    assert (first.text, second.text) == ("One.", "Two!")
    assert first.sample_rate == 22_050
    assert [event.fraction for event in happened if isinstance(event, Progress)] == [0.5, 1.0]
    with wave.open(io.BytesIO(whole.wav)) as file:
        assert file.getframerate() == 22_050
        assert file.readframes(file.getnframes()) == first.pcm + second.pcm
    assert whole.seconds == pytest.approx(first.seconds + second.seconds)
    pause = samples_of(first)[-int(PAUSE_S * 22_050) :]
    assert not pause.any(), "one takes breath between two sentences"
    assert samples_of(second)[-10:].any()


def test_a_sentence_of_any_length_is_said_to_its_end(kokoro: Any) -> None:
    long = "bad, " * 400 + "end."
    (spoken,) = (event for event in events_of(kokoro, long) if isinstance(event, SentenceSpoken))
    said = [round(level) for level in levels(samples_of(spoken))]
    assert said.count(0) >= 2 * len(long) / 250, "in several pieces, each padded"


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (TTSRequest("One.", voice="xi"), "Tiny kokoro has no voice 'xi'. It has: one, two."),
        (TTSRequest("One.", "sw"), "Tiny kokoro does not speak Swahili. It speaks: English, Jap"),
        (
            TTSRequest("One.", "ja", voice="one"),
            "The voice One does not speak Japanese. It speaks:",
        ),
        (TTSRequest("One.", speed=3), "A speed of 3 is not one from 0.5 to 2."),
    ],
)
def test_what_a_voice_cannot_do_is_told(kokoro: Any, request_: TTSRequest, sentence: str) -> None:
    with pytest.raises(RequestError, match=re.escape(sentence)):
        kokoro.run(request_, threading.Event())


def test_a_text_without_words_is_told(piper: Any) -> None:
    with pytest.raises(PromptError, match="no word in the text"):
        piper.run(TTSRequest(" ... "), threading.Event())


def test_a_voice_recorded_in_the_language_is_taken_first() -> None:
    assert best_voice((JAPANESE, ENGLISH), "en") is ENGLISH
    assert best_voice((JAPANESE,), "en") is JAPANESE
    assert best_voice((ENGLISH,), "ja") is None


def test_files_that_are_no_voice_are_told(tmp_path: Path) -> None:
    save_piper(tmp_path / "piper")
    (tmp_path / "piper" / "voice.onnx.json").write_text("{}", "utf-8")
    save_kokoro(tmp_path / "kokoro", voices=("other",))
    (tmp_path / "empty").mkdir()
    for family, name, sentence in (
        ("piper", "piper", r"voice\.onnx\.json is not Piper's"),
        ("kokoro", "kokoro", r"the voice One cannot be read from voices\.npz"),
        ("kokoro", "empty", r"no \.onnx file"),
    ):
        with pytest.raises(BackendError, match=sentence):
            load(card(family, tmp_path / name, ENGLISH), tmp_path / name, "cpu")


# ------------------------------------------------------------ pronunciation and sound


def test_english_is_pronounced_from_any_thread_with_its_numbers() -> None:
    text = "I read 3 books; Dr. Lee reads the GPUs at 10%."
    with closing(phonemizer("en-US")) as english, ThreadPoolExecutor(3) as threads:
        (said,) = set(threads.map(english.phonemes, [text] * 3))
    for word in ("θɹˈiː", "dˈɑːktɚ", "dʒˈiː pˈiː", "tˈɛn pɚsˈɛnt"):
        assert word in said
    assert said.endswith(".")
    assert not any(letter.isdigit() for letter in said)


def test_a_language_that_nothing_pronounces_is_told() -> None:
    assert can_pronounce("en-US")
    assert not can_pronounce("sw")
    with pytest.raises(RequestError, match="Nothing here pronounces Swahili"):
        phonemizer("sw")


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("fr-FR", "Bonjour, 71.", "bɔ̃ʒˈuʁ, swasɑ̃teˈɔ̃z."),
        ("es-ES", "Buenos días.", "bwˈenos ðˈias."),
        ("it-IT", "Buongiorno.", "bʊondʒˈɔrno."),
        ("pt-BR", "Bom dia.", "bˈoŋ dʒˈiæ."),
        ("en-GB", "A car.", "ɐ kˈɑː."),
        ("hi-IN", "नमस्ते", "nəmˈʌsteː"),
    ],
)
def test_espeak_pronounces_a_language_of_any_region(language: str, text: str, said: str) -> None:
    pytest.importorskip("espeakng_loader")
    assert EspeakPhonemizer(language).phonemes(text) == said


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.5, 2.0])
def test_a_recording_at_another_speed_keeps_its_pitch(speed: float) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(48_000) / 16_000).astype(np.float32)
    made = at_speed(tone, 16_000, speed)
    assert len(made) == pytest.approx(48_000 / speed, rel=0.01)
    inside = made[2000:-2000]
    loudest = np.argmax(np.abs(np.fft.rfft(inside))) * 16_000 / len(inside)
    assert loudest == pytest.approx(440, abs=2)


# ------------------------------------------------------------ the real voice


def test_the_embedded_voice_is_understood_word_for_word(
    catalog: Catalog, weights_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Piper speaks, Whisper base hears: what comes back is what was said.

    The voice draws its sound and rhythm by chance, and Whisper hears one such sentence in four
    otherwise, so the chance is taken out of the configuration beside the model.
    """
    sentence = "The capital of Australia is Canberra, not Sydney, and water boils at 100 degrees."
    speaks = catalog.card("piper-joe-en-us")
    files = without_chance(weights_of(speaks.name), tmp_path / "voice")
    voice: Any = load(speaks, files, "cpu")
    *_, made = events_of(voice, sentence)
    voice.close()
    hears = catalog.card("whisper-base")
    ear: Any = load(hears, weights_of(hears.name), "cpu")
    waveform = decode(made.wav, "spoken", Limits())
    *_, heard = ear.run(TranscriptionRequest(waveform), threading.Event())
    ear.close()
    assert isinstance(heard, SpeechTranscribed)
    assert words(heard.spoken.text) == words(sentence)
    assert heard.spoken.language == "en"


def without_chance(files: Path, copy: Path) -> Path:
    """A copy of a Piper voice that says a sentence in the same way each time."""
    shutil.copytree(files, copy)
    (config,) = copy.glob("*.onnx.json")
    facts = json.loads(config.read_text("utf-8"))
    facts["inference"] |= {"noise_scale": 0.0, "noise_w": 0.0}
    config.write_text(json.dumps(facts), "utf-8")
    return copy


def words(text: str) -> list[str]:
    """Whisper writes “100 degrees” in either way."""
    return re.findall(r"\w+", text.lower().replace("°", " degrees"))
