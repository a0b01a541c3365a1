"""Wav2Vec 2.0, from tiny random checkpoints in the published layout. The sound is real speech, so
that the voice activity detector lets it through."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_hearing import heard, save_wav2vec2
from tiny_models import hub_card

from multimodal.backends.base import load
from multimodal.backends.speech import recognizer
from multimodal.backends.speech.voice_activity import split_audio, windows
from multimodal.backends.speech.wav2vec2 import Wav2Vec2
from multimodal.errors import BackendError, RequestError
from multimodal.events import Notice, SpeechTranscribed
from multimodal.requests import TranscriptionRequest

Checkpoint = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("wav2vec2")
    return folder, save_wav2vec2(folder)


def loaded(checkpoint: Checkpoint, **facts: Any) -> Wav2Vec2:
    folder, config = checkpoint
    more = {"task": "automatic-speech-recognition", "languages": ["en"], **facts}
    model = load(hub_card("wav2vec2", "AutoModelForCTC", config, **more), folder, "cpu")
    assert isinstance(model, Wav2Vec2)
    return model


def reference(folder: Path, waveform: Any, dtype: torch.dtype = torch.float32) -> str:
    """What transformers' own processor makes of the likeliest letters."""
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder, dtype=dtype).eval()
    processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
    said = []
    for window in windows(waveform):
        values = processor(window.samples, sampling_rate=16_000, return_tensors="pt").input_values
        with torch.no_grad():
            logits = model(values.to(dtype)).logits
        said += processor.batch_decode(logits.argmax(dim=-1))
    return " ".join(said)


def words(text: str | None) -> list[str]:
    return (text or "").lower().split()


@pytest.mark.parametrize(("kind", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_it_writes_the_letters_that_transformers_writes(
    checkpoint: Checkpoint, story: Any, kind: str, dtype: torch.dtype
) -> None:
    told = heard(loaded(checkpoint, quantization=[kind]), story)
    expected = reference(checkpoint[0], story, dtype)
    assert len(words(expected)) > 10
    assert words(told.spoken.text) == words(expected)
    assert told.spoken.language == "en"


@pytest.mark.parametrize("kind", ["int8", "nf4-double"])
def test_a_quantized_model_hears_too(checkpoint: Checkpoint, story: Any, kind: str) -> None:
    model = loaded(checkpoint, quantization=[kind])
    other = story[::-1].copy()
    assert heard(model, story).spoken.text != heard(model, other).spoken.text


def test_capitals_become_a_sentence_and_small_letters_stay(
    checkpoint: Checkpoint, story: Any, tmp_path: Path
) -> None:
    text = heard(loaded(checkpoint), story).spoken.text
    assert text[0].isupper()
    assert not any(letter.isupper() for letter in text[1:].replace("I", ""))
    config = save_wav2vec2(tmp_path, letters="etaonihsrdlumwcfgypbvk'xjqZ")
    mixed = heard(loaded((tmp_path, config)), story).spoken.text
    assert mixed == reference(tmp_path, story)


def test_words_are_told_when_they_were_said(checkpoint: Checkpoint, story: Any) -> None:
    model = loaded(checkpoint)
    told = heard(model, story)
    assert " ".join(s.text for s in told.spoken.segments).lower() == (told.spoken.text).lower()
    assert all(0 <= s.start_s <= s.end_s <= len(story) / 16_000 for s in told.spoken.segments)
    later = heard(model, np.concatenate([np.zeros(16_000 * 20, np.float32), story]))
    assert later.spoken.segments[0].start_s == pytest.approx(
        told.spoken.segments[0].start_s + 20, abs=0.5
    )
    assert later.spoken.segments[0].start_s > 19


def test_a_long_recording_is_heard_piece_by_piece(checkpoint: Checkpoint, story: Any) -> None:
    pause = np.zeros(16_000 * (recognizer.PIECE_S - 2) - len(story), np.float32)
    long = np.concatenate([story, pause, np.zeros(32_000, np.float32), story])
    told = heard(loaded(checkpoint), long)
    expected = [reference(checkpoint[0], piece) for _, piece in split_audio(long, 120)]
    assert words(told.spoken.text) == words(" ".join(expected))
    second = [s for s in told.spoken.segments if s.start_s > 60]
    assert second
    assert second[0].start_s == pytest.approx(recognizer.PIECE_S, abs=1)


def test_it_knows_one_language_and_translates_nothing(checkpoint: Checkpoint, story: Any) -> None:
    model = loaded(checkpoint, languages=["fr"])
    stream = model.run(TranscriptionRequest(story, None, ("en",)), threading.Event())
    *_, notice, told = stream
    assert isinstance(notice, Notice)
    assert "does not translate" in notice.text
    assert isinstance(told, SpeechTranscribed)
    assert (told.spoken.language, told.english) == ("fr", None)
    with pytest.raises(RequestError, match="does not know the language 'de'"):
        model.run(TranscriptionRequest(story, "de"), threading.Event())


def test_a_checkpoint_with_the_names_of_its_time_is_read(
    checkpoint: Checkpoint, story: Any, tmp_path: Path
) -> None:
    """The published ones have weight normalisation as PyTorch once named it, and lack what only
    training needs."""
    save_wav2vec2(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in weights.items()
        if "masked_spec_embed" not in name
    }
    assert any(name.endswith("weight_g") for name in old)
    assert len(old) == len(weights) - 1
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    assert heard(loaded((tmp_path, checkpoint[1])), story) == heard(loaded(checkpoint), story)
    del old["lm_head.weight"]
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendError, match=r"lacks 1 of the model's weights, such as lm_head"):
        loaded((tmp_path, checkpoint[1]))
