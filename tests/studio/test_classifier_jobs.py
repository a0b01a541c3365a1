"""A picture classifier from a folder to the chat: taught in a process of its own, measured,
offered, asked, and undone."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from drawn_digits import NAMES, save_digits
from fakes import client_of
from own_models import write_profile
from tiny_models import add_model, save_causal

from multimodal.backends.base import load
from multimodal.build import Program, build
from multimodal.chats.service import Chats
from multimodal.errors import BackendError, DataError, JobError
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Controls
from multimodal.settings import read_settings
from multimodal.studio.bundle import export_bundle, import_bundle
from multimodal.studio.evaluation.evaluate import evaluate
from multimodal.studio.evaluation.plan import EvaluationResults, evaluation_settings
from multimodal.studio.jobs import Jobs
from multimodal.studio.requirements import JobDependencies
from multimodal.studio.results import install, installed, uninstall
from multimodal.studio.settings import JobSettings, job_settings
from multimodal.web.studio.services import services_of

ANN = "ann"
FEW = NAMES[:3]
TEXT = "text-generation"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_digits(tmp_path_factory.mktemp("data") / "digits", 60, names=FEW)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("program")
    config = save_causal(folder / "tiny-llama", "llama")
    part = {"library": "transformers", "model": "AutoModelForCausalLM", "config": config}
    add_model(
        folder / "models",
        "tiny-llama",
        TEXT,
        folder / "tiny-llama",
        family="causal_lm",
        model="",
        config={},
        architecture={"kind": "modules", "parts": {"text": part}},
    )
    write_profile(folder / "models", "tiny", {TEXT: ["tiny-llama"]})
    given = {"profile": "tiny", "device": "sim:4GB", "budget": "3GB"}
    with closing(
        build(read_settings(data=folder / "data", models=folder / "models", **given))
    ) as built:
        yield built


def asked(data: Path | str, **more: object) -> JobSettings:
    facts = {"name": "digits", "model": "resnet-untrained", "method": "classify"}
    return job_settings({**facts, "data": str(data), "batch": 16, "accumulation": 1, **more})


@pytest.fixture(scope="module")
def taught(program: Program, digits: Path) -> str:
    """The id of a job that is done."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings = asked(digits, epochs=4, augmentation="crops", test_share=0.2)
    job = program.jobs.create(settings)
    program.jobs.start(job.id)
    status = program.jobs.wait(job.id, 200)
    assert status.state == "done", (status, job.folder.log.read_text("utf-8")[-2000:])
    report = job.folder.report()
    assert report is not None
    assert report.passed, report.verdict
    return job.id


def needs(program: Program) -> JobDependencies:
    return JobDependencies(program.memory, program.catalog.card, program.weights.ensure)


def measured(program: Program, folder: Path, data: Path | str, **more: str) -> EvaluationResults:
    settings = evaluation_settings({"model": "digits", "data": str(data), **more})
    return evaluate(settings, needs(program), folder / "jobs")


def answer(program: Program, picture: Path, model: str = "digits") -> str:
    chats = Chats(program.store, program.media, program.assistant)
    talk = program.store.create(ANN)
    chats.open(ANN, talk).say("What is this?", [(picture, picture.name)])
    *_, last = chats.open(ANN, talk).answer(threading.Event(), Controls(model=model))
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    return last.reply.text


def test_it_is_offered_answers_and_is_undone(program: Program, taught: str, digits: Path) -> None:
    card = install(program, program.jobs.get(taught).folder)
    assert (card.name, card.family, card.task) == ("digits", "image_classifier", "image-to-text")
    assert (card.title, card.base_model) == ("Small ResNet + digits", "resnet-untrained")
    assert footprint(card).total > 0
    assert card in program.cards
    assert [one.name for one in installed(program)] == ["digits"]
    right = [
        answer(program, digits / name / f"{number:03}.png").startswith(
            (f"A {name} (", f"An {name} (")
        )
        for name in FEW
        for number in (0, 1)
    ]
    assert sum(right) >= 5
    uninstall(program, "digits")
    assert "digits" not in [one.name for one in program.cards]
    assert install(program, program.jobs.get(taught).folder) == card


def test_its_accuracy_is_measured_with_its_interval(
    program: Program, taught: str, tmp_path: Path
) -> None:
    install(program, program.jobs.get(taught).folder)
    other = save_digits(tmp_path / "other", 10, seed=7, names=FEW)
    found = measured(program, tmp_path, other)
    (model,) = found.models
    assert (model.measure, model.samples, model.tokens) == ("accuracy", 30, 0)
    assert model.low is not None
    assert model.high is not None
    assert 0.8 <= model.low <= model.value <= model.high <= 1
    assert list((tmp_path / "jobs").iterdir()) == []
    (again, same) = measured(program, tmp_path, other, compare="digits").models
    assert again == same


def test_what_cannot_be_measured_is_said_in_a_sentence(
    program: Program, taught: str, tmp_path: Path
) -> None:
    install(program, program.jobs.get(taught).folder)
    strange = save_digits(tmp_path / "strange", 2, names=("zero", "fish"))
    with pytest.raises(JobError, match=r"knows no class fish, which the data has; it knows one"):
        measured(program, tmp_path, strange)
    with pytest.raises(JobError, match="has no perplexity"):
        measured(program, tmp_path, strange, measure="perplexity")
    with pytest.raises(JobError, match="do different things"):
        measured(program, tmp_path, strange, compare="tiny-llama")
    with pytest.raises(DataError, match="give a folder with a folder for each class"):
        measured(program, tmp_path, "/nowhere")
    with pytest.raises(JobError, match="knows nothing yet"):
        measured(program, tmp_path, strange, model="vit-untrained")


def test_it_goes_to_another_machine_as_one_file(
    program: Program, taught: str, tmp_path: Path
) -> None:
    path = export_bundle(program.jobs.get(taught), tmp_path / "digits.zip")
    elsewhere = Jobs(tmp_path / "jobs", needs(program))
    if installed(program):
        uninstall(program, "digits")
    job = import_bundle(path, elsewhere)
    assert job.folder.report() == program.jobs.get(taught).folder.report()
    assert {file.name for file in job.folder.result.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


@pytest.mark.parametrize(
    ("model", "method", "told"),
    [
        ("tiny-llama", "classify", "is a text model on transformers or llama.cpp, and this method"),
        ("resnet-untrained", "lora", "is a picture classifier, and this method teaches a text"),
        ("whisper-base", "classify", "is a speech recognizer, and this method teaches a picture"),
        ("picture-describer", "classify", "is of image_describer and cannot be taught here"),
    ],
)
def test_a_model_of_another_kind_is_refused_and_nothing_is_written(
    program: Program, digits: Path, model: str, method: str, told: str
) -> None:
    with pytest.raises(JobError, match=told):
        program.jobs.create(asked(digits, name="wrong", model=model, method=method))
    assert not (program.jobs.folder / "wrong").exists()


def test_bad_pictures_leave_nothing_behind(program: Program, tmp_path: Path) -> None:
    bad = save_digits(tmp_path / "bad", 3, names=FEW)
    (bad / "two" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"two/001\.png is damaged"):
        program.jobs.create(asked(bad, name="bad"))
    assert not list(program.jobs.folder.glob("*bad*"))


def test_the_page_offers_what_can_be_taught_and_counts_the_pictures(
    program: Program, digits: Path
) -> None:
    services = services_of(program)
    names = {card.name for card in services.models()}
    assert {"tiny-llama", "vit-untrained", "resnet-untrained"} <= names
    assert "resnet-50" not in names, "its weights are not here, and nobody fetches them"
    found = services.preview(asked(digits))
    assert getattr(found, "counts", None) == tuple((name, 54, 6) for name in sorted(FEW))
    assert services.needed(asked(digits))[0] == 16


def test_what_was_never_taught_answers_nothing(program: Program) -> None:
    card = program.catalog.card("vit-untrained")
    files = program.weights.ensure(card)
    assert program.weights.is_ready(card)
    assert not files.exists()
    with pytest.raises(BackendError, match="knows nothing yet"):
        load(card, files, "cpu")


def test_the_http_interface_lists_it_and_answers_with_it(
    program: Program, taught: str, digits: Path
) -> None:
    """The last one: it ends the program."""
    install(program, program.jobs.get(taught).folder)
    data = base64.b64encode((digits / "two" / "000.png").read_bytes()).decode()
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    with client_of(program) as client:
        listed = {model.id for model in client.models.list()}
        messages: Any = [{"role": "user", "content": parts}]
        said = client.chat.completions.create(model="digits", messages=messages)
    assert "digits" in listed
    assert "resnet-untrained" not in listed, "it knows nothing"
    assert "%" in str(said.choices[0].message.content)
