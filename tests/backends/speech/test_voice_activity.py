"""Where somebody speaks, and what was said when, without any model that writes words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.backends.speech.recognizer import TranscribeOptions
from multimodal.backends.speech.voice_activity import (
    LONGEST_PAUSE_S,
    MARGIN_S,
    WINDOW_S,
    Span,
    Window,
    windows_of,
)
from multimodal.backends.speech.whisper_decoding import (
    PASSAGE_S,
    Hypothesis,
    WhisperRecognizer,
    split_passages,
    spoken_language,
)
from multimodal.catalog.cards import Catalog
from multimodal.events import DecodingStatistics, Segment, Transcription

RATE = 16_000
LENGTH = 200 * RATE
RECORDING = np.random.default_rng(0).normal(0, 0.1, LENGTH).astype(np.float32)


@st.composite
def spans(draw: Callable[..., float]) -> list[Span]:
    """Utterances as the detector gives them: in order, apart, at least one."""
    found: list[Span] = []
    at = draw(st.integers(0, 10 * RATE))
    for _ in range(int(draw(st.integers(1, 12)))):
        start = at + int(draw(st.integers(1, 9 * RATE)))
        at = start + int(draw(st.integers(RATE // 4, 45 * RATE)))
        if at >= LENGTH:
            break
        found.append((int(start), int(at)))
    return found or [(RATE, 2 * RATE)]


@given(spans())
def test_windows_hold_all_speech_in_order_and_no_long_pause(found: list[Span]) -> None:
    made = list(windows_of(RECORDING, found))
    for window, following in itertools.pairwise(made):
        assert window.end <= following.start
    for window in made:
        assert 0 <= window.start < window.end <= LENGTH
        assert window.seconds <= WINDOW_S
        assert np.array_equal(
            window.samples[: window.end - window.start], RECORDING[window.start : window.end]
        )
        for left, right in zip(window.utterances, window.utterances[1:], strict=False):
            assert 0 < right[0] - left[1] <= LONGEST_PAUSE_S * RATE
    heard = np.zeros(LENGTH, bool)
    for window in made:
        heard[window.start : window.end] = True
    assert all(heard[start:end].all() for start, end in found)


@given(spans(), st.floats(-5, 40), st.floats(-5, 40))
def test_a_segment_lies_in_its_window_and_ends_where_somebody_speaks(
    found: list[Span], start_s: float, end_s: float
) -> None:
    for window in windows_of(RECORDING, found):
        segment = window.segment(start_s, end_s, "words")
        first, last = segment.start_s * RATE, segment.end_s * RATE
        assert window.start - 1 <= first <= last <= window.end + 1
        spoken = [(a, b) for a, b in found if b > first + 1 and a < last - 1]
        if spoken:
            assert spoken[0][0] - 1 <= first
            assert last <= spoken[-1][1] + 1


@given(spans(), st.floats(0, 30), st.floats(0, 30), st.floats(0, 30))
def test_what_is_said_later_is_not_placed_earlier(
    found: list[Span], first_s: float, second_s: float, third_s: float
) -> None:
    times = sorted((first_s, second_s, third_s))
    for window in windows_of(RECORDING, found):
        early, late = window.segment(*times[:2], "a"), window.segment(*times[1:], "b")
        assert early.start_s <= late.start_s + 1e-9
        assert early.end_s <= late.end_s + 1e-9


@given(spans())
def test_halves_and_passages_leave_nothing_out(found: list[Span]) -> None:
    for window in windows_of(RECORDING, found):
        most = max(2, int(window.seconds // 8) + 1)
        cut = split_passages(window, most)
        assert (cut[0].start, cut[-1].end) == (window.start, window.end)
        assert all(a.end == b.start for a, b in itertools.pairwise(cut))
        assert len(cut) <= most
        assert len(cut) == 1 or all(passage.speech_s >= PASSAGE_S for passage in cut)
        if halves := window.halves(2.5):
            left, right = halves
            assert (left.start, left.end, right.end) == (window.start, right.start, window.end)
            assert min(left.seconds, right.seconds) >= 2.5
        else:
            assert window.seconds < 4 * 2.5 + 0.01


def test_a_window_is_cut_at_the_longest_pause_near_its_middle() -> None:
    spoken = ((0, 9 * RATE), (9 * RATE + 8000, 11 * RATE), (12 * RATE, 20 * RATE))
    halves = Window(RECORDING, 0, 20 * RATE, spoken).halves(2.5)
    assert halves is not None
    assert halves[0].end == int(11.5 * RATE)
    assert halves[1].utterances == ((12 * RATE, 20 * RATE),)


def test_a_margin_is_heard_on_both_sides_of_the_speech() -> None:
    (window,) = windows_of(RECORDING, [(10 * RATE, 12 * RATE)])
    margin = MARGIN_S - 0.15
    assert window.start == pytest.approx((10 - margin) * RATE, abs=1)
    assert window.end == pytest.approx((12 + margin) * RATE, abs=1)


@pytest.mark.parametrize(
    ("probabilities", "seconds", "expected"),
    [
        ({"fr": 0.9, "en": 0.1}, 3.0, "fr"),
        ({"fr": 0.9, "en": 0.1}, 1.0, "en"),
        ({"la": 0.4, "en": 0.3}, 3.0, "en"),
        ({"fr": 0.4, "en": 0.01}, 3.0, "fr"),
        ({}, 3.0, "en"),
    ],
)
def test_a_language_changes_only_where_it_is_sure(
    probabilities: dict[str, float], seconds: float, expected: str
) -> None:
    assert spoken_language(probabilities, "en", seconds) == expected


def hypothesis(text: str, logprob: float = -0.2, speech_s: float = 5.0) -> Hypothesis:
    told = DecodingStatistics(logprob, 0.0, 1.0, 0.0, (1, 2, 3), 0)
    return Hypothesis((Segment(0.0, speech_s, text, statistics=told),), speech_s)


def test_a_loop_and_more_than_can_be_said_are_not_accepted() -> None:
    assert hypothesis("What is photosynthesis?").is_accepted
    assert not hypothesis("What is photosynthesis?", logprob=-1.2).is_accepted
    assert not hypothesis("abcdefghij" * 20).is_accepted, "40 letters a second"


class Mumbled(WhisperRecognizer[None]):
    """Hears unlikely words at first, and none when it tries again."""

    def decode(self, samples: Any, request: TranscribeOptions) -> Iterator[Segment]:
        if not request.temperature:
            yield from hypothesis("What is it?", logprob=-1.2, speech_s=3.0).segments

    def language_probabilities(self, samples: Any) -> Mapping[str, float]:
        return {}


def test_words_that_are_unlikely_are_kept_where_another_try_has_none(
    catalog: Catalog, speech: Any
) -> None:
    model = Mumbled(catalog.card("whisper-base"), None)
    heard = model.words(speech, TranscribeOptions("transcribe", "en", None), lambda _: True)
    assert heard.text == "What is it?"


class Quick(WhisperRecognizer[None]):
    """Hears an utterance in a quick way that comes to `found`."""

    found: Hypothesis | None = None
    usual = "Heard as usual."

    def utterance(self, window: Window, manner: TranscribeOptions) -> tuple[Hypothesis, str] | None:
        return (self.found, "fr") if self.found else None

    def decode(self, samples: Any, request: TranscribeOptions) -> Iterator[Segment]:
        yield from hypothesis(self.usual, speech_s=2.0).segments

    def language_probabilities(self, samples: Any) -> Mapping[str, float]:
        return {"en": 1.0}


def quickly(
    catalog: Catalog, recording: Any, found: Hypothesis | None, **how: Any
) -> Transcription:
    model = Quick(catalog.card("whisper-base"), None)
    model.found = found
    manner = TranscribeOptions("transcribe", None, None, **{"is_utterance": True, **how})
    return model.words(recording, manner, lambda _: True)


def test_one_utterance_is_heard_in_the_quick_way(catalog: Catalog, speech: Any) -> None:
    heard = quickly(catalog, speech, hypothesis("The sun rises.", speech_s=2.0))
    assert (heard.text, heard.language) == ("The sun rises.", "fr")
    assert [segment.language for segment in heard.segments] == ["fr"]


@pytest.mark.parametrize(
    "found",
    [
        None,
        hypothesis("The sun rises.", logprob=-1.2),
        hypothesis("The sun rises. " * 12),
        hypothesis("The sun rises. The sun, rises."),
    ],
    ids=["gave up", "unlikely", "a loop", "written twice"],
)
def test_what_the_quick_way_does_not_hear_well_is_heard_as_usual(
    catalog: Catalog, speech: Any, found: Hypothesis | None
) -> None:
    assert quickly(catalog, speech, found).text == "Heard as usual."


@pytest.mark.parametrize("how", [{"is_utterance": False}, {"prompt": "Ra"}, {"temperature": 0.5}])
def test_what_asks_for_more_is_heard_as_usual(
    catalog: Catalog, speech: Any, how: dict[str, Any]
) -> None:
    assert quickly(catalog, speech, hypothesis("Quick."), **how).text == "Heard as usual."


def test_a_long_pause_makes_it_more_than_one_utterance(catalog: Catalog, speech: Any) -> None:
    pause = np.zeros(4 * RATE, np.float32)
    heard = quickly(catalog, np.concatenate([speech, pause, speech]), hypothesis("Quick."))
    assert heard.text == "Heard as usual. Heard as usual."


LOOP = "1-1-" * 40


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (hypothesis("Half a litre of milk.", logprob=-0.3), "Half a litre of milk."),
        (hypothesis("No, no, no, no, " * 6, logprob=-0.1), "No, no, no, no, " * 6),
        (None, LOOP),
    ],
    ids=["a loop", "said again and again", "nothing else is heard"],
)
def test_what_repeats_itself_in_a_window_that_cannot_be_cut_is_heard_in_another_way(
    catalog: Catalog, speech: Any, found: Hypothesis | None, expected: str
) -> None:
    model = Quick(catalog.card("whisper-base"), None)
    model.found, model.usual = found, LOOP
    heard = model.words(speech, TranscribeOptions("transcribe", "en", None), lambda _: True)
    assert heard.text == expected.strip()


def test_what_may_be_said_oftener_or_less_often_is_heard_in_passages() -> None:
    assert hypothesis("Alle meine Entchen " * 8).needs_splitting
    assert hypothesis("What is photosynthesis?", speech_s=18.0).needs_splitting
    assert not hypothesis("What is photosynthesis?").needs_splitting
    assert not Hypothesis((), 5.0).needs_splitting
