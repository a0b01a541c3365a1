"""A style from a folder to the chat: taught in a process of its own, offered beside its base, drawn
with, and undone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from own_models import write_card, write_profile
from PIL import Image
from tiny_style import save_captioned, save_pipeline

from multimodal.build import Program, build
from multimodal.chats.service import Chats
from multimodal.errors import DataError, JobError
from multimodal.messages import Controls, ImagePart, Sampling
from multimodal.settings import read_settings
from multimodal.studio.evaluation.evaluate import evaluate
from multimodal.studio.evaluation.plan import evaluation_settings
from multimodal.studio.export.export import export_model
from multimodal.studio.export.plan import export_settings
from multimodal.studio.requirements import JobDependencies, check_requirements
from multimodal.studio.results import export_dependencies, install, installed, uninstall
from multimodal.studio.settings import JobSettings, job_settings
from multimodal.web.studio.rendering import render
from multimodal.web.studio.services import services_of

ANN = "ann"
DRAW = "text-to-image"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captioned(tmp_path_factory.mktemp("data") / "spots", 6)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("program")
    card = save_pipeline(folder / "pipeline")
    kept = {"source", "architecture", "quantization"}
    facts = card.model_dump(mode="json", include=kept, exclude_none=True)
    more = {"family": "diffusion", "drawing": {"steps": 3, "guidance": 5.0}, **facts}
    write_card(folder / "models", "tiny-pipeline", DRAW, **more)
    write_profile(folder / "models", "tiny", {DRAW: ["tiny-pipeline"]})
    given = {"profile": "tiny", "device": "sim:4GB", "budget": "3GB"}
    with closing(
        build(read_settings(data=folder / "data", models=folder / "models", **given))
    ) as built:
        yield built


def asked(data: Path | str, **more: object) -> JobSettings:
    facts = {"name": "spots", "model": "tiny-pipeline", "method": "style", "install_failed": True}
    return job_settings({**facts, "data": str(data), "accumulation": 1, **more})


def drawn(program: Program, model: str) -> bytes:
    chats = Chats(program.store, program.media, program.assistant)
    talk = program.store.create(ANN)
    chats.open(ANN, talk).say("Draw a spot.")
    controls = Controls(model=model, sampling=Sampling(seed=4))
    *_, last = chats.open(ANN, talk).answer(threading.Event(), controls)
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    (part,) = (part for part in last.reply.parts if isinstance(part, ImagePart))
    with Image.open(program.media.path(part)) as picture:
        return picture.convert("RGB").tobytes()


def test_it_is_offered_beside_its_base_draws_in_the_chat_and_is_undone(
    program: Program, pictures: Path
) -> None:
    alone = drawn(program, "tiny-pipeline")
    job = program.jobs.create(asked(pictures, max_steps=3, learning_rate=3e-2, augmentation="none"))
    program.jobs.start(job.id)
    status = program.jobs.wait(job.id, 200)
    assert status.state == "done", (status, job.folder.log.read_text("utf-8")[-2000:])
    card = install(program, job.folder)
    assert (card.name, card.family, card.task) == ("spots", "diffusion", DRAW)
    assert (card.base_model, card.adapter) == ("tiny-pipeline", job.folder.result)
    taught = drawn(program, "spots")
    assert taught != alone
    assert drawn(program, "tiny-pipeline") == alone
    assert drawn(program, "spots") == taught
    assert [held.card for held in program.memory.snapshot().held] == ["tiny-pipeline"]
    uninstall(program, "spots")
    assert not installed(program)
    assert drawn(program, "tiny-pipeline") == alone
    assert install(program, job.folder) == card


def test_the_page_offers_the_pipeline_and_shows_captions(program: Program, pictures: Path) -> None:
    services = services_of(program)
    assert "tiny-pipeline" in {card.name for card in services.models()}
    preview: Any = services.preview(asked(pictures))
    assert (preview.samples, preview.test_samples) == (5, 1)
    assert services.needed(asked(pictures))[0] == 4
    shown = render("preview", preview=preview)
    assert "5 to learn from, 1 held out" in shown
    assert "<p>a hole</p>" in shown
    assert shown.count('<img src="data:image/jpeg;base64,') == 5


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "holds no file|holds no pictures|is empty"),
        ({"1.png": b"no picture", "1.txt": b"a spot"}, "1.png"),
        ({"1.txt": b"a spot"}, "1.txt"),
    ],
)
def test_bad_folders_are_refused_and_nothing_is_written(
    program: Program, tmp_path: Path, files: dict[str, bytes], told: str
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        program.jobs.create(asked(folder, name="bad"))
    assert not list(program.jobs.folder.glob("*bad*"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"resolution": 60}, "multiples of 8; choose a resolution of 64, not 60"),
        ({"model": "unet-untrained"}, "is a small diffusion model, and this method teaches a diff"),
        (
            {"model": "unet-untrained", "method": "diffusion", "resolution": 512},
            "learns every pixel, and 512 on a side are too many: choose a resolution of at most",
        ),
        ({"method": "diffusion"}, "is a diffusion pipeline, and this method teaches a small diffu"),
    ],
)
def test_what_cannot_be_taught_is_refused(
    program: Program, pictures: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(JobError, match=told):
        program.jobs.create(asked(pictures, **{"name": "wrong", **changes}))


def test_a_pipeline_without_a_unet_is_refused(
    program: Program, pictures: Path, tmp_path: Path
) -> None:
    card = program.card("tiny-pipeline")
    parts = {"vae": card.architecture.parts["vae"]}
    shape = card.architecture.model_copy(update={"parts": parts})
    other = card.model_copy(update={"architecture": shape})
    needs = JobDependencies(program.memory, lambda name: other, program.weights.ensure)
    with pytest.raises(JobError, match="no pipeline with a U-Net that reads words"):
        check_requirements(needs, asked(pictures), tmp_path)


def test_a_pipeline_is_neither_evaluated_nor_exported(
    program: Program, pictures: Path, tmp_path: Path
) -> None:
    needs = export_dependencies(program)
    settings = evaluation_settings({"model": "tiny-pipeline", "data": str(pictures)})
    with pytest.raises(JobError, match="draws, and there is nothing to compare its pictures with"):
        evaluate(settings, needs, tmp_path)
    wanted = export_settings({"model": "tiny-pipeline", "to": "gguf", "out": tmp_path / "out"})
    with pytest.raises(JobError, match=r"pytorch_lora_weights\.safetensors"):
        export_model(wanted, needs, tmp_path)
