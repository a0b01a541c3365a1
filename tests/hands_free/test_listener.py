"""Turns of somebody who speaks without pressing anything."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from test_turn_detection import loud, silence, sound

from multimodal.errors import BackendError
from multimodal.events import Transcription
from multimodal.hands_free.echoes import is_echo
from multimodal.hands_free.listener import HeardEvent, HeardKind, Listener, is_complete
from multimodal.hands_free.turn_detection import Samples, TurnDetector
from multimodal.media.audio import SAMPLE_RATE

STEP_S = 0.096


@dataclass
class Recognizer:
    """Answers at once with the words that are due, or when the test says so."""

    words: str = ""
    is_slow: bool = False
    fault: BackendError | None = None
    asked: list[Samples] = field(default_factory=list)
    waiting: list[Future[Transcription]] = field(default_factory=list)

    def __call__(self, samples: Samples) -> Future[Transcription]:
        future: Future[Transcription] = Future()
        self.asked.append(samples)
        self.waiting.append(future)
        if not self.is_slow:
            self.answer()
        return future

    def answer(self) -> None:
        for future in self.waiting:
            if self.fault is not None:
                future.set_exception(self.fault)
            else:
                future.set_result(Transcription(self.words, "en"))
        self.waiting.clear()


class Room:
    """What a person in it says, as the listener hears it."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.listener = Listener(TurnDetector(loud), recognizer)

    def hears(self, samples: Samples, spoken: str | None = None) -> list[HeardEvent]:
        step = int(STEP_S * SAMPLE_RATE)
        found: list[HeardEvent] = []
        for at in range(0, len(samples), step):
            found += self.listener.feed(samples[at : at + step], spoken)
        return found


@pytest.fixture
def room() -> Room:
    return Room(Recognizer())


def kinds(heard: Iterable[HeardEvent]) -> list[str]:
    return [event.kind for event in heard if event.kind is not HeardKind.CAPTION]


def test_a_whole_sentence_and_a_short_silence_are_a_turn(room: Room) -> None:
    room.recognizer.words = "What is the capital of France?"
    assert kinds(room.hears(sound(2))) == [HeardKind.SPEECH]
    heard = room.hears(silence(0.7))
    assert kinds(heard) == [HeardKind.TURN]
    assert heard[-1] == HeardEvent(HeardKind.TURN, "What is the capital of France?", "en")
    assert room.hears(silence(5)) == []


def test_a_sentence_that_goes_on_is_waited_for(room: Room) -> None:
    room.recognizer.words = "I would like to go to the"
    room.hears(sound(1))
    assert HeardKind.TURN not in kinds(room.hears(silence(1)))
    room.recognizer.words = "I would like to go to the seaside."
    room.hears(sound(1))
    heard = room.hears(silence(0.7))
    assert [event.words for event in heard if event.kind is HeardKind.TURN] == [
        "I would like to go to the seaside."
    ]


def test_a_sentence_that_stays_unfinished_ends_in_the_end(room: Room) -> None:
    room.recognizer.words = "I would like to go to the."
    room.hears(sound(1))
    assert kinds(room.hears(silence(1.2))) == []
    assert kinds(room.hears(silence(0.5))) == [HeardKind.TURN]


def test_what_is_said_is_shown_while_it_is_said(room: Room) -> None:
    room.recognizer.words = "Once upon"
    first = room.hears(sound(1))
    room.recognizer.words = "Once upon a time"
    heard = [*first, *room.hears(sound(2))]
    captions = [event.words for event in heard if event.kind is HeardKind.CAPTION]
    assert captions[0] == "Once upon"
    assert captions[-1] == "Once upon a time"


def test_one_recognition_runs_at_a_time(room: Room) -> None:
    room.recognizer.is_slow = True
    room.hears(sound(5))
    room.hears(silence(2))
    assert len(room.recognizer.asked) == 1
    room.recognizer.words = "Hello there."
    room.recognizer.answer()
    room.recognizer.is_slow = False
    assert kinds(room.hears(silence(0.3))) == [HeardKind.TURN]
    assert len(room.recognizer.asked[-1]) > len(room.recognizer.asked[0])


def test_sound_without_words_is_noise(room: Room) -> None:
    assert kinds(room.hears(sound(1))) == [HeardKind.SPEECH]
    assert kinds(room.hears(silence(0.7))) == [HeardKind.NOISE]


def test_a_short_noise_is_not_recognized_at_all(room: Room) -> None:
    room.recognizer.words = "Thank you."  # as recognizers make of a cough
    heard = room.hears(sound(0.2)) + room.hears(silence(1))
    assert kinds(heard) == [HeardKind.SPEECH, HeardKind.NOISE]
    assert room.recognizer.asked == []


def test_words_interrupt_an_answer_and_a_noise_does_not(room: Room) -> None:
    spoken = "The capital of France is Paris, a city on the Seine."
    heard = room.hears(sound(0.3), spoken) + room.hears(silence(1), spoken)
    assert kinds(heard) == [HeardKind.SPEECH, HeardKind.NOISE]
    room.recognizer.words = "Stop, tell me about Spain."
    heard = room.hears(sound(1.5), spoken)
    assert kinds(heard) == [HeardKind.SPEECH, HeardKind.INTERRUPTION]
    assert kinds(room.hears(silence(1))) == [HeardKind.TURN]


def test_words_interrupt_an_answer_that_has_said_nothing_yet(room: Room) -> None:
    room.recognizer.words = "No, wait."
    assert kinds(room.hears(sound(1.5), "")) == [HeardKind.SPEECH, HeardKind.INTERRUPTION]


def test_its_own_voice_is_no_turn(room: Room) -> None:
    spoken = "The capital of France is Paris, a city on the Seine."
    room.recognizer.words = "the capital of frans is Paris"
    heard = room.hears(sound(2), spoken) + room.hears(silence(1), spoken)
    assert kinds(heard) == [HeardKind.SPEECH, HeardKind.NOISE]
    assert [event.words for event in heard if event.words] == []


def test_a_fault_is_told_and_the_next_turn_is_heard(room: Room) -> None:
    room.recognizer.fault = BackendError("It broke.")
    heard = room.hears(sound(1))
    assert HeardEvent(HeardKind.FAULT, "It broke.") in heard
    room.recognizer.fault = None
    room.hears(silence(1))
    room.recognizer.words = "Again."
    assert kinds(room.hears(sound(1)) + room.hears(silence(1)))[-1] == HeardKind.TURN


def test_who_never_pauses_is_answered_after_a_minute(room: Room) -> None:
    room.recognizer.words = "and so on and"
    heard = room.hears(sound(70))
    assert kinds(heard)[:2] == [HeardKind.SPEECH, HeardKind.TURN]
    rest = room.hears(sound(3)) + room.hears(silence(2))
    assert kinds(rest)[-1] == HeardKind.TURN
    assert len(room.recognizer.asked[-1]) < 30 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("words", "is_whole"),
    [
        ("What is the capital of France?", True),
        ("Tell me a story.", True),
        ("Tell me a story", False),
        ("I went to the.", False),
        ("Je voudrais aller à la.", False),
        ("日本の首都はどこですか。", True),
        ("Well...", False),
        ("Where is it from?", True),
        ("He said “yes.”", True),
        ("", False),
    ],
)
def test_whether_a_sentence_is_complete(words: str, is_whole: bool) -> None:
    assert is_complete(words) is is_whole


@pytest.mark.parametrize(
    ("heard", "spoken", "is_own"),
    [
        ("The capital of France is Paris.", "The capital of France is Paris.", True),
        ("capital of France", "The capital of France is Paris.", True),
        ("the capital of fans is Paris", "The capital of France is Paris.", True),
        ("Stop.", "The capital of France is Paris.", False),
        ("What is the capital of Spain?", "The capital of France is Paris.", False),
        ("and what about Spain", "France is a country. Paris is its capital.", False),
        ("首都は東京です", "日本の首都は東京です。", True),
        ("やめて", "日本の首都は東京です。", False),
        ("Paris", "", False),
        ("", "Paris", False),
    ],
)
def test_whether_it_is_its_own_voice(heard: str, spoken: str, is_own: bool) -> None:
    assert is_echo(heard, spoken) is is_own
