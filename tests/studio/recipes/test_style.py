"""A pipeline learns from captioned pictures by an adapter, and goes on after it was stopped as if
nothing had happened."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_diffusion as tiny
import torch
from job_runs import fill_device, resumed, stop_behind
from PIL import Image
from safetensors.torch import load_file
from tiny_adapters import adapter_card
from tiny_recipes import losses, run_recipe
from tiny_style import save_captioned, save_distilled, save_pipeline
from transformers import Trainer

from multimodal.backends.adapters import read_facts
from multimodal.backends.base import load
from multimodal.catalog.cards import ADAPTER_WEIGHTS, ModelCard
from multimodal.errors import DeviceFullError, RequestError
from multimodal.events import ImageGenerated
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.requests import ImageGenerationRequest
from multimodal.studio.context import JobContext, Start, write_start
from multimodal.studio.data.captions import preview_captions
from multimodal.studio.estimate import RUNTIME_BYTES, disk_bytes, job_bytes
from multimodal.studio.folder import JobFolder
from multimodal.studio.recipes.latent_dataset import (
    EncodedCaption,
    EncodedPicture,
    LatentDataset,
    collate_latents,
    crop_square,
)
from multimodal.studio.recipes.pipeline_model import PipelineModel
from multimodal.studio.recipes.style import StyleRecipe, mean_squared_error
from multimodal.studio.records import Report, Status
from multimodal.studio.settings import JobSettings
from multimodal.studio.stacked_adapters import STACKED

KINDS: tuple[tiny.Kind, ...] = ("sd", "sdxl")
USUAL: dict[str, Any] = {
    "method": "style",
    "epochs": 2,
    "batch": 4,
    "accumulation": 1,
    "learning_rate": 1e-2,
    "test_share": 0.4,
    "lora_rank": 8,
    "lora_alpha": 16,
}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Threads of small models wait for one another on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captioned(tmp_path_factory.mktemp("data") / "spots", 20)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six to learn from, in two updates, where two are held out."""
    return save_captioned(tmp_path_factory.mktemp("data") / "few", 8)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Kind, ModelCard]:
    folder = tmp_path_factory.mktemp("pipelines")
    return {kind: save_pipeline(folder / kind, kind) for kind in KINDS}


def make_job(
    folder: Path, data: Path, card: ModelCard, adapter: Path | None = None, **more: Any
) -> JobContext:
    """A job that waits, as the program makes it."""
    asked = JobSettings(name="taught", model=card.name, data=str(data), **{**USUAL, **more})
    job = JobFolder(folder)
    job.create(asked, Status(state="running", runs=1))
    job.data.mkdir()
    preview_captions(asked, job.data)
    start = Start(card, card.source.path, "cpu", 0, adapter)  # type: ignore[union-attr]
    write_start(job, start)
    return JobContext(job, asked, start)


def teach(job: JobContext, recipe_class: type[StyleRecipe] = StyleRecipe) -> Report:
    return run_recipe(recipe_class(job))


def weights(job: JobContext) -> dict[str, torch.Tensor]:
    return load_file(job.folder.result / ADAPTER_WEIGHTS)


def drawn(model: Any) -> Image.Image:
    asked = ImageGenerationRequest("a spot", seed=7, preview_every_s=None)
    events = list(model.run(asked, threading.Event()))
    (made,) = (event for event in events if isinstance(event, ImageGenerated))
    return Image.open(io.BytesIO(made.png)).convert("RGB")


def away(one: Image.Image, other: Image.Image) -> float:
    """By how much their colours differ on average."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


# ---------------------------------------------------------------- it learns


@pytest.mark.parametrize("kind", KINDS)
def test_only_an_adapter_is_learned_and_the_chat_and_other_programs_draw_with_it(
    kind: tiny.Kind, cards: dict[tiny.Kind, ModelCard], pictures: Path, tmp_path: Path
) -> None:
    card = cards[kind]
    files = card.source.path  # type: ignore[union-attr]
    job = make_job(
        tmp_path / "job", pictures, card, epochs=8, evaluate_every=12, augmentation="none"
    )
    recipe = StyleRecipe(job)
    recipe.setup()
    recipe.train()
    trained: Any = recipe.trainer.model
    published = load_file(files / "unet/diffusion_pytorch_model.safetensors")
    known = {
        name.replace(".base_layer", ""): it
        for name, it in trained.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    assert known.keys() == published.keys()
    assert all(torch.equal(it, published[name]) for name, it in known.items())
    report = recipe.save()
    recipe.cleanup()
    assert report.passed, report.verdict
    assert report.figures["after"] > report.figures["before"] + 0.01
    assert losses(job, "eval_loss")[-1] < losses(job, "eval_loss")[0]
    shown = job.folder.samples()[-1]
    assert set(shown.prompt.split(" | ")) == {"a hole", "a spot"}
    with Image.open(job.folder.pictures / shown.picture) as sheet:
        assert sheet.size == (tiny.SIDE, 2 * tiny.SIDE)

    model: Any = load(card, files, "cpu")
    alone = drawn(model)
    adapted = drawn(model.adapted(adapter_card(card, job.folder.result)))
    assert away(adapted, alone) > 0.1
    assert drawn(model) == alone
    other: Any = diffusers.DiffusionPipeline.from_pretrained(str(files))  # type: ignore[no-untyped-call]
    other.load_lora_weights(str(job.folder.result), weight_name="pytorch_lora_weights.safetensors")
    noise, facts = torch.Generator("cpu").manual_seed(7), card.drawing
    more = {"num_inference_steps": facts.steps, "guidance_scale": facts.guidance}
    assert away(other("a spot", generator=noise, **more).images[0], adapted) < 0.05
    model.close()


@pytest.mark.slow
def test_what_is_taught_further_is_both_in_one(
    cards: dict[tiny.Kind, ModelCard], few: Path, tmp_path: Path
) -> None:
    card, more = cards["sd"], {"max_steps": 2, "augmentation": "none"}
    first = make_job(tmp_path / "first", few, card, **more)
    learned = teach(first)
    again = make_job(tmp_path / "again", few, card, first.folder.result, **more)
    assert teach(again).figures["before"] == pytest.approx(learned.figures["after"], abs=1e-5)
    assert read_facts(again.folder.path / STACKED).rank == 2 * USUAL["lora_rank"]
    shared = load_file(again.folder.result / "pytorch_lora_weights.safetensors")
    assert {min(it.shape) for it in shared.values()} == {16}, "both, for other programs, too"


@pytest.mark.slow
def test_a_distilled_model_is_taught_in_16_bits_and_what_it_may_lose_is_told(
    tmp_path: Path,
) -> None:
    card = save_distilled(tmp_path / "lcm")
    long = save_captioned(tmp_path / "long", 4)
    (long / "00.txt").write_text("a hole that is much longer than a caption may be", "utf-8")
    more = {"precision": "bf16", "augmentation": "none"}
    job = make_job(tmp_path / "job", long, card, max_steps=1, **more)
    teach(job)
    told = [notice.text for notice in job.folder.notices()]
    assert any("was made to draw in few steps" in text for text in told)
    assert any("reads 14 tokens of a caption. Left out" in text for text in told)
    assert weights(job)


# ---------------------------------------------------------------- what is learned from


def encoded(kind: str) -> tuple[Any, LatentDataset]:
    """Three variants of one picture, and what of them is learned."""
    scheduler: Any = diffusers.DDPMScheduler(prediction_type=kind)  # type: ignore[no-untyped-call]
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).half()
    caption = EncodedCaption(
        {
            "prompt_embeds": torch.ones(1, 16, 64),
            "pooled_prompt_embeds": torch.ones(1, 32),
        }
    )
    ids = torch.arange(18.0).reshape(3, 6)
    known = [EncodedPicture(latents, ids, "a spot")]
    return scheduler, LatentDataset(known, {"a spot": caption}, scheduler, looks=4)


def test_a_velocity_and_its_noisy_picture_make_the_noise() -> None:
    (_, by_noise), (scheduler, by_velocity) = encoded("epsilon"), encoded("v_prediction")
    for at in range(4):
        noise, item = by_noise[at], by_velocity[at]
        share = scheduler.alphas_cumprod[item["timestep"]]
        found = share.sqrt() * item["labels"] + (1 - share).sqrt() * item["sample"]
        torch.testing.assert_close(found, noise["labels"], atol=1e-4, rtol=0)
        assert 250 * at <= item["timestep"] < 250 * (at + 1)


def test_each_epoch_sees_another_variant_and_other_noise() -> None:
    _, data = encoded("epsilon")
    first = data[0]
    assert torch.equal(first["sample"], data[0]["sample"])
    data.epoch = 1
    second = data[0]
    assert not torch.equal(first["labels"], second["labels"])
    assert (first["time_ids"][0], second["time_ids"][0]) == (0, 6)
    batch = collate_latents([first, second])
    assert {k: tuple(v.shape) for k, v in batch["added_cond_kwargs"].items()} == {
        "text_embeds": (2, 32),
        "time_ids": (2, 6),
    }


def test_a_square_tells_where_it_was_cut_from() -> None:
    picture = Image.effect_noise((200, 100), 90).convert("RGB")
    middle, ids = crop_square(picture, 64)
    assert ids == [100, 200, 0, 32, 64, 64]
    expected = picture.crop((50, 0, 150, 100)).resize((64, 64), Image.Resampling.BICUBIC)
    assert away(middle, expected) < 2 < away(middle, expected.transpose(Image.Transpose.ROTATE_180))
    found = [crop_square(picture, 64, np.random.default_rng(at))[1] for at in range(20)]
    assert all(0 <= top <= 64 * 0.18 and 0 <= left <= 64 * 1.36 for _, _, top, left, _, _ in found)
    assert len({tuple(ids) for ids in found}) > 10


def test_parts_of_an_update_add_up_to_its_loss() -> None:
    class Found:
        sample = torch.randn(4, 4, 8, 8)

    wanted = torch.randn(4, 4, 8, 8)
    whole = mean_squared_error(Found, wanted)
    parts = []
    for half in (slice(0, 1), slice(1, 4)):
        part = type("Part", (), {"sample": Found.sample[half]})
        parts.append(mean_squared_error(part, wanted[half], wanted.numel()))
    torch.testing.assert_close(sum(parts), whole)


# ---------------------------------------------------------------- stopped, full, refused


class StoppingRecipe(StyleRecipe):
    """Is stopped within the second epoch."""

    def make_trainer(self, *datasets: LatentDataset) -> Trainer:
        return stop_behind(super().make_trainer(*datasets), self._job, 2)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_job_that_was_stopped_and_resumed_ends_as_one_that_ran_through(
    cards: dict[tiny.Kind, ModelCard], few: Path, tmp_path: Path
) -> None:
    more = {"lora_dropout": 0.1, "test_share": 0.25, "epochs": 2}
    whole = make_job(tmp_path / "whole", few, cards["sd"], **more)
    expected = teach(whole)
    cut = make_job(tmp_path / "cut", few, cards["sd"], **more)
    recipe = StoppingRecipe(cut)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert len(losses(cut)) == 3
    found = teach(resumed(cut))
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)
    assert losses(cut, "eval_loss") == pytest.approx(losses(whole, "eval_loss"), abs=1e-5)
    assert found.before == expected.before
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, atol=1e-5, rtol=0)


class FullRecipe(StyleRecipe):
    """The device holds `most` pictures."""

    most = 2

    def make_trainer(self, *datasets: LatentDataset) -> Trainer:
        return fill_device(super().make_trainer(*datasets), self.most)


class NoRoomRecipe(FullRecipe):
    most = 0


@pytest.mark.thorough
def test_where_memory_runs_out_it_goes_on_with_fewer_pictures_and_the_same_updates(
    cards: dict[tiny.Kind, ModelCard], few: Path, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"max_steps": 1, "gradient_checkpointing": True, "augmentation": "none"}
    roomy, full = (make_job(tmp_path / it, few, cards["sd"], **more) for it in ("roomy", "full"))
    teach(roomy)
    teach(full, FullRecipe)
    status = full.folder.status()
    assert (status.batch, status.accumulation) == (2, 2)
    assert losses(full) == pytest.approx(losses(roomy), abs=1e-5)
    with pytest.raises(DeviceFullError, match="even with one picture at a time"):
        teach(make_job(tmp_path / "none", few, cards["sd"], **more), NoRoomRecipe)


def test_pipelines_of_other_kinds_are_refused(tmp_path: Path) -> None:
    folder = tiny.saved(tmp_path / "ldm", tiny.pipeline("ldm"))
    with pytest.raises(RequestError, match="is a LDMTextToImagePipeline, and only pipelines"):
        PipelineModel(tiny.card(folder), folder, torch.float32, "cpu", None)
    card = save_pipeline(tmp_path / "sample", prediction_type="sample")
    with pytest.raises(RequestError, match="predicts “sample”, and only what predicts noise"):
        PipelineModel(card, tmp_path / "sample", torch.float32, "cpu", None)


# ---------------------------------------------------------------- the estimate


@pytest.mark.parametrize(("kind", "recomputes"), [("sd", False), ("sdxl", True)])
def test_a_step_takes_what_was_estimated(
    kind: tiny.Kind, recomputes: bool, cards: dict[tiny.Kind, ModelCard]
) -> None:
    """Counted storages of real steps, with weights and the states of AdamW."""
    card, side = cards[kind], 256
    asked = JobSettings(name="a", model="b", data="c", method="style", batch=4, resolution=side,
                        gradient_checkpointing=recomputes)  # fmt: skip
    estimate = job_bytes(card, asked, "cpu") - RUNTIME_BYTES
    assert disk_bytes(card, asked) > 0
    live = LiveStorages()
    with live:
        known = PipelineModel(card, card.source.path, torch.float32, "cpu", None)  # type: ignore[union-attr]
        captions = known.encode_captions(["a spot"])
        known.add_adapter(asked)
        if recomputes:
            known.pipeline.unet.enable_gradient_checkpointing()
        latents, ids = torch.zeros(1, 4, side // 8, side // 8), torch.zeros(1, 6)
        some = [EncodedPicture(latents, ids, "a spot")] * 4
        data = LatentDataset(some, captions, known.noising)
        trained = [it for it in known.model.parameters() if it.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        known.model.train()
        for _ in range(2):
            given = collate_latents([data[at] for at in range(4)])
            wanted = given.pop("labels")
            mean_squared_error(known.model(**given), wanted).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert 1 <= estimate / live.peak <= 2.6
