"""A classifier learns pictures of digits, from scratch and from a checkpoint, and goes on after it
was stopped as if nothing had happened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from drawn_digits import NAMES, save_digits
from job_runs import fill_device, resumed, stop_behind
from PIL import Image
from tiny_classifiers import SIDE
from tiny_classify import USUAL, make_job, saved, teach, untrained
from tiny_recipes import losses
from transformers import Trainer

from multimodal.backends.base import load
from multimodal.errors import BackendError, DeviceFullError
from multimodal.memory.estimate.activation import LiveStorages
from multimodal.requests import ImageDescriptionRequest
from multimodal.studio.context import JobContext
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, read_rows
from multimodal.studio.estimate import RUNTIME_BYTES, disk_bytes, fitting_batch, job_bytes
from multimodal.studio.recipes.classify import ClassifyRecipe
from multimodal.studio.recipes.picture_dataset import LEAST_CROP, PictureDataset, vary
from multimodal.studio.settings import JobSettings

FEW = NAMES[:3]


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads of small models wait for one another on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of each of three classes."""
    return save_digits(tmp_path_factory.mktemp("few") / "digits", 24, names=FEW)


def seen(card: Any, files: Path, picture: Image.Image) -> str:
    backend = load(card, files, "cpu")
    (event,) = backend.run(ImageDescriptionRequest(picture), threading.Event())
    backend.close()
    return str(getattr(event, "answer", ""))


# ---------------------------------------------------------------- it learns


@pytest.mark.parametrize(
    ("name", "each", "epochs"),
    [pytest.param("vit", 80, 8, marks=pytest.mark.slow), ("resnet", 60, 5)],
)
def test_digits_are_learned_from_scratch(tmp_path: Path, name: str, each: int, epochs: int) -> None:
    digits = save_digits(tmp_path / "digits", each)
    job = make_job(
        tmp_path / "job", digits, untrained(name), epochs=epochs, batch=16, learning_rate=None
    )
    report = teach(job)
    assert report.passed, report.verdict
    assert report.after is not None
    assert report.before is not None
    assert report.before.value == pytest.approx(0.1), "the most frequent of ten"
    assert report.after.value >= 0.95
    assert report.after.low >= 0.85
    accuracies = losses(job, "eval_accuracy")
    assert len(accuracies) == epochs
    assert losses(job, "eval_loss")[-1] < losses(job, "eval_loss")[0]
    wrong = round((1 - report.after.value) * report.samples)
    assert sum(one.count for one in report.confusions) == wrong


@pytest.mark.slow
def test_a_checkpoint_learns_new_classes_and_says_them_in_the_chat(
    tmp_path: Path, few: Path
) -> None:
    card, files = saved(tmp_path / "vit", "vit", labels=("cat", "dog", "owl", "fox"))
    job = make_job(tmp_path / "job", few, card, files, epochs=15, test_share=0.4)
    report = teach(job)
    assert report.passed, report.verdict
    assert {one.expected for one in report.comparisons} == set(FEW)
    assert all(one.before.endswith("(the most frequent class)") for one in report.comparisons)
    shown = job.folder.samples()
    assert {sample.expected for sample in shown} <= set(FEW)
    assert len(shown) == 2 * len(losses(job, "eval_loss"))
    assert not list(job.folder.result.glob("*.bin"))
    config = transformers.AutoConfig.from_pretrained(job.folder.result)
    assert config.id2label == dict(enumerate(sorted(FEW)))
    row = read_rows(job.folder.data / TEST_FILE)[0]
    with Image.open(job.folder.data / "pictures" / row["image"]) as picture:
        told = seen(card, job.folder.result, picture.copy())
    assert any(f"{name} (" in told for name in FEW)


@pytest.mark.slow
def test_what_knows_the_classes_is_measured_before_by_what_it_says(
    tmp_path: Path, few: Path
) -> None:
    card, files = saved(tmp_path / "vit", "vit", labels=("two", "one", "zero"))
    first = make_job(tmp_path / "first", few, card, files, epochs=15, test_share=0.4)
    after = teach(first).after
    again = make_job(
        tmp_path / "again", few, card, first.folder.result, epochs=1, learning_rate=1e-9,
        test_share=0.4,
    )  # fmt: skip
    report = teach(again)
    assert report.before == after, "the classes keep their order"
    assert not report.passed
    assert "did not learn anything that shows" in report.verdict
    assert not [notice for notice in again.folder.notices() if "most frequent" in notice.text]


def test_the_best_checkpoint_is_what_is_kept(tmp_path: Path, few: Path) -> None:
    """It breaks what it learned by steps that are far too large later on."""
    card, files = saved(tmp_path / "vit", "vit")
    job = make_job(tmp_path / "job", few, card, files, epochs=6, test_share=0.4, patience=0,
                   learning_rate=0.3, scheduler="constant")  # fmt: skip
    report = teach(job)
    accuracies, held = losses(job, "eval_accuracy"), losses(job, "eval_loss")
    best = held.index(min(held))
    assert best < len(held) - 1, "or the test tells nothing"
    assert report.figures["after"] == pytest.approx(accuracies[best])


# ---------------------------------------------------------------- beside transformers


def plain_script(job: JobContext, files: Path, output: Path) -> list[dict[str, Any]]:
    """As transformers' guide to image classification has it, on the same pictures."""
    labels = sorted(FEW)
    names = dict(enumerate(labels))
    processor = transformers.AutoImageProcessor.from_pretrained(files, backend="pil")

    def dataset(file: str) -> Dataset:
        rows = read_rows(job.folder.data / file)
        return Dataset.from_list([
            {"path": str(job.folder.data / "pictures" / it["image"]), "label": it["label"]}
            for it in rows
        ]).with_transform(transform)  # fmt: skip

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        pictures = [Image.open(path).convert("RGB") for path in batch["path"]]
        pixels = processor(pictures, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": [labels.index(it) for it in batch["label"]]}

    transformers.set_seed(0)
    model = transformers.AutoModelForImageClassification.from_pretrained(
        files,
        id2label=names,
        label2id={name: at for at, name in names.items()},
        ignore_mismatched_sizes=True,
    )
    trainer = Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(output),
            num_train_epochs=USUAL["epochs"],
            per_device_train_batch_size=USUAL["batch"],
            per_device_eval_batch_size=USUAL["batch"],
            learning_rate=USUAL["learning_rate"],
            weight_decay=0.01,
            seed=0,
            logging_steps=1,
            eval_strategy="epoch",
            remove_unused_columns=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset(TRAIN_FILE),
        eval_dataset=dataset(TEST_FILE),
        compute_metrics=lambda it: {
            "accuracy": float((it.predictions.argmax(-1) == it.label_ids).mean())
        },
    )
    trainer.train()
    return list(trainer.state.log_history)


@pytest.mark.parametrize("family", ["vit", pytest.param("resnet", marks=pytest.mark.thorough)])
def test_loss_curve_is_that_of_the_script_in_as_many_steps(
    tmp_path: Path, few: Path, family: str
) -> None:
    card, files = saved(tmp_path / "model", family, labels=("cat", "dog"))
    job = make_job(tmp_path / "job", few, card, files)
    teach(job)
    logs = plain_script(job, files, tmp_path / "script")
    for name in ("loss", "eval_loss", "eval_accuracy", "grad_norm", "learning_rate"):
        theirs = [log[name] for log in logs if name in log]
        assert losses(job, name) == pytest.approx(theirs, abs=1e-3), name
    assert len(losses(job)) == job.folder.status().steps == 2 * 9


# ---------------------------------------------------------------- stopped, full, damaged


class StoppingRecipe(ClassifyRecipe):
    """Is stopped within the second epoch."""

    def make_trainer(self, *datasets: PictureDataset) -> Trainer:
        return stop_behind(super().make_trainer(*datasets), self._job, 11)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", pytest.param("resnet", marks=pytest.mark.thorough)])
def test_a_job_that_was_stopped_and_resumed_ends_as_one_that_ran_through(
    tmp_path: Path, few: Path, family: str
) -> None:
    card, files = saved(tmp_path / "model", family)
    more: dict[str, Any] = {"augmentation": "crops_and_flips", "epochs": 3}
    whole = make_job(tmp_path / "whole", few, card, files, **more)
    expected = teach(whole)
    cut = make_job(tmp_path / "cut", few, card, files, **more)
    recipe = StoppingRecipe(cut)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert len(losses(cut)) == 12
    found = teach(resumed(cut))
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-6)
    assert losses(cut, "eval_loss") == pytest.approx(losses(whole, "eval_loss"), abs=1e-6)
    assert (found.before, found.after) == (expected.before, expected.after)
    one, other = (
        transformers.AutoModelForImageClassification.from_pretrained(job.folder.result)
        for job in (whole, cut)
    )
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


class FullRecipe(ClassifyRecipe):
    """The device holds `most` pictures, and is full from step `first` on."""

    most, first = 2, 0

    def make_trainer(self, *datasets: PictureDataset) -> Trainer:
        return fill_device(super().make_trainer(*datasets), self.most, self.first)


class LaterFullRecipe(FullRecipe):
    most, first = 4, 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "batch"),
    [
        pytest.param(FullRecipe, 2, marks=pytest.mark.thorough),
        (LaterFullRecipe, 4),
    ],
)
def test_where_memory_runs_out_it_goes_on_with_fewer_pictures_and_the_same_updates(
    tmp_path: Path, few: Path, recipe: type[FullRecipe], batch: int
) -> None:
    card, files = saved(tmp_path / "model", "vit")
    roomy = make_job(tmp_path / "roomy", few, card, files)
    expected = teach(roomy)
    full = make_job(tmp_path / "full", few, card, files)
    found = teach(full, recipe)
    status = full.folder.status()
    assert (status.batch, status.accumulation) == (batch, 8 // batch)
    assert len(losses(full)) == len(losses(roomy)) == 18
    assert losses(full) == pytest.approx(losses(roomy), abs=1e-4)
    assert found.after == expected.after
    assert [it for it in full.folder.notices() if it.text.startswith("The device is full with 8")]


class NoRoomRecipe(FullRecipe):
    most = 0


@pytest.mark.slow
def test_where_not_even_one_picture_fits_the_way_out_is_told(tmp_path: Path, few: Path) -> None:
    card, files = saved(tmp_path / "model", "vit")
    job = make_job(tmp_path / "job", few, card, files)
    with pytest.raises(DeviceFullError, match="even with one picture at a time"):
        teach(job, NoRoomRecipe)


def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path: Path, few: Path) -> None:
    card, files = saved(tmp_path / "model", "vit")
    weights = files / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BackendError, match="Tiny could not be loaded"):
        teach(make_job(tmp_path / "job", few, card, files))


@pytest.mark.slow
def test_recomputing_is_left_out_where_the_model_cannot(tmp_path: Path, few: Path) -> None:
    for family, is_told in (("vit", False), ("resnet", True)):
        card, files = saved(tmp_path / family, family)
        job = make_job(
            tmp_path / f"job-{family}", few, card, files, gradient_checkpointing=True, max_steps=1
        )
        teach(job)
        told = [it for it in job.folder.notices() if "cannot recompute" in it.text]
        assert bool(told) is is_told


# ---------------------------------------------------------------- varied pictures


def test_a_picture_is_varied_by_its_seed_and_keeps_its_size() -> None:
    drawn = Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3))
    one, same, other = (vary(drawn, np.random.default_rng(seed), flips=True) for seed in (1, 1, 2))
    assert one.size == drawn.size
    assert one.tobytes() == same.tobytes() != other.tobytes()


def test_left_and_right_stay_where_they_matter() -> None:
    """The left half is dark."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    drawn = Image.fromarray(pixels)
    share = 1 - LEAST_CROP

    def dark_left(flips: bool) -> list[bool]:
        made = (vary(drawn, np.random.default_rng(seed), flips) for seed in range(20))
        return [bool(np.asarray(it)[:, : int(16 * (1 - 2 * share))].mean() < 60) for it in made]

    assert all(dark_left(flips=False))
    assert 4 < sum(dark_left(flips=True)) < 16


# ---------------------------------------------------------------- the estimate


def asked(**more: Any) -> JobSettings:
    return JobSettings(
        name="a", model="b", data="c", method="classify", **{"batch": 16, "accumulation": 1, **more}
    )


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_step_takes_what_was_estimated(name: str) -> None:
    """Counted storages of a real step, with weights and the states of AdamW."""
    card = untrained(name)
    estimate = job_bytes(card, asked(), "cpu") - RUNTIME_BYTES
    config = dict(next(iter(card.architecture.parts.values())).config)
    model = transformers.AutoModelForImageClassification.from_config(
        transformers.AutoConfig.for_model(**config)
    )
    weights = sum(it.numel() * 4 for it in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    pixels, labels = torch.zeros(16, 3, 64, 64), torch.zeros(16, dtype=torch.long)
    live = LiveStorages()
    with live:
        model(pixel_values=pixels, labels=labels).loss.backward()
        optimizer.step()
    assert weights + live.peak <= estimate <= 2.2 * (weights + live.peak)


def test_the_estimate_grows_with_the_batch_and_decides_what_fits() -> None:
    card = untrained("resnet")
    small, large = (job_bytes(card, asked(batch=batch)) for batch in (1, 32))
    assert 0 < small < large
    middle = job_bytes(card, asked(batch=8))
    needed = lambda settings: job_bytes(card, settings)  # noqa: E731
    assert fitting_batch(asked(batch=32), middle, needed) == (8, middle)
    assert disk_bytes(card, asked()) > 700_000 * 12
    assert job_bytes(card, asked(optimizer="adamw_8bit")) < job_bytes(card, asked())


def test_pictures_for_a_trainer_have_the_size_of_the_model(tmp_path: Path, few: Path) -> None:
    card, files = saved(tmp_path / "model", "vit")
    job = make_job(tmp_path / "job", few, card, files)
    rows = read_rows(job.folder.data / TRAIN_FILE)
    processor = transformers.AutoImageProcessor.from_pretrained(files, backend="pil")
    item = PictureDataset(rows, job.folder.data, processor, sorted(FEW))[0]
    assert item["pixel_values"].shape == (3, SIDE, SIDE)
    assert item["labels"] == sorted(FEW).index(rows[0]["label"])
