"""Hearing, with the real Whisper base in both formats."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from whisper_conversion import convert

from multimodal.backends.base import Backend, load
from multimodal.backends.speech import recognizer
from multimodal.backends.speech.voice_activity import split_audio
from multimodal.catalog.cards import Catalog, ModelCard
from multimodal.catalog.sources import FolderSource
from multimodal.errors import BackendError, RequestError
from multimodal.events import EngineEvent, Notice, Progress, SpeechTranscribed
from multimodal.limits import Limits
from multimodal.media.audio import decode
from multimodal.requests import TranscriptionRequest

SPEECH = (
    "The sun rises in the east and sets in the west. In the morning the birds sing and in the "
    "evening the children come home from school and have dinner with their family."
)
SENTENCE = "The sun rises in the east and sets in the west."

Waveforms = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def waveforms(examples: Path) -> Waveforms:
    """The examples by name, and the first sentence of one."""
    files = examples.glob("*.wav")
    found = {file.stem: decode(file.read_bytes(), file.name, Limits()) for file in files}
    return found | {"sentence": found["speech-en"][: 3 * 16_000]}


@pytest.fixture(scope="module")
def openai_card(
    catalog: Catalog, weights_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelCard:
    """The same weights, as OpenAI publishes them."""
    folder = tmp_path_factory.mktemp("openai")
    convert(weights_of("whisper-base") / "model.bin", folder / "base.pt")
    source = FolderSource(kind="folder", path=folder)
    more = {"name": "whisper-base-pt", "family": "openai_whisper", "source": source}
    return catalog.card("whisper-base").model_copy(update={**more, "engine": {"beam_size": 3}})


@pytest.fixture(scope="module")
def embedded_ears(catalog: Catalog, weights_of: Callable[[str], Path]) -> Iterator[Backend]:
    """For what is long and is cut, joined and told alike for every engine."""
    backend = load(catalog.card("whisper-base"), weights_of("whisper-base"), "cpu")
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def openai_ears(openai_card: ModelCard) -> Iterator[Backend]:
    backend = load(openai_card, openai_card.source.path, "cpu")
    yield backend
    backend.close()


@pytest.fixture(params=["embedded_ears", "openai_ears"])
def each_ears(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.getfixturevalue(request.param)
    return backend


@pytest.fixture(
    params=["embedded_ears", pytest.param("openai_ears", marks=pytest.mark.thorough)],
)
def ears(request: pytest.FixtureRequest) -> Backend:
    """For what the same code does around each engine."""
    backend: Backend = request.getfixturevalue(request.param)
    return backend


def heard(
    ears: Backend, waveform: NDArray[np.float32], **more: Any
) -> tuple[list[EngineEvent], SpeechTranscribed]:
    events = list(ears.run(TranscriptionRequest(waveform, **more), threading.Event()))
    assert isinstance(events[-1], SpeechTranscribed)
    return events, events[-1]


def heard_in(ears: Backend, waveform: NDArray[np.float32], **more: Any) -> SpeechTranscribed:
    return heard(ears, waveform, **more)[1]


def silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(int(16_000 * seconds), np.float32)


def words(text: str | None) -> list[str]:
    return re.findall(r"[\w']+", (text or "").lower())


def test_a_clip_is_heard_word_for_word(each_ears: Backend, waveforms: Waveforms) -> None:
    events, told = heard(each_ears, waveforms["speech-en"])
    assert words(told.spoken.text) == words(SPEECH)
    assert told.spoken.language == "en"
    assert told.english is None
    assert any(isinstance(event, Progress) for event in events)


def test_french_is_recognised_and_translated_when_wanted(
    each_ears: Backend, waveforms: Waveforms
) -> None:
    _, told = heard(each_ears, waveforms["question-fr"], translate_to_english_unless=("en",))
    assert told.spoken.language == "fr"
    assert "la musique" in told.spoken.text
    assert "music" in told.english.text.lower()
    _, told = heard(each_ears, waveforms["question-fr"], translate_to_english_unless=("en", "fr"))
    assert told.english is None


@pytest.mark.parametrize("kind", ["noise", "tone"])
def test_what_is_not_speech_gets_no_words(ears: Backend, kind: str) -> None:
    time = np.arange(16_000 * 4) / 16_000
    sounds = {
        "noise": np.random.default_rng(0).normal(0, 0.1, time.shape),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
    }
    assert heard_in(ears, sounds[kind].astype(np.float32)).spoken.text == ""


def test_a_long_recording_is_cut_where_it_is_quiet() -> None:
    wave = np.ones(16_000 * 300, np.float32)
    wave[16_000 * 118 : 16_000 * 119] = 0
    found = list(split_audio(wave, 120))
    assert 118 * 16_000 < len(found[0][1]) < 119 * 16_000, "in the second that is silent"
    assert all(115 * 16_000 <= len(piece) <= 120 * 16_000 for _, piece in found[:-1])
    assert np.array_equal(np.concatenate([piece for _, piece in found]), wave)
    assert [start for start, _ in found][1] == len(found[0][1])
    assert list(split_audio(wave[:0], 120)) == []


def test_words_of_every_piece_are_joined(ears: Backend, waveforms: Waveforms) -> None:
    once = waveforms["speech-en"]
    pause = silence(recognizer.PIECE_S - len(once) / 16_000)
    told = heard_in(ears, np.concatenate([once, pause, once]))
    assert words(told.spoken.text) == words(SPEECH) * 2
    assert told.spoken.language == "en"


def test_a_file_that_is_no_checkpoint_is_refused(openai_card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no \.pt file"):
        load(openai_card, tmp_path, "cpu")
    torch.save({"something": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(BackendError, match="not a Whisper checkpoint"):
        load(openai_card, tmp_path, "cpu")


def test_a_pickle_with_code_in_it_is_never_run(openai_card: ModelCard, tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "trap.pt")
    with pytest.raises(BackendError, match="not a Whisper checkpoint"):
        load(openai_card, tmp_path, "cpu")
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_ctranslate2_weights_that_are_broken_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nonsense")
    with pytest.raises(BackendError, match=r"no tokenizer\.json"):
        load(catalog.card("whisper-base"), tmp_path, "cpu")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BackendError, match="could not be loaded"):
        load(catalog.card("whisper-base"), tmp_path, "cpu")


def test_every_segment_is_where_its_words_were_said(ears: Backend, waveforms: Waveforms) -> None:
    """A pause, ten seconds of speech, a longer pause, a question."""
    story, question = waveforms["speech-en"], waveforms["question-en"]
    told = heard_in(ears, np.concatenate([silence(10), story, silence(20), question]))
    assert " ".join(segment.text for segment in told.spoken.segments) == told.spoken.text
    start_s = 10.0
    for waveform, wanted in ((story, SPEECH), (question, "What is photosynthesis?")):
        end_s = start_s + len(waveform) / 16_000
        said = [
            s for s in told.spoken.segments if start_s - 0.6 <= s.start_s and s.end_s <= end_s + 0.6
        ]
        assert words(" ".join(segment.text for segment in said)) == words(wanted)
        assert said[0].start_s == pytest.approx(start_s, abs=0.6)
        assert said[-1].end_s == pytest.approx(end_s, abs=1.0)
        start_s = end_s + 20


@pytest.mark.parametrize("pause_s", [2.6, 20])
@pytest.mark.parametrize("order", ["story first", "sentence first"])
def test_no_segment_reaches_over_a_pause(
    embedded_ears: Backend, waveforms: Waveforms, pause_s: float, order: str
) -> None:
    check_pause(embedded_ears, waveforms, pause_s, order)


@pytest.mark.thorough
def test_no_segment_of_another_engine_reaches_over_a_pause(
    openai_card: ModelCard, waveforms: Waveforms
) -> None:
    assert isinstance(openai_card.source, FolderSource)
    openai = load(openai_card, openai_card.source.path, "cpu")
    check_pause(openai, waveforms, 2.6, "story first")
    openai.close()


def check_pause(ears: Backend, waveforms: Waveforms, pause_s: float, order: str) -> None:
    story, sentence = waveforms["speech-en"], waveforms["sentence"]
    first, second = (story, sentence) if order == "story first" else (sentence, story)
    told = heard_in(ears, np.concatenate([first, silence(pause_s), second]))
    from_s, to_s = len(first) / 16_000, len(first) / 16_000 + pause_s
    for segment in told.spoken.segments:
        assert segment.end_s < from_s + 0.5 or segment.start_s > to_s - 0.5, segment
    before = " ".join(s.text for s in told.spoken.segments if s.end_s < from_s + 0.5)
    texts = {len(story): SPEECH, len(sentence): SENTENCE}
    assert len(before) == pytest.approx(len(texts[len(first)]), rel=0.05)
    assert words(told.spoken.text).count("west") == 2


@pytest.mark.parametrize(
    ("name", "times", "once"),
    [
        pytest.param("speech-en", 3, "dinner", marks=pytest.mark.thorough),
        ("sentence", 8, "rises"),
    ],
)
def test_what_is_said_several_times_is_written_as_often(
    embedded_ears: Backend, waveforms: Waveforms, name: str, times: int, once: str
) -> None:
    recording = np.tile(np.concatenate([waveforms[name], silence(0.5)]), times)
    told = heard_in(embedded_ears, recording)
    found = words(told.spoken.text)
    assert (found.count("sun"), found.count(once)) == (times, times)
    length = len(SPEECH if name == "speech-en" else SENTENCE) * times
    assert len(told.spoken.text) == pytest.approx(length, rel=0.05)


def test_each_sentence_is_written_in_the_language_it_is_said_in(
    ears: Backend, waveforms: Waveforms
) -> None:
    english, french = waveforms["sentence"], waveforms["question-fr"]
    for first, second in ((english, french), (french, english)):
        told = heard_in(ears, np.concatenate([first, silence(0.5), second]))
        assert "in the east and sets in the west" in told.spoken.text.lower()
        assert "la musique" in told.spoken.text.lower()
        languages = ["en", "fr"] if first is english else ["fr", "en"]
        assert list(dict.fromkeys(s.language for s in told.spoken.segments)) == languages
        assert told.spoken.language == "fr", "most of it is"


@pytest.mark.thorough
def test_a_sentence_in_another_language_is_found_after_many(
    embedded_ears: Backend, waveforms: Waveforms
) -> None:
    story, french = waveforms["speech-en"], waveforms["question-fr"]
    recording = np.concatenate([story, silence(0.5), story, silence(0.5), french])
    told = heard_in(embedded_ears, recording, translate_to_english_unless=("en",))
    assert words(told.spoken.text).count("dinner") == 2
    assert "la musique" in told.spoken.text.lower()
    assert told.spoken.language == "en"
    assert {s.language for s in told.spoken.segments if s.start_s > 20.8} == {"fr"}
    assert {s.language for s in told.spoken.segments if s.start_s < 20.5} == {"en"}
    assert "music" in told.english.text.lower(), "who reads English only, reads it all"
    assert words(told.english.text).count("dinner") == 2


def test_a_language_that_was_given_is_not_looked_for(ears: Backend, waveforms: Waveforms) -> None:
    both = np.concatenate([waveforms["sentence"], silence(0.5), waveforms["question-fr"]])
    told = heard_in(ears, both, language="en")
    assert {s.language for s in told.spoken.segments} == {"en"}


def test_words_that_may_occur_are_written_as_the_prompt_spells_them(
    each_ears: Backend, waveforms: Waveforms
) -> None:
    told = heard_in(each_ears, waveforms["question-en"], prompt="Fotosynthesis, Mr. Fotosynthesis.")
    assert "Fotosynthesis" in told.spoken.text


def test_a_temperature_is_used_and_told(ears: Backend, waveforms: Waveforms) -> None:
    told = heard_in(ears, waveforms["question-en"], temperature=0.6)
    assert {s.statistics and s.statistics.temperature for s in told.spoken.segments} == {0.6}


def test_every_segment_says_how_sure_the_engine_was(ears: Backend, waveforms: Waveforms) -> None:
    recording = np.concatenate([waveforms["speech-en"], silence(5), waveforms["question-en"]])
    told = heard_in(ears, recording)
    for segment in told.spoken.segments:
        assert segment.statistics is not None
        assert -1 < segment.statistics.avg_logprob < 0
        assert 0 <= segment.statistics.no_speech_prob <= 1
        assert 0 < segment.statistics.compression_ratio < 2.4
        assert segment.statistics.tokens
        assert segment.statistics.seek / 100 <= segment.start_s + 0.01
    assert told.spoken.segments[-1].statistics
    assert told.spoken.segments[-1].statistics.seek / 100 > 14


def test_segments_of_a_later_piece_count_from_the_beginning(
    ears: Backend, waveforms: Waveforms
) -> None:
    later = np.concatenate([silence(recognizer.PIECE_S + 30), waveforms["question-fr"]])
    told = heard_in(ears, later, translate_to_english_unless=("en",))
    for segments in (told.spoken.segments, told.english.segments):
        assert segments[0].start_s == pytest.approx(recognizer.PIECE_S + 30, abs=0.6)
    assert "la musique" in " ".join(segment.text for segment in told.spoken.segments)
    assert "music" in " ".join(segment.text for segment in told.english.segments).lower()


@pytest.mark.parametrize(
    ("name", "language"),
    [("sentence", "en"), pytest.param("question-fr", "fr", marks=pytest.mark.thorough)],
)
def test_an_utterance_is_heard_in_fewer_steps_with_the_same_words(
    ears: Backend, waveforms: Waveforms, name: str, language: str
) -> None:
    usual = heard_in(ears, waveforms[name])
    told = heard_in(ears, waveforms[name], is_utterance=True)
    assert words(told.spoken.text) == words(usual.spoken.text)
    assert told.spoken.language == language
    (segment,) = told.spoken.segments
    assert 0 <= segment.start_s < segment.end_s <= len(waveforms[name]) / 16_000
    assert segment.statistics is not None
    assert -1 < segment.statistics.avg_logprob < 0


@pytest.mark.parametrize("sound", [silence(2), np.sin(np.arange(32_000) / 8).astype(np.float32)])
def test_an_utterance_without_a_word_is_none(ears: Backend, sound: NDArray[np.float32]) -> None:
    assert heard_in(ears, sound, is_utterance=True).spoken.text == ""


def test_an_utterance_that_is_too_short_to_tell_is_in_the_likely_language(
    ears: Backend, waveforms: Waveforms
) -> None:
    short = waveforms["question-fr"][: 16_000 * 5 // 4]
    assert heard_in(ears, short, is_utterance=True, likely="fr").spoken.language == "fr"
    assert heard_in(ears, short, is_utterance=True, likely="en").spoken.language == "en"


def test_a_language_that_is_none_is_refused(ears: Backend, waveforms: Waveforms) -> None:
    with pytest.raises(RequestError, match="does not know the language 'xx'"):
        heard(ears, waveforms["speech-en"], language="xx")


def test_a_model_that_was_not_trained_to_translate_leaves_the_words_as_they_are(
    openai_card: ModelCard, waveforms: Waveforms
) -> None:
    card = openai_card.model_copy(update={"translates": (), "engine": {"beam_size": 1}})
    assert isinstance(card.source, FolderSource)
    turbo = load(card, card.source.path, "cpu")
    events, told = heard(turbo, waveforms["question-fr"], translate_to_english_unless=("en",))
    assert any(isinstance(e, Notice) and "does not translate" in e.text for e in events)
    assert (told.spoken.language, told.english) == ("fr", None)
    assert "la musique" in told.spoken.text
