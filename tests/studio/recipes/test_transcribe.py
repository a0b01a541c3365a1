"""A recognizer learns words, from every family's files, and goes on after it was stopped as if
nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from faster_whisper import WhisperModel
from job_runs import StopAt, fill_device, resumed
from safetensors.torch import load_file
from tiny_hearing import heard
from tiny_recipes import losses
from tiny_transcribe import (
    SMALL,
    TONES,
    WORDS,
    make_job,
    save_ctc,
    save_openai_whisper,
    save_seamless_card,
    save_tones,
    save_whisper,
    teach,
    tiny_whisper,
    tone,
)
from transformers import Trainer

from multimodal.backends.base import load
from multimodal.backends.speech.faster_whisper import EncodedUtterance
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, DataError, DeviceFullError, JobError
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.studio.context import JobContext
from multimodal.studio.estimate import RUNTIME_BYTES, disk_bytes, job_bytes
from multimodal.studio.recipes.speech_dataset import SpeechDataset
from multimodal.studio.recipes.speech_families import load_speech_model
from multimodal.studio.recipes.speech_model import choose_weights
from multimodal.studio.recipes.transcribe import TranscribeRecipe
from multimodal.studio.recipes.whisper_weights import read_ctranslate2, read_openai
from multimodal.studio.settings import JobSettings
from multimodal.studio.whisper_conversion import write_engine_folder


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Threads of small models wait for one another on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tones(tmp_path_factory.mktemp("data") / "tones")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


# ---------------------------------------------------------------- where it begins


@pytest.mark.parametrize("family", ["ctranslate2", "openai"])
def test_the_weights_of_an_engine_are_those_of_transformers(
    tmp_path: Path, whisper: ModelCard, family: str
) -> None:
    expected = tiny_whisper(SMALL if family == "ctranslate2" else WORDS).state_dict()
    if family == "ctranslate2":
        read = read_ctranslate2(Path(str(getattr(whisper.source, "path", ""))) / "model.bin")
    else:
        save_openai_whisper(tmp_path / "openai")
        read = read_openai(tmp_path / "openai" / "tiny.pt")
    del expected["proj_out.weight"]  # the embeddings once more
    assert read.state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(read.state[name], value, atol=0, rtol=0)
    assert transformers.WhisperConfig(**read.config).decoder_attention_heads == 2


def test_files_that_are_no_whisper_are_refused_in_a_sentence(
    tmp_path: Path, whisper: ModelCard, tones: Path
) -> None:
    source = Path(str(getattr(whisper.source, "path", "")))
    whole = (source / "model.bin").read_bytes()
    for name, data in (("cut", whole[:5000]), ("other", b"\x06\0\0\0\x04\0abc\0" + whole[20:])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BackendError, match=f"{name} is no Whisper model of CTranslate2"):
            read_ctranslate2(tmp_path / name)
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BackendError, match=r"bad\.pt is not a Whisper checkpoint"):
        read_openai(tmp_path / "bad.pt")
    several = save_whisper(tmp_path / "several", WORDS)
    with pytest.raises(JobError, match="knows no language “xx”"):
        teach(make_job(tmp_path / "job", tones, several, language="xx"))


# ---------------------------------------------------------------- it learns


@pytest.mark.slow
def test_words_are_learned_and_heard_by_the_engine_of_the_chat(
    tmp_path: Path, tones: Path, whisper: ModelCard
) -> None:
    job = make_job(tmp_path / "job", tones, whisper, epochs=14, evaluate_every=28)
    report = teach(job)
    assert report.measure == "word_error"
    assert report.passed, report.verdict
    assert report.before is not None
    assert report.after is not None
    assert report.before.value >= 0.9
    assert report.after.value <= 0.25
    assert {one.expected for one in report.comparisons} <= {f"{it.capitalize()}." for it in TONES}
    assert len(job.folder.samples()) == 2 * len(losses(job, "eval_loss"))
    folder = job.folder.path / "ctranslate2"
    write_engine_folder(job.folder.result, folder)
    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
    made = [EncodedUtterance(model, tone(word, 77)).decode("transcribe", "en", 1) for word in TONES]
    said = [segment.text.lower() if segment else "" for segment in made]
    assert sum(word in text for word, text in zip(TONES, said, strict=True)) >= 3, said


@pytest.mark.slow
def test_an_adapter_is_merged_and_the_window_is_whole_again(
    tmp_path: Path, tones: Path, whisper: ModelCard
) -> None:
    job = make_job(tmp_path / "job", tones, whisper, trained_weights="adapter", max_steps=4)
    teach(job)
    assert losses(job)[-1] < losses(job)[0]
    before, after = tiny_whisper().state_dict(), load_file(job.folder.result / "model.safetensors")
    assert after.keys() == before.keys() - {"proj_out.weight"}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in changed} == {"encoder", "decoder"}
    assert all(".layers." in name for name in changed)
    config = transformers.WhisperConfig.from_pretrained(job.folder.result)
    assert config.max_source_positions == 1500


@pytest.mark.slow
def test_the_encoder_stays_as_it_is_where_only_the_decoder_is_trained(
    tmp_path: Path, tones: Path
) -> None:
    card = save_openai_whisper(tmp_path / "openai")
    job = make_job(tmp_path / "job", tones, card, trained_weights="decoder", max_steps=3)
    teach(job)
    before, after = (
        tiny_whisper(WORDS).state_dict(),
        load_file(job.folder.result / "model.safetensors"),
    )
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert {name.split(".")[1] for name in changed} == {"decoder"}


@pytest.mark.parametrize(
    ("family", "weights"),
    [
        ("wav2vec2", "adapter"),
        ("seamless", "all"),
        pytest.param("wav2vec2", "all", marks=pytest.mark.thorough),
        pytest.param("seamless", "adapter", marks=pytest.mark.thorough),
    ],
)
def test_the_other_families_learn_what_hears_and_keep_the_rest(
    tmp_path: Path, tones: Path, family: str, weights: str
) -> None:
    save, kept = {
        "wav2vec2": (save_ctc, ("feature_extractor",)),
        "seamless": (save_seamless_card, ("t2u_model", "vocoder", "text_encoder.layers")),
    }[family]
    card = save(tmp_path / family)
    job = make_job(
        tmp_path / "job", tones, card, trained_weights=weights, learning_rate=1e-3, epochs=4
    )
    report = teach(job)
    assert report.samples == 12
    assert losses(job, "eval_loss")[-1] < losses(job, "eval_loss")[0]
    before, after = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / family, job.folder.result)
    )
    assert after.keys() == before.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if any(part in name for part in kept)]
    backend = load(card, job.folder.result, "cpu")
    heard(backend, tone("i"), **({"language": "en"} if family == "seamless" else {}))
    backend.close()


@pytest.mark.slow
def test_what_a_model_cannot_write_is_refused_before_anything_is_trained(
    tmp_path: Path, tones: Path, whisper: ModelCard
) -> None:
    data = save_tones(tmp_path / "tones", 1, 1)
    (data / "train" / "a-0.txt").write_text("漢字", "utf-8")
    card = save_ctc(tmp_path / "ctc")
    with pytest.raises(DataError, match="has no letter that Tiny writes"):
        teach(make_job(tmp_path / "job", data, card))
    with pytest.raises(JobError, match="has no decoder of its own"):
        teach(make_job(tmp_path / "other", tones, card, trained_weights="decoder"))
    (data / "train" / "a-0.txt").write_text("word " * 500, "utf-8")
    with pytest.raises(DataError, match="has more than the 446 tokens"):
        teach(make_job(tmp_path / "long", data, whisper))


# ---------------------------------------------------------------- it goes on


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["all", pytest.param("adapter", marks=pytest.mark.thorough)])
def test_a_resumed_job_ends_as_one_that_ran_through(
    tmp_path: Path, tones: Path, whisper: ModelCard, weights: str
) -> None:
    asked = {"trained_weights": weights, "max_steps": 8, "evaluate_every": 4, "batch": 8}
    whole = make_job(tmp_path / "whole", tones, whisper, **asked)
    expected = teach(whole)
    cut = make_job(tmp_path / "cut", tones, whisper, **asked)
    cut.stop = StopAt(cut.folder, 4)
    recipe = TranscribeRecipe(cut)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert len(losses(cut)) == 4
    found = teach(resumed(cut))
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)
    assert (found.before, found.after) == (expected.before, expected.after)
    one, other = (load_file(job.folder.result / "model.safetensors") for job in (whole, cut))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=0)


class FullRecipe(TranscribeRecipe):
    most = 2

    def make_trainer(self, train: SpeechDataset, test: SpeechDataset) -> Trainer:
        return fill_device(super().make_trainer(train, test), self.most)


class NoRoomRecipe(FullRecipe):
    most = 0


@pytest.mark.thorough
@pytest.mark.slow
def test_where_memory_runs_out_it_goes_on_with_fewer_recordings(
    tmp_path: Path, tones: Path, whisper: ModelCard
) -> None:
    full = make_job(tmp_path / "full", tones, whisper, max_steps=2, batch=4)
    teach(full, FullRecipe)
    status = full.folder.status()
    assert (status.batch, status.accumulation) == (2, 2)
    with pytest.raises(DeviceFullError, match="even with one recording at a time"):
        teach(make_job(tmp_path / "none", tones, whisper, max_steps=2), NoRoomRecipe)


# ---------------------------------------------------------------- the estimate


def asked(**more: Any) -> JobSettings:
    facts = {"name": "a", "model": "b", "data": "c", "method": "transcribe", "batch": 2}
    return JobSettings(**{**facts, "accumulation": 1, **more})


@pytest.mark.parametrize("weights", ["all", "decoder", "adapter"])
@pytest.mark.parametrize("family", ["whisper", "wav2vec2", "seamless"])
def test_a_step_takes_what_was_estimated(
    tmp_path: Path, whisper: ModelCard, family: str, weights: str
) -> None:
    """Counted storages of a real step on recordings of 30 s, with weights and AdamW's states."""
    if (family, weights) == ("wav2vec2", "decoder"):
        pytest.skip("it has no decoder")
    save = {"wav2vec2": save_ctc, "seamless": save_seamless_card}
    card = whisper if family == "whisper" else save[family](tmp_path / family)
    settings = asked(trained_weights=weights, language="en")
    estimate = job_bytes(card, settings, "cpu") - RUNTIME_BYTES
    job = make_job(tmp_path / "job", save_tones(tmp_path / "tones", 1, 1), card)
    speech = load_speech_model(JobContext(job.folder, settings, job.start), 30.0)
    choose_weights(speech, settings)
    speech.model.train()
    speech.model.config.apply_spec_augment = False
    items = [speech.item(tone("i", at, 30.0), "i o " * 20) for at in range(2)]
    held = sum(it.numel() * 4 for it in speech.model.parameters())
    optimizer = torch.optim.AdamW([it for it in speech.model.parameters() if it.requires_grad])
    batch = speech.collate(items)
    live = LiveStorages()
    with live:
        speech.model(**batch).loss.backward()
        optimizer.step()
    assert held + live.peak <= estimate <= 3 * (held + live.peak)


def test_the_estimate_tells_the_ways_apart(whisper: ModelCard, tmp_path: Path) -> None:
    every, decoder, adapter = (
        job_bytes(whisper, asked(trained_weights=it)) for it in ("all", "decoder", "adapter")
    )
    assert 0 < adapter < every
    assert decoder < every
    assert job_bytes(whisper, asked(batch=4)) > every
    assert disk_bytes(whisper, asked(trained_weights="adapter")) < disk_bytes(whisper, asked())
    several = save_whisper(tmp_path / "several", WORDS)
    other = save_openai_whisper(tmp_path / "openai")
    assert job_bytes(other, asked()) == job_bytes(several, asked()) > every
