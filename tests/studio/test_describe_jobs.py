"""A model that sees from a folder of captions to the chat: taught in a process of its own,
measured, offered, asked, and undone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from own_models import write_profile
from tiny_describe import save_colours
from tiny_models import add_model, save_causal
from tiny_seeing import save_smolvlm

from multimodal.build import Program, build
from multimodal.chats.service import Chats
from multimodal.errors import DataError, JobError
from multimodal.messages import Controls
from multimodal.settings import read_settings
from multimodal.studio.evaluation.evaluate import evaluate
from multimodal.studio.evaluation.plan import evaluation_settings
from multimodal.studio.export.export import export_model
from multimodal.studio.export.plan import ExportSettings
from multimodal.studio.requirements import JobDependencies
from multimodal.studio.results import export_dependencies, install, uninstall
from multimodal.studio.settings import JobSettings, job_settings
from multimodal.web.studio.services import services_of

ANN = "ann"
BASE = "tiny-smolvlm"
TEXT, IMAGE = "text-generation", "image-to-text"
MODEL = "AutoModelForImageTextToText"


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("program")
    seeing, text = save_smolvlm(folder / BASE), save_causal(folder / "tiny-llama", "llama")
    models = folder / "models"
    add_model(models, BASE, IMAGE, folder / BASE, family="image_text", model=MODEL, config=seeing)
    add_model(
        models,
        "tiny-llama",
        TEXT,
        folder / "tiny-llama",
        family="causal_lm",
        model="AutoModelForCausalLM",
        config=text,
    )
    write_profile(models, "tiny", {TEXT: ["tiny-llama"], IMAGE: [BASE]})
    given = {"profile": "tiny", "device": "sim:4GB", "budget": "3GB"}
    with closing(build(read_settings(data=folder / "data", models=models, **given))) as built:
        yield built


def asked(data: Path, **more: object) -> JobSettings:
    facts = {"name": "colours", "model": BASE, "method": "describe", "data": str(data)}
    usual = {"batch": 4, "accumulation": 1, "lora_rank": 4, "learning_rate": 1e-2, "epochs": 4}
    return job_settings({**facts, **usual, "max_length": 64, "test_share": 0.25, **more})


def answer(program: Program, picture: Path, model: str) -> str:
    chats = Chats(program.store, program.media, program.assistant)
    talk = program.store.create(ANN)
    chats.open(ANN, talk).say("Describe this picture.", [(picture, picture.name)])
    *_, last = chats.open(ANN, talk).answer(threading.Event(), Controls(model=model))
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    return last.reply.text.strip()


def needs(program: Program) -> JobDependencies:
    return JobDependencies(program.memory, program.catalog.card, program.weights.ensure)


def test_it_is_taught_offered_answers_and_is_undone(
    program: Program, colours: Path, tmp_path: Path
) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    picture = colours / "blue1.png"
    before = answer(program, picture, BASE)
    job = program.jobs.create(asked(colours))
    program.jobs.start(job.id)
    status = program.jobs.wait(job.id, 200)
    assert status.state == "done", (status, job.folder.log.read_text("utf-8")[-2000:])
    report = job.folder.report()
    assert report is not None
    assert report.passed, report.verdict

    card = install(program, job.folder)
    assert (card.family, card.task, card.base_model) == ("image_text", IMAGE, BASE)
    assert card.adapter == job.folder.result
    assert answer(program, picture, "colours") == "The car is blue."
    assert answer(program, picture, BASE) == before
    assert {held.card for held in program.memory.snapshot().held} <= {BASE, "tiny-llama"}

    settings = {"model": "colours", "compare": BASE, "data": str(colours)}
    found = evaluate(evaluation_settings(settings), needs(program), tmp_path / "jobs")
    assert [model.measure for model in found.models] == ["perplexity"] * 2
    assert found.change is not None
    assert found.change.high < 0.1
    wanted = ExportSettings(model="colours", to="safetensors", out=tmp_path / "out")
    with pytest.raises(JobError, match="cannot be exported"):
        export_model(wanted, export_dependencies(program), tmp_path / "jobs")

    uninstall(program, "colours")
    assert "colours" not in [one.name for one in program.cards]
    assert answer(program, picture, BASE) == before


def test_bad_data_and_other_models_leave_nothing_behind(
    program: Program, colours: Path, tmp_path: Path
) -> None:
    bad = save_colours(tmp_path / "bad", 2)
    (bad / "red0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"red0\.png is damaged"):
        program.jobs.create(asked(bad, name="bad"))
    with pytest.raises(JobError, match="is a text model on transformers or"):
        program.jobs.create(asked(colours, name="bad", model="tiny-llama"))
    with pytest.raises(JobError, match="is a model that sees and talks, on transformers, and this"):
        program.jobs.create(asked(colours, name="bad", method="lora"))
    assert not list(program.jobs.folder.glob("*bad*"))


def test_the_page_offers_it_and_counts_the_pictures(program: Program, colours: Path) -> None:
    services = services_of(program)
    assert BASE in {card.name for card in services.models()}
    found = services.preview(asked(colours))
    assert (found.samples, found.test_samples) == (27, 9)
    batch, size = services.needed(asked(colours))
    assert batch == 4
    assert 0 < services.needed(asked(colours, four_bits=True))[1] < size
