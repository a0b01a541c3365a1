"""Whisper in ONNX hears as openai-whisper does with the same weights, by the likeliest token."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
from numpy.typing import NDArray

from multimodal.backends.base import load
from multimodal.backends.onnx.whisper import OnnxWhisper, WhisperFolder
from multimodal.backends.onnx.whisper_tokens import TICK_S, TimedTokens, split_segments
from multimodal.backends.speech.openai_whisper import OpenAIWhisper
from multimodal.backends.speech.openai_whisper import load as load_openai
from multimodal.backends.speech.recognizer import TranscribeOptions
from multimodal.backends.speech.voice_activity import Window
from multimodal.errors import BackendError
from multimodal.media.audio import SAMPLE_RATE
from multimodal.studio.export.onnx_card import read_exported_card
from multimodal.studio.export.speech_source import recordings

GREEDY = TranscribeOptions("transcribe", "en", beams=None)
FIRST = 50_364
"""The token of 0.00 s in OpenAI's vocabulary of 99 languages."""


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_onnx.exported_whisper()[1] / "out"


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[OnnxWhisper]:
    card = read_exported_card(folder).model_copy(update={"engine": {"threads": 1}})
    made = load(card, folder, "cpu")
    assert isinstance(made, OnnxWhisper)
    with closing(made):
        yield made


@pytest.fixture(scope="module")
def openai(folder: Path) -> Iterator[OpenAIWhisper]:
    """The model that was exported, on another library."""
    made = load_openai(read_exported_card(folder), folder.parent / "model", "cpu")
    assert isinstance(made, OpenAIWhisper)
    with closing(made):
        yield made


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    return recordings()[0]


@pytest.mark.parametrize(
    ("manner", "theirs"),
    [
        (GREEDY, GREEDY),
        (
            TranscribeOptions("translate", "de", beams=5, prompt="Velmora, <|en|>"),
            TranscribeOptions("translate", "de", beams=None, prompt="Velmora, < |en|>"),
        ),
    ],
    ids=["plain", "translated, with words that may occur"],
)
def test_it_hears_the_same_words_at_the_same_times(
    engine: OnnxWhisper,
    openai: OpenAIWhisper,
    speech: NDArray[np.float32],
    manner: TranscribeOptions,
    theirs: TranscribeOptions,
) -> None:
    """What a person types makes no control token, and of several beams one is followed."""
    ours, wanted = (
        list(one.decode(speech, how)) for one, how in ((engine, manner), (openai, theirs))
    )
    wanted = [it for it in wanted if it.text]  # of silence it tells an empty segment
    assert ours
    assert [it.text for it in ours] == [it.text for it in wanted]
    for one, other in zip(ours, wanted, strict=True):
        assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=0.011)
        told, same = one.statistics, other.statistics
        assert told is not None
        assert same is not None
        assert told.tokens == same.tokens
        assert told.avg_logprob == pytest.approx(same.avg_logprob, abs=1e-3)
        assert told.no_speech_prob == pytest.approx(same.no_speech_prob, rel=0.01)
        assert told.compression_ratio == pytest.approx(same.compression_ratio)
        assert abs(told.seek - same.seek) <= 1


def test_it_finds_the_same_languages_as_likely(engine: OnnxWhisper, openai: OpenAIWhisper) -> None:
    whole = recordings()[-1]  # a shorter one is filled up in two ways
    found = engine.language_probabilities(whole)
    assert found == pytest.approx(dict(openai.language_probabilities(whole)), rel=0.01)
    assert sum(found.values()) == pytest.approx(1)
    assert engine.languages() == ("en", "de")


def test_it_ends_between_two_tokens(engine: OnnxWhisper, speech: NDArray[np.float32]) -> None:
    asked = itertools.count()
    manner = TranscribeOptions("transcribe", "en", None, stopped=lambda: next(asked) >= 8)
    told = [it.statistics for it in engine.decode(speech, manner)]
    assert 0 < sum(len(it.tokens) for it in told if it) <= 7, "one look is before it hears"


def test_at_a_temperature_other_words_are_drawn_the_same_each_time(
    engine: OnnxWhisper, speech: NDArray[np.float32]
) -> None:
    manner = TranscribeOptions("transcribe", "en", None, temperature=0.8)
    drawn, again, usual = (
        [it.text for it in engine.decode(speech[:SAMPLE_RATE], how)]
        for how in (manner, manner, GREEDY)
    )
    assert drawn == again
    assert drawn != usual


def test_a_passage_is_encoded_once_and_nothing_is_kept_of_it(
    folder: Path, speech: NDArray[np.float32]
) -> None:
    class Counting(WhisperFolder):
        prepared = 0

        def features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
            self.prepared += 1
            return super().features(samples)

    model = Counting(folder, threads=1)
    with closing(OnnxWhisper(read_exported_card(folder), model)) as engine:
        engine.language_probabilities(speech)
        first = engine.decode(speech, GREEDY)
        next(first)
        assert model.prepared == 1
        first.close()
        window = Window(speech, 0, len(speech), ((0, len(speech)),))
        before = model.prepared
        for _ in range(2):
            stopped = iter([False] * 4 + [True] * 99)
            manner = TranscribeOptions("transcribe", None, None, lambda it=stopped: next(it))
            list(engine.segments(window, manner))
        assert model.prepared > before, "each window anew"


@pytest.mark.parametrize(
    ("tokens", "spans", "heard_s"),
    [
        # Two whole segments, and one without an end that is heard again.
        ((FIRST, 1, FIRST + 50, FIRST + 50, 2, FIRST + 100, FIRST + 100, 3), 2, 2.0),
        ((FIRST, 1, FIRST + 50, FIRST + 50, 2, FIRST + 100), 2, 9.0),
        ((FIRST, 1, FIRST + 50), 1, 9.0),
        ((FIRST, 1), 1, 9.0),
        ((), 1, 9.0),
    ],
)
def test_tokens_are_cut_where_two_times_meet(
    tokens: tuple[int, ...], spans: int, heard_s: float
) -> None:
    found, seconds = split_segments(tokens, FIRST, 9.0)
    assert len(found) == spans
    assert seconds == pytest.approx(heard_s)
    ends = [50 * TICK_S, 100 * TICK_S][:spans] if FIRST + 50 in tokens else [9.0]
    assert [it.end_s for it in found] == pytest.approx(ends)
    assert found[0] == TimedTokens(0.0, pytest.approx(ends[0]), found[0].tokens)
    assert sum((it.tokens for it in found), ()) == tokens[: sum(len(it.tokens) for it in found)]


def test_what_does_not_fit_together_is_said_before_anything_is_heard(
    folder: Path, tmp_path: Path
) -> None:
    spoilt = Path(shutil.copytree(folder, tmp_path / "spoilt"))
    path = spoilt / "preprocessor_config.json"
    told = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**told, "feature_size": 128}), "utf-8")
    with pytest.raises(BackendError, match=r"have 128 bands, and the encoder reads 80"):
        WhisperFolder(spoilt)
    path = spoilt / "generation_config.json"
    told = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**told, "task_to_id": None}), "utf-8")
    with pytest.raises(BackendError, match=r"says not what Whisper's tokens are"):
        WhisperFolder(spoilt)
    shutil.copy(folder / "model.onnx", spoilt / "encoder.onnx")
    with pytest.raises(BackendError, match=r"are no Whisper model whose decoder reads"):
        WhisperFolder(spoilt)
