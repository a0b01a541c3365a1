"""Models that see, taught captions: tiny random checkpoints of every architecture that is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from job_runs import StopAt, resumed
from PIL import Image
from safetensors.torch import load_file
from text_requests import ask
from tiny_adapters import adapter_card
from tiny_describe import make_job, save_colours, save_seeing, teach
from tiny_recipes import losses
from tiny_seeing import SEEING, noise
from transformers import AutoModelForImageTextToText, Trainer

from multimodal.backends.base import load
from multimodal.backends.describing import DESCRIBE
from multimodal.backends.hf.image_text import ImageText
from multimodal.catalog.cards import ModelCard
from multimodal.errors import DataError
from multimodal.events import ImageDescribed
from multimodal.requests import ChatMessage, ImageDescriptionRequest, TextRequest
from multimodal.studio.context import JobContext
from multimodal.studio.data.masks import IGNORED
from multimodal.studio.data.prepare import TRAIN_FILE, read_rows
from multimodal.studio.evaluation.caption_losses import caption_losses
from multimodal.studio.recipes.caption_dataset import (
    CaptionCollator,
    CaptionDataset,
    CaptionEncoder,
)
from multimodal.studio.recipes.describe import DescribeRecipe
from multimodal.studio.recipes.seeing_model import load_seeing_model
from multimodal.studio.records import Report

ASKED = ("user", DESCRIBE)
END = 3
Checkpoint = tuple[ModelCard, Path]

# As LLaVA's card has it: an answer ends with a token, and a turn that follows is written too.
ENDING = (
    "{% for m in messages %}{{ m['role'] | upper }}:{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %} {{ c['text'] }}{% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %} <|im_end|>\n{% else %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class Taught:
    """A job that is done. `before`: what the base's engine said of `picture`; `weights`: the base's
    before, `trained`: those of its model at the end."""

    job: JobContext
    report: Report
    before: str
    picture: Image.Image
    base: Mapping[str, torch.Tensor]
    trained: Mapping[str, torch.Tensor]


class WatchedRecipe(DescribeRecipe):
    """Keeps the weights as they are in memory at the end."""

    weights: dict[str, torch.Tensor]

    def save(self) -> Report:
        report = super().save()
        state = self._model.get_base_model().state_dict()
        type(self).weights = {name: tensor.clone() for name, tensor in state.items()}
        return report


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {name: save_seeing(tmp_path_factory.mktemp(name), name) for name in SEEING}


@pytest.fixture(scope="module", params=["llava", "smolvlm", "blip-2"])
def taught(
    request: pytest.FixtureRequest,
    checkpoints: dict[str, Checkpoint],
    colours: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Taught:
    name = request.param
    card, files = checkpoints[name]
    picture = Image.open(colours / "blue1.png").convert("RGB")
    before = said(card, files, picture)
    job = make_job(tmp_path_factory.mktemp("jobs") / name, colours, (card, files), test_share=0.25)
    report = teach(job, WatchedRecipe)
    untouched: Any = AutoModelForImageTextToText.from_pretrained(files)
    base = untouched.state_dict()
    return Taught(job, report, before, picture, base, WatchedRecipe.weights)


def engine(card: ModelCard, files: Path) -> ImageText:
    model = load(card, files, "cpu")
    assert isinstance(model, ImageText)
    return model


def said(card: ModelCard, files: Path, picture: Image.Image) -> str:
    return str(ask(engine(card, files), ASKED, pictures=((0, picture),))[0])


def test_it_learns_what_is_held_out_and_shows_it(taught: Taught) -> None:
    job, report = taught.job, taught.report
    assert report.passed, report.verdict
    assert report.measure == "perplexity"
    assert report.change is not None
    assert report.change.high < 0.1
    assert losses(job)[-1] < 0.3 * losses(job)[0]
    assert report.forgetting is not None
    shown = job.folder.samples()
    assert {one.step for one in shown} == {
        it.step for it in job.folder.metrics() if "eval_loss" in it.values
    }
    assert all(DESCRIBE in one.prompt and one.expected for one in shown)
    right = [one.after == one.expected for one in report.comparisons]
    assert sum(right) >= len(right) - 1
    assert not any(one.before == one.expected for one in report.comparisons)


def test_only_an_adapter_of_the_language_model_is_trained(taught: Taught) -> None:
    result = load_file(taught.job.folder.result / "adapter_model.safetensors")
    assert result
    assert all("language_model" in name or "text_model" in name for name in result)
    assert not any("vision" in name or "lm_head" in name for name in result)
    assert all(value.abs().max() > 0 for value in result.values())
    kept = {
        name.replace("base_layer.", ""): value
        for name, value in taught.trained.items()
        if "lora_" not in name
    }
    assert kept.keys() == taught.base.keys()
    assert all(torch.equal(kept[name], value) for name, value in taught.base.items())


def test_the_chat_answers_with_it_and_without_it_as_before(taught: Taught) -> None:
    card, files = taught.job.start.card, taught.job.start.files
    model = engine(card, files)
    adapted = model.adapted(adapter_card(card, taught.job.folder.result))
    pictures = ((0, taught.picture),)
    assert ask(model, ASKED, pictures=pictures)[0] == taught.before
    answer = ask(adapted, ASKED, pictures=pictures)[0]
    assert answer.strip() == "The car is blue."
    assert ask(model, ASKED, pictures=pictures)[0] == taught.before
    assert ask(adapted, ASKED, pictures=pictures)[0] == answer, "each has a cache of its own"
    *_, described = adapted.run(ImageDescriptionRequest(taught.picture), threading.Event())
    assert isinstance(described, ImageDescribed)
    assert described.answer == answer.strip()
    model.close()


# ------------------------------------------------------------ the mask


def encoder_of(job: JobContext) -> tuple[CaptionEncoder, Any]:
    seen = load_seeing_model(job)
    encoder = CaptionEncoder(job.start.card, seen.model, seen.prompts, job.settings.max_length)
    return encoder, seen


@pytest.mark.parametrize("name", SEEING)
@pytest.mark.parametrize("question", ["", "What colour is the car?"])
def test_the_prompt_is_the_chats_and_the_loss_is_on_the_caption_and_its_end(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path, name: str, question: str
) -> None:
    card, files = checkpoints[name]
    job = make_job(tmp_path / "job", colours, (card, files))
    encoder, seen = encoder_of(job)
    rows = [{**row, "question": question} for row in read_rows(job.folder.data / TRAIN_FILE)]
    captions = CaptionDataset(rows, job.folder.data, encoder)
    item = captions[0]
    asked = ChatMessage("user", question or DESCRIBE, (captions.picture(0),))
    chat = engine(card, files).prompt(TextRequest((asked,)))
    known = len(chat.tokens)
    assert item["input_ids"][:known] == chat.tokens
    assert set(item["labels"][:known]) == {IGNORED}
    assert item["labels"][known:] == item["input_ids"][known:]
    assert item["labels"][-1] == END, "the end of the turn is trained"
    answer = seen.prompts.tokenizer.decode(item["labels"][known:-1])
    assert answer == f" {rows[0]['text']}" or (
        answer == rows[0]["text"] and chat.tokens[-1] != item["labels"][known]
    )
    assert all(torch.equal(item["inputs"][key], chat.inputs[key]) for key in chat.inputs)


def test_what_a_template_writes_around_an_answer_is_trained_up_to_its_end(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path
) -> None:
    card, files = checkpoints["llava"]
    ending = card.model_copy(update={"chat_template": ENDING})
    encoder, seen = encoder_of(make_job(tmp_path / "job", colours, (ending, files)))
    made = encoder.encode(noise((40, 40)), "", "It is <|im_end|> red.")
    told = seen.prompts.tokenizer.decode(made.answer)
    assert told == " It is < |im_end|> red. <|im_end|>", "what a caption spells ends nothing"
    assert made.answer.count(END) == 1


def test_a_long_caption_is_cut_and_one_without_room_is_refused(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path / "job", colours, checkpoints["llava"], max_length=48)
    encoder, _ = encoder_of(job)
    made = encoder.encode(noise((40, 40)), "", "The car is red. " * 20)
    assert made.is_cut
    assert END not in made.answer
    words = len(made.prompt.tokens) + len(made.answer) - 16  # tokens of the picture
    assert words == 48
    with pytest.raises(DataError, match=r"nothing of “It is red\.” would be trained"):
        encoder.encode(noise((40, 40)), "What is that? " * 20, "It is red.")


@pytest.mark.parametrize("name", ["llava-next", "smolvlm", "instructblip"])
def test_samples_of_different_shapes_are_padded_without_a_change(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path, name: str
) -> None:
    job = make_job(tmp_path / "job", colours, checkpoints[name])
    encoder, seen = encoder_of(job)
    rows = read_rows(job.folder.data / TRAIN_FILE)[:3]
    sizes = [(64, 20), (33, 90), (40, 40)]
    texts = ["It is red.", "The quick brown fox jumps over the lazy dog.", "No."]
    for row, size, text in zip(rows, sizes, texts, strict=True):
        noise(size).save(job.folder.data / "pictures" / row["image"], format="PNG")
        row |= {"text": text, "question": f"What is it? {text}"}
    captions = CaptionDataset(rows, job.folder.data, encoder)
    collator = CaptionCollator(encoder.padding, torch.float32)
    alone, together = (caption_losses(seen.model, captions, collator, size) for size in (1, 3))
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.total for one in together] == pytest.approx([one.total for one in alone], rel=1e-4)


# ------------------------------------------------------------ runs


@pytest.mark.thorough
@pytest.mark.slow
def test_a_resumed_job_ends_as_one_that_ran_through(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"max_steps": 4, "evaluate_every": 2, "lora_dropout": 0.1}
    whole = make_job(tmp_path / "whole", colours, checkpoints["blip-2"], **asked)
    expected = teach(whole)
    cut = make_job(tmp_path / "cut", colours, checkpoints["blip-2"], **asked)
    cut.stop = StopAt(cut.folder, 2)
    recipe = DescribeRecipe(cut)
    recipe.setup()
    recipe.train()
    recipe.cleanup()
    assert len(losses(cut)) == 2
    found = teach(resumed(cut))
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)
    assert found.figures == pytest.approx(expected.figures, rel=1e-5)


class FullRecipe(DescribeRecipe):
    """The device holds one picture at a time."""

    def make_trainer(self, train: CaptionDataset, test: CaptionDataset) -> Trainer:
        trainer = super().make_trainer(train, test)
        collate = trainer.data_collator

        def guarded(items: list[Any]) -> dict[str, torch.Tensor]:
            if len(items) > 1:
                raise torch.OutOfMemoryError
            return dict(collate(items))

        trainer.data_collator = guarded
        return trainer


@pytest.mark.thorough
def test_where_memory_runs_out_fewer_pictures_make_the_same_updates(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"max_steps": 2, "batch": 4, "gradient_checkpointing": True}
    roomy = make_job(tmp_path / "roomy", colours, checkpoints["smolvlm"], max_steps=2, batch=4)
    full = make_job(tmp_path / "full", colours, checkpoints["smolvlm"], **asked)
    teach(roomy)
    teach(full, FullRecipe)
    assert losses(full) == pytest.approx(losses(roomy), rel=1e-4)
    status = full.folder.status()
    assert (status.batch, status.accumulation) == (1, 4)


@pytest.mark.slow
def test_four_bits_are_taught(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"four_bits": True, "max_steps": 5}
    job = make_job(tmp_path / "job", colours, checkpoints["llava"], **asked)
    teach(job)
    assert losses(job)[-1] < 0.7 * losses(job)[0]
    result = load_file(job.folder.result / "adapter_model.safetensors")
    assert {value.dtype for value in result.values()} == {torch.float32}


@pytest.mark.parametrize("taught", ["smolvlm"], indirect=True)
def test_an_earlier_result_is_taught_further(
    checkpoints: dict[str, Checkpoint], colours: Path, tmp_path: Path, taught: Taught
) -> None:
    """What the first taught is merged, so the second begins where it ended."""
    earlier = taught.job
    job = make_job(
        tmp_path / "job",
        colours,
        (earlier.start.card, earlier.start.files),
        max_steps=1,
        test_share=0.25,
    )
    further = JobContext(
        job.folder, job.settings, replace(job.start, adapter=earlier.folder.result)
    )
    report = teach(further)
    assert report.figures["before"] == pytest.approx(taught.report.figures["after"], rel=1e-3)
