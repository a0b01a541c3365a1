"""One utterance through CTranslate2, with the silence behind it that Whisper is not given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from multimodal.backends.speech.faster_whisper import LONGEST_S, EncodedUtterance
from multimodal.limits import Limits
from multimodal.media.audio import SAMPLE_RATE, decode


@pytest.fixture(scope="module")
def model(weights_of: Callable[[str], Path]) -> WhisperModel:
    return WhisperModel(
        str(weights_of("whisper-base")), device="cpu", compute_type="int8", local_files_only=True
    )


@pytest.fixture(scope="module")
def french(examples: Path) -> NDArray[np.float32]:
    return decode((examples / "question-fr.wav").read_bytes(), "question", Limits())


def test_its_language_and_its_words_come_from_one_encoding(
    model: WhisperModel, french: NDArray[np.float32]
) -> None:
    encoded = EncodedUtterance(model, french)
    told = encoded.language_probabilities()
    assert max(told, key=lambda language: told[language]) == "fr"
    assert sum(told.values()) == pytest.approx(1, abs=0.01)
    written = encoded.decode("transcribe", "fr", 5)
    assert written is not None
    assert written.statistics is not None
    assert written.text.endswith(("la musique ?", "la musique?"))
    assert -1 < written.statistics.avg_logprob < 0
    assert 0 <= written.statistics.no_speech_prob <= 1
    english = encoded.decode("translate", "fr", 5)
    assert english is not None
    assert "music" in english.text.casefold()


def test_one_sample_and_the_longest_are_taken(model: WhisperModel) -> None:
    for samples in (1, int(LONGEST_S * SAMPLE_RATE)):
        silence = EncodedUtterance(model, np.zeros(samples, np.float32))
        heard = silence.decode("transcribe", "en", 1)
        assert heard is None or len(heard.text) < 40
