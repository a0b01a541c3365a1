"""Models of the catalog are measured on a file, in a process of their own."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_models
import torch
import transformers
from conftest import wait_until
from fakes import FakeSource
from peft import LoraConfig, get_peft_model
from tiny_models import causal_card, save_causal

from multimodal.catalog.cards import ModelCard
from multimodal.errors import (
    CapacityError,
    DataError,
    JobError,
    SettingsError,
    TurnStoppedError,
    UnknownModelError,
)
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.manager import MemoryManager
from multimodal.studio.data.masks import tokenize_row
from multimodal.studio.evaluation.evaluate import PREFIX, evaluate, read_samples
from multimodal.studio.evaluation.perplexity import sample_losses
from multimodal.studio.evaluation.plan import (
    EvaluationResults,
    EvaluationSettings,
    evaluation_settings,
)
from multimodal.studio.folder import ABANDONED_S
from multimodal.studio.requirements import JobDependencies

TEXTS = [f"The {colour} {thing} is warm." for colour in ("red", "blue") for thing in "abcde"]
GB = 10**9


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and an adapter of it."""
    folder = tmp_path_factory.mktemp("models")
    save_causal(folder / "tiny", "llama")
    model = load(folder)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    tokenizer = tiny_models.tokenizer()
    for text in TEXTS * 4:
        ids = torch.tensor([tokenize_row({"text": text}, tokenizer, 512, "answers").input_ids])
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(folder / "adapter")
    return folder


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "tiny")


def needs(models: Path, budget: int = 4 * GB, seen: list[Any] | None = None) -> JobDependencies:
    """Of two cards: tiny, and taught, which is tiny with the adapter."""
    memory: MemoryManager[Any] = MemoryManager(Simulated(8 * GB), budget, FakeSource())

    class Needs(JobDependencies):
        def base(self, settings: Any) -> tuple[ModelCard, Path | None]:
            if settings.model not in {"tiny", "taught"}:
                raise UnknownModelError(f"there is no model '{settings.model}'.")
            card = causal_card(tiny_models.causal_config("llama"))
            return card, models / "adapter" if settings.model == "taught" else None

    def fetch(card: ModelCard, report: Any, stop: threading.Event) -> Path:
        if seen is not None:
            seen.append(card.name)
        return models / "tiny"

    return Needs(memory, lambda name: causal_card(tiny_models.causal_config("llama")), fetch)


def file_of(folder: Path, rows: list[dict[str, Any]], name: str = "samples.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def run(models: Path, folder: Path, rows: list[dict[str, Any]], **more: Any) -> EvaluationResults:
    data = file_of(folder, rows)
    settings = EvaluationSettings(**{"model": "tiny", "data": str(data), **more})
    return evaluate(settings, needs(models), folder / "jobs")


def test_the_perplexity_of_a_file_is_that_of_its_samples_and_two_models_are_compared(
    models: Path, tmp_path: Path
) -> None:
    rows = [{"text": text} for text in TEXTS]
    found = run(models, tmp_path, [*rows, rows[0]], model="taught", compare="tiny")
    tokenizer = tiny_models.tokenizer()
    tokenized = [tokenize_row(row, tokenizer, 512, "answers") for row in rows]
    losses = sample_losses(load(models), tokenized)
    tokens = sum(loss.tokens for loss in losses)
    expected = torch.tensor(sum(loss.total for loss in losses) / tokens).exp()
    before, after = found.models
    assert (before.model, after.model) == ("tiny", "taught")
    assert before.value == pytest.approx(float(expected), rel=1e-4)
    assert (before.samples, before.tokens, before.measure) == (len(TEXTS), tokens, "perplexity")
    assert before.low is not None
    assert before.high is not None
    assert before.low < before.value < before.high
    assert found.change is not None
    assert found.change.high < 1
    assert found.change.value == pytest.approx(after.value / before.value)
    assert list((tmp_path / "jobs").iterdir()) == []


def test_the_accuracy_counts_exact_answers_and_few_have_no_interval(
    models: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n}?", "completion": "never said"} for n in range(3)]
    found = run(models, tmp_path, rows, measure="accuracy")
    (model,) = found.models
    assert (model.value, model.low, model.high, model.samples) == (0.0, None, None, 3)
    assert "cannot be told with 3 samples" in found.notices[0]


def test_what_the_process_finds_wrong_is_told_in_a_sentence(models: Path, tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("a", "b")]
    with pytest.raises(JobError, match="No sample has an answer"):
        run(models, tmp_path, rows, measure="accuracy")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_an_evaluation_that_never_fits_is_refused_before_anything_is_fetched(
    models: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []
    data = file_of(tmp_path, [{"text": "Hello"}])
    settings = EvaluationSettings(model="tiny", data=str(data))
    with pytest.raises(CapacityError, match="Choose a smaller --max-length"):
        evaluate(settings, needs(models, 1000, seen), tmp_path / "jobs")
    assert seen == []
    assert not (tmp_path / "jobs").exists()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that were started on something in that folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


def test_an_evaluation_that_is_stopped_ends_its_process(models: Path, tmp_path: Path) -> None:
    data = file_of(tmp_path, [{"text": text} for text in TEXTS])
    program, stop = needs(models), threading.Event()
    settings = EvaluationSettings(model="tiny", data=str(data))
    jobs = tmp_path / "jobs"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(evaluate, settings, program, jobs, stop)
        wait_until(lambda: bool(processes_of(jobs)) or running.done())
        assert not running.done()
        stop.set()
        with pytest.raises(TurnStoppedError):
            running.result()
    assert processes_of(jobs) == []
    assert program.memory.snapshot().reserved == ()
    assert list(jobs.iterdir()) == []


def test_what_a_killed_evaluation_left_is_removed_a_day_later(models: Path, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    for name, age_s in (("old", ABANDONED_S + 60), ("new", ABANDONED_S - 60)):
        left = jobs / f"{PREFIX}{name}"
        (left / "data").mkdir(parents=True)
        os.utime(left, (0, time.time() - age_s))
    data = file_of(tmp_path, [{"text": text} for text in TEXTS])
    evaluate(EvaluationSettings(model="tiny", data=str(data)), needs(models), jobs)
    assert [path.name for path in jobs.iterdir()] == [f"{PREFIX}new"]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"model": "nobody"}, "there is no model 'nobody'"),
        ({"data": "/nowhere/a.txt"}, "no file that exists"),
        ({"data": "chats"}, "give a file with other samples"),
    ],
)
def test_bad_requests_are_refused_before_a_process_begins(
    models: Path, tmp_path: Path, changed: dict[str, str], fault: str
) -> None:
    data = file_of(tmp_path, [{"text": "Hello"}])
    settings = EvaluationSettings(**{"model": "tiny", "data": str(data), **changed})
    with pytest.raises((DataError, UnknownModelError), match=fault):
        evaluate(settings, needs(models), tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


def test_settings_are_checked_by_name() -> None:
    with pytest.raises(SettingsError, match="measure"):
        evaluation_settings({"model": "tiny", "data": "a.txt", "measure": "luck"})
    with pytest.raises(SettingsError, match="did you mean 'max_length'"):
        evaluation_settings({"model": "tiny", "data": "a.txt", "max_len": 3})


def test_of_files_for_training_and_testing_only_the_test_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file_of(folder, [{"text": "learned"}], "train.jsonl")
    file_of(folder, [{"text": "held out"}, {"text": "held out"}], "test.jsonl")
    settings = EvaluationSettings(model="tiny", data=str(folder)).job_settings("lora")
    assert read_samples(settings) == [{"text": "held out"}]
