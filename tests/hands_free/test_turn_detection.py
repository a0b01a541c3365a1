"""Where somebody speaks, in sound that comes in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal.backends.speech.voice_activity import speech_probabilities
from multimodal.hands_free.turn_detection import LEAD_IN_S, WINDOW, Samples, TurnDetector
from multimodal.limits import Limits
from multimodal.media.audio import SAMPLE_RATE, decode


def loud(samples: Samples) -> Samples:
    """A detector for tests: speech is what is loud."""
    return np.abs(samples.reshape(-1, WINDOW)).max(axis=1)


def sound(seconds: float, level: float = 0.9) -> Samples:
    return np.full(round(seconds * SAMPLE_RATE / WINDOW) * WINDOW, level, np.float32)


def silence(seconds: float) -> Samples:
    return sound(seconds, 0.0)


@pytest.fixture
def detector() -> TurnDetector:
    return TurnDetector(loud)


def test_silence_begins_nothing_and_is_not_kept(detector: TurnDetector) -> None:
    for _ in range(100):
        detector.feed(silence(0.5))
    assert not detector.is_begun
    assert len(detector.utterance) <= (LEAD_IN_S + 0.3) * SAMPLE_RATE


def test_a_click_begins_no_utterance(detector: TurnDetector) -> None:
    for _ in range(5):
        detector.feed(sound(0.1))
        detector.feed(silence(1))
    assert not detector.is_begun


def test_an_utterance_has_what_was_before_it_and_its_pauses(detector: TurnDetector) -> None:
    detector.feed(silence(3))
    detector.feed(sound(1))
    detector.feed(silence(0.64))
    assert detector.is_begun
    assert detector.voiced_s == pytest.approx(1, abs=0.04)
    assert detector.quiet_s == pytest.approx(0.64, abs=0.04)
    detector.feed(sound(0.5))
    assert detector.quiet == 0
    assert len(detector.utterance) / SAMPLE_RATE == pytest.approx(LEAD_IN_S + 2.14, abs=0.15)
    assert detector.utterance[-1] == pytest.approx(0.9)
    assert detector.utterance[0] == 0


@pytest.mark.parametrize("size", [1, 7, 100, 511, 512, 513, 1600, 16_000])
def test_how_the_sound_is_cut_changes_nothing(size: int, detector: TurnDetector) -> None:
    whole = np.concatenate([silence(1), sound(0.7), silence(0.3), sound(0.3), silence(0.4)])
    at_once = TurnDetector(loud)
    at_once.feed(whole)
    for at in range(0, len(whole), size):
        detector.feed(whole[at : at + size])
    assert np.array_equal(detector.utterance, at_once.utterance)
    assert (detector.voiced, detector.quiet) == (at_once.voiced, at_once.quiet)


def test_what_follows_a_turn_is_another_utterance(detector: TurnDetector) -> None:
    detector.feed(sound(2))
    detector.reset()
    assert not detector.is_begun
    detector.feed(silence(1))
    assert not detector.is_begun
    detector.feed(sound(0.5))
    assert detector.voiced_s == pytest.approx(0.5, abs=0.04)
    assert len(detector.utterance) / SAMPLE_RATE <= LEAD_IN_S + 0.9


def test_speech_is_found_where_it_is_in_a_recording(examples: Path) -> None:
    path = examples / "question-en.wav"
    spoken = decode(path.read_bytes(), path.name, Limits())
    noise = np.random.default_rng(0).normal(0, 0.003, 3 * SAMPLE_RATE).astype(np.float32)
    detector = TurnDetector(speech_probabilities)
    detector.feed(noise)
    assert not detector.is_begun
    for at in range(0, len(spoken), 1600):
        detector.feed(spoken[at : at + 1600])
    assert detector.is_begun
    assert detector.voiced_s > 0.6 * len(spoken) / SAMPLE_RATE
    detector.feed(noise[:SAMPLE_RATE])
    assert detector.quiet_s > 0.7
