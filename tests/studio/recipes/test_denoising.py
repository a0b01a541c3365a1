"""A small diffusion model learns two patterns from scratch, and goes on after it was stopped as if
nothing had happened."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_runs import fill_device, resumed, stop_behind
from PIL import Image
from safetensors.torch import load_file
from tiny_class_diffusion import SIDE, class_diffusion_card, save_spots
from tiny_recipes import losses, run_recipe
from transformers import Trainer

from multimodal.backends.base import load
from multimodal.catalog.cards import Catalog, ModelCard, shipped_models
from multimodal.errors import DeviceFullError, RequestError
from multimodal.events import ImageGenerated
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.requests import ImageGenerationRequest
from multimodal.studio.context import JobContext, Start
from multimodal.studio.data.pictures import preview_pictures
from multimodal.studio.data.prepare import TRAIN_FILE, read_rows
from multimodal.studio.estimate import RUNTIME_BYTES, job_bytes
from multimodal.studio.folder import JobFolder
from multimodal.studio.recipes.denoising_dataset import DROPPED, DenoisingDataset
from multimodal.studio.recipes.denoising_model import load_denoising_model
from multimodal.studio.recipes.diffusion import DiffusionRecipe
from multimodal.studio.records import Report, Status
from multimodal.studio.settings import JobSettings

USUAL: dict[str, Any] = {
    "method": "diffusion",
    "epochs": 3,
    "batch": 8,
    "accumulation": 1,
    "learning_rate": 3e-3,
    "augmentation": "none",
    "resolution": SIDE,
    "test_share": 0.2,
}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Threads of small models wait for one another on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_spots(tmp_path_factory.mktemp("data") / "spots")


def untrained(**more: Any) -> ModelCard:
    """A tiny shape without weights."""
    return class_diffusion_card(("",), source={"kind": "untrained"}, **more)


def make_job(
    folder: Path, data: Path, card: ModelCard | None = None, files: Path | None = None, **more: Any
) -> JobContext:
    """A job that waits, as the program makes it."""
    card = card or untrained()
    asked = JobSettings(name="taught", model=card.name, data=str(data), **{**USUAL, **more})
    job = JobFolder(folder)
    job.create(asked, Status(state="running", runs=1))
    job.data.mkdir()
    preview_pictures(asked, job.data)
    return JobContext(job, asked, Start(card, files or folder / "none", "cpu", 0))


def teach(job: JobContext, recipe_class: type[DiffusionRecipe] = DiffusionRecipe) -> Report:
    return run_recipe(recipe_class(job))


def contrast(picture: Image.Image) -> float:
    """How much lighter the middle is than the border, -255 to 255."""
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), float)
    return float(pixels[3:5, 3:5].mean() - np.concatenate([pixels[0], pixels[-1]]).mean())


def drawn_contrast(card: ModelCard, files: Path, prompt: str) -> float:
    """The mean of four drawings."""
    backend = load(card, files, "cpu")
    asked = ImageGenerationRequest(prompt, steps=20, seed=1, count=4)
    made = [it for it in backend.run(asked, threading.Event()) if isinstance(it, ImageGenerated)]
    backend.close()
    return float(np.mean([contrast(Image.open(io.BytesIO(it.png))) for it in made]))


def weights(job: JobContext) -> dict[str, torch.Tensor]:
    return load_file(job.folder.result / "diffusion_pytorch_model.safetensors")


# ---------------------------------------------------------------- it learns


def test_classes_are_learned_from_scratch_and_drawn(tmp_path: Path, spots: Path) -> None:
    job = make_job(tmp_path / "job", spots, epochs=50, evaluate_every=125, learning_rate=1e-2)
    report = teach(job)
    assert report.passed, report.verdict
    assert report.measure == "denoising"
    assert report.before is not None
    assert report.after is not None
    assert report.before.value < 0.3 < 0.7 < report.after.value
    assert losses(job, "eval_loss")[-1] < losses(job, "eval_loss")[0]
    card, result = class_diffusion_card(("hole", "spot")), job.folder.result
    hole, spot = (drawn_contrast(card, result, f"one {it}") for it in ("hole", "spot"))
    assert hole < -40
    assert spot > 40
    shown = job.folder.samples()
    assert [sample.prompt for sample in shown] == ["hole, spot"] * len(shown)
    with Image.open(job.folder.pictures / shown[-1].picture) as sheet:
        first, second = (sheet.crop((at, 0, at + SIDE, SIDE)) for at in (0, SIDE))
        assert sheet.size == (2 * SIDE, 2 * SIDE)
    assert contrast(first) < 0 < contrast(second), "a column of each class"


def test_a_style_is_learned_from_pictures_of_no_class(tmp_path: Path) -> None:
    flat = save_spots(tmp_path / "flat", 12, ("",))
    job = make_job(tmp_path / "job", flat, max_steps=4)
    teach(job)
    assert (job.folder.result / "labels.json").read_text() == '[""]'
    assert {sample.prompt for sample in job.folder.samples()} == {""}


@pytest.mark.slow
def test_an_earlier_result_learns_other_classes_at_another_resolution(
    tmp_path: Path, spots: Path
) -> None:
    first = make_job(tmp_path / "first", spots, max_steps=2)
    teach(first)
    more = save_spots(tmp_path / "more", 8, ("red", "green", "blue"))
    card = class_diffusion_card(("hole", "spot"))
    again = make_job(tmp_path / "again", more, card, first.folder.result, resolution=16)
    model = load_denoising_model(again, ("blue", "green", "red"))
    known = weights(first)
    for name, tensor in model.unet.state_dict().items():
        if "class_embedding" in name:
            assert tensor.shape[0] == 4
        else:
            torch.testing.assert_close(tensor, known[name])
    report = teach(again)
    assert report.figures["after"] > report.figures["before"]
    with Image.open(again.folder.pictures / again.folder.samples()[-1].picture) as sheet:
        assert sheet.size == (3 * 16, 2 * 16)


# ---------------------------------------------------------------- the average, the classes


def test_what_is_kept_is_the_average_of_the_weights(tmp_path: Path, spots: Path) -> None:
    job = make_job(tmp_path / "job", spots, max_steps=6)
    recipe = DiffusionRecipe(job)
    recipe.setup()
    recipe.train()
    model: Any = recipe.trainer.model
    recipe.save()
    kept = weights(job)
    average, trained = model.average.module.state_dict(), model.unet.state_dict()
    assert all(torch.equal(kept[name], average[name]) for name in kept)
    assert not all(torch.equal(kept[name], trained[name]) for name in kept)
    recipe.cleanup()


def test_classes_are_dropped_as_often_as_said_and_never_when_measured(
    tmp_path: Path, spots: Path
) -> None:
    job = make_job(tmp_path / "job", spots)
    rows = read_rows(job.folder.data / TRAIN_FILE)
    names = ("hole", "spot")
    learned = DenoisingDataset(rows, job.folder.data, names, SIDE, looks=30, is_learned=True)
    labels = [learned[at]["labels"] for at in range(len(learned))]
    assert sum(label == 2 for label in labels) / len(labels) == pytest.approx(DROPPED, abs=0.03)
    measured = DenoisingDataset(rows, job.folder.data, names, SIDE, looks=4)
    items = [measured[at] for at in range(len(measured))]
    assert {item["labels"] for item in items} == {0, 1}
    assert all(
        250 * (at % 4) <= item["timesteps"] < 250 * (at % 4 + 1) for at, item in enumerate(items)
    )
    assert torch.equal(measured[5]["noise"], items[5]["noise"])
    learned.epoch = 1
    assert not torch.equal(learned[5]["noise"], measured[5]["noise"])


# ---------------------------------------------------------------- stopped, full, refused


class StoppingRecipe(DiffusionRecipe):
    """Is stopped within the second epoch."""

    def make_trainer(self, *datasets: DenoisingDataset) -> Trainer:
        return stop_behind(super().make_trainer(*datasets), self._job, 6)


@pytest.mark.slow
def test_a_job_that_was_stopped_and_resumed_ends_as_one_that_ran_through(
    tmp_path: Path, spots: Path
) -> None:
    more: dict[str, Any] = {"augmentation": "crops_and_flips"}
    whole = make_job(tmp_path / "whole", spots, **more)
    expected = teach(whole)
    cut = make_job(tmp_path / "cut", spots, **more)
    recipe = StoppingRecipe(cut)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert len(losses(cut)) == 7
    found = teach(resumed(cut))
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)
    assert losses(cut, "eval_loss") == pytest.approx(losses(whole, "eval_loss"), abs=1e-5)
    assert found.before == expected.before
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, atol=1e-5, rtol=0)


class FullRecipe(DiffusionRecipe):
    """The device holds `most` pictures."""

    most = 2

    def make_trainer(self, *datasets: DenoisingDataset) -> Trainer:
        return fill_device(super().make_trainer(*datasets), self.most)


class NoRoomRecipe(FullRecipe):
    most = 0


@pytest.mark.thorough
def test_where_memory_runs_out_it_goes_on_with_fewer_pictures_and_the_same_updates(
    tmp_path: Path, spots: Path
) -> None:
    roomy, full = (make_job(tmp_path / it, spots, max_steps=8) for it in ("roomy", "full"))
    teach(roomy)
    teach(full, FullRecipe)
    status = full.folder.status()
    assert (status.batch, status.accumulation) == (2, 4)
    assert losses(full) == pytest.approx(losses(roomy), abs=1e-4)
    with pytest.raises(DeviceFullError, match="even with one picture at a time"):
        teach(make_job(tmp_path / "none", spots), NoRoomRecipe)


def test_a_resolution_that_the_model_cannot_have_is_refused(tmp_path: Path, spots: Path) -> None:
    job = make_job(tmp_path / "job", spots, resolution=9)
    with pytest.raises(RequestError, match="multiples of 2; choose a resolution of 8 or 10"):
        teach(job)


# ---------------------------------------------------------------- the estimate


@pytest.mark.parametrize("side", [16, 32])
def test_a_step_takes_what_was_estimated(side: int) -> None:
    """Counted storages of a real step, with weights, their average and the states of AdamW."""
    card = Catalog([shipped_models()]).card("unet-untrained")
    asked = JobSettings(name="a", model="b", data="c", method="diffusion", batch=16,
                        accumulation=1, resolution=side)  # fmt: skip
    estimate = job_bytes(card, asked, "cpu") - RUNTIME_BYTES
    job = JobContext(JobFolder(Path("/nowhere")), asked, Start(card, Path("/nowhere"), "cpu", 0))
    live = LiveStorages()
    with live:
        model = load_denoising_model(job, ("a", "b")).train()
        optimizer = torch.optim.AdamW(model.unet.parameters(), fused=True)
        for _ in range(2):
            pictures = torch.zeros(16, 3, side, side)
            classes = torch.zeros(16, dtype=torch.long)
            model(pictures, classes, torch.randn_like(pictures), classes)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
    assert 1 <= estimate / live.peak <= 2.6
