"""A small diffusion model from a folder to the chat: taught in a process of its own, offered, asked
to draw, and undone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from drawn_digits import save_digits
from own_models import write_card, write_profile
from PIL import Image
from tiny_class_diffusion import CONFIG, save_spots

from multimodal.build import Program, build
from multimodal.chats.service import Chats
from multimodal.errors import DataError, JobError
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Controls, ImagePart, Sampling
from multimodal.settings import read_settings
from multimodal.studio.data.pictures import SHOWN_EACH
from multimodal.studio.evaluation.evaluate import evaluate
from multimodal.studio.evaluation.plan import evaluation_settings
from multimodal.studio.requirements import JobDependencies
from multimodal.studio.results import install, installed, uninstall
from multimodal.studio.settings import JobSettings, job_settings
from multimodal.web.studio.job_view import job_view
from multimodal.web.studio.rendering import render
from multimodal.web.studio.services import services_of

ANN = "ann"
DRAW = "text-to-image"
CONTROLS = Controls(model="spots", sampling=Sampling(seed=4))


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_spots(tmp_path_factory.mktemp("data") / "spots", 30)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("program")
    config = {**CONFIG, "num_class_embeds": 2}
    part = {"library": "diffusers", "model": "UNet2DModel", "config": config}
    shape = {"kind": "modules", "parts": {"unet": part}, "picture_side": 8}
    facts = {"source": {"kind": "untrained"}, "quantization": ["fp32"], "architecture": shape}
    write_card(
        folder / "models",
        "tiny-untrained",
        DRAW,
        "class_diffusion",
        drawing={"steps": 5, "guidance": 2},
        **facts,
    )
    write_profile(folder / "models", "tiny", {})
    given = {"profile": "tiny", "device": "sim:4GB", "budget": "3GB"}
    with closing(
        build(read_settings(data=folder / "data", models=folder / "models", **given))
    ) as built:
        yield built


def asked(data: Path | str, **more: object) -> JobSettings:
    facts = {"name": "spots", "model": "tiny-untrained", "method": "diffusion", "batch": 8}
    return job_settings({**facts, "data": str(data), "accumulation": 1, **more})


@pytest.fixture(scope="module")
def taught(program: Program, spots: Path) -> str:
    """The id of a job that is done."""
    more = {"epochs": 6, "learning_rate": 1e-2, "augmentation": "none", "test_share": 0.2}
    job = program.jobs.create(asked(spots, evaluate_every=20, **more))
    program.jobs.start(job.id)
    status = program.jobs.wait(job.id, 200)
    assert status.state == "done", (status, job.folder.log.read_text("utf-8")[-2000:])
    report = job.folder.report()
    assert report is not None
    assert report.passed, report.verdict
    return job.id


def drawn(program: Program, question: str) -> list[Path]:
    chats = Chats(program.store, program.media, program.assistant)
    talk = program.store.create(ANN)
    chats.open(ANN, talk).say(question)
    *_, last = chats.open(ANN, talk).answer(threading.Event(), CONTROLS)
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    parts = [part for part in last.reply.parts if isinstance(part, ImagePart)]
    return [program.media.path(part) for part in parts]


def test_it_is_offered_draws_in_the_chat_and_is_undone(program: Program, taught: str) -> None:
    card = install(program, program.jobs.get(taught).folder)
    assert (card.name, card.family, card.task) == ("spots", "class_diffusion", DRAW)
    assert card.base_model == "tiny-untrained"
    assert footprint(card).total > 0
    (spot,), (hole,), (same,) = (
        drawn(program, f"Draw a {name}.") for name in ("spot", "hole", "spot")
    )
    with Image.open(spot) as picture:
        assert picture.size == (256, 256)
    assert spot.read_bytes() == same.read_bytes() != hole.read_bytes()
    uninstall(program, "spots")
    assert not installed(program)
    assert "spots" not in [one.name for one in program.cards]
    assert install(program, program.jobs.get(taught).folder) == card


def test_the_page_shows_what_it_drew(program: Program, taught: str) -> None:
    job = program.jobs.get(taught)
    view = job_view(job, "Tiny", "", "")
    assert view.samples
    assert all(one.picture.startswith("data:image/png;base64,iVBOR") for one in view.samples)
    for path in job.folder.pictures.iterdir():
        path.unlink()
    assert {one.picture for one in job_view(job, "Tiny", "", "").samples} == {""}


def test_the_page_offers_the_shape_and_counts_the_pictures(program: Program, spots: Path) -> None:
    services = services_of(program)
    assert {"tiny-untrained", "unet-untrained"} <= {card.name for card in services.models()}
    counts: Any = services.preview(asked(spots))
    assert counts.counts == (("hole", 27, 3), ("spot", 27, 3))
    shown = render("preview", preview=counts)
    assert "<b>hole</b>" in shown
    assert shown.count('<img src="data:image/jpeg;base64,') == 2 * SHOWN_EACH
    assert services.needed(asked(spots))[0] == 8


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "holds no picture"),
        ({"one.png": b""}, "damaged|no picture|empty"),
        ({"readme.txt": b"hello"}, "holds no picture"),
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


def test_one_picture_is_too_few(program: Program, tmp_path: Path) -> None:
    folder = save_digits(tmp_path / "one", 1, names=("zero",)) / "zero"
    with pytest.raises(DataError, match=r"zero has only one picture, .*at least 2"):
        program.jobs.create(asked(folder, name="bad"))
    with pytest.raises(DataError, match="the class zero has only one picture"):
        program.jobs.create(asked(folder.parent, name="bad"))


def test_it_is_taught_by_no_other_method_and_not_evaluated(
    program: Program, taught: str, spots: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match="is a small diffusion model, and this method teaches a pic"):
        program.jobs.create(asked(spots, name="wrong", method="classify"))
    with pytest.raises(JobError, match="is a picture classifier, and this method teaches a small"):
        program.jobs.create(asked(spots, name="wrong", model="vit-untrained"))
    needs = JobDependencies(program.memory, program.catalog.card, program.weights.ensure)
    settings = evaluation_settings({"model": "tiny-untrained", "data": str(spots)})
    with pytest.raises(JobError, match="draws, and there is nothing to compare its pictures with"):
        evaluate(settings, needs, tmp_path)
