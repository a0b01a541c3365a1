"""Specialists end to end: a card in TOML, a checkpoint in a folder, the whole program around them.

Adding a model of a known family is writing one TOML file; these tests add several.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import client_of
from PIL import Image
from tiny_minigpt4 import VARIANTS
from tiny_specialists import BUDGET, save_specialists

from multimodal.build import Program, build
from multimodal.chats.service import Chats
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Controls, Outcome, Sampling
from multimodal.settings import read_settings
from multimodal.turn.draft import Draft
from multimodal.web.chat_view import alternative_models

ANN = "ann"
LONG = Sampling(max_tokens=200)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    save_specialists(data)
    return data


@pytest.fixture
def program(checkpoints: Path) -> Iterator[Program]:
    """On a simulated card with room for one model at a time."""
    built = build(read_settings(data=checkpoints, profile="tiny", device=f"sim:{BUDGET}"))
    yield built
    built.close()


def answers(program: Program, text: str, *pictures: Path, **controls: Any) -> tuple[Draft, Outcome]:
    """The reply to one message in a new conversation, and how it came to be."""
    chats = Chats(program.store, program.media, program.assistant)
    talk = program.store.create(ANN)
    chats.open(ANN, talk).say(text, [(picture, picture.name) for picture in pictures])
    *_, last = chats.open(ANN, talk).answer(threading.Event(), Controls(**controls))
    assert last.reply.outcome is not None
    assert last.reply.outcome.error is None, last.reply.outcome.error
    return last, last.reply.outcome


def models_of(outcome: Outcome) -> list[str]:
    return [timing.card for timing in outcome.timings]


def test_words_and_pictures_go_to_their_specialists_which_take_turns(
    program: Program, red: Path
) -> None:
    words, spoken = answers(program, "What colour is the car?")
    sight, seen = answers(program, "What is this?", red)
    same, again = answers(program, "What colour is the car?")
    assert models_of(spoken) == models_of(again) == ["tiny-mistral"]
    assert models_of(seen) == ["tiny-llava"], "it answers by itself"
    assert seen.timings[0].evicted == ("tiny-mistral",)
    assert again.timings[0].evicted == ("tiny-llava",)
    assert words.reply.text == same.reply.text, "a model that came back says the same"
    assert sight.reply.text
    assert program.memory.snapshot().decisions[-1].how == "restored"


def test_a_person_may_choose_another_model(program: Program) -> None:
    _, outcome = answers(program, "Is it red?", model="tiny-gpt2")
    assert models_of(outcome) == ["tiny-gpt2"]


def test_a_person_may_choose_another_quantization(program: Program) -> None:
    _, outcome = answers(program, "Is it red?", model="tiny-gpt2:bf16")
    assert models_of(outcome) == ["tiny-gpt2:bf16"]
    held = {entry.card: entry.size_bytes for entry in program.memory.snapshot().held}
    assert held["tiny-gpt2:bf16"] > 700_000, "not packed into 8 bits"


@pytest.mark.parametrize("name", [*(f"tiny-minigpt4-{v}" for v in VARIANTS), "tiny-gguf"])
def test_a_model_that_sees_is_chosen_talks_about_the_picture_and_takes_its_turn(
    program: Program, red: Path, name: str
) -> None:
    answers(program, "What is this?", red)
    last, outcome = answers(program, "What is this?", red, model=name)
    assert models_of(outcome) == [name]
    assert outcome.timings[0].evicted == ("tiny-llava",)
    assert outcome.usage.prompt_tokens > 16
    answers(program, "What is this?", red)
    same, again = answers(program, "What is this?", red, model=name)
    assert again.timings[0].evicted == ("tiny-llava",)
    assert same.reply.text == last.reply.text != ""


def test_a_gguf_model_with_its_projector_takes_what_its_card_says(
    program: Program, red: Path
) -> None:
    answers(program, "What is this?", red, model="tiny-gguf")
    held = {entry.card: entry.size_bytes for entry in program.memory.snapshot().held}
    assert held["tiny-gguf"] == footprint(program.catalog.card("tiny-gguf")).resident


def test_a_text_model_that_was_chosen_is_told_what_the_seeing_one_saw(
    program: Program, red: Path
) -> None:
    last, outcome = answers(program, "Write a poem about this picture.", red, model="tiny-gpt2")
    assert models_of(outcome) == ["tiny-llava", "tiny-gpt2"]
    assert last.conversation.messages[0].images[0].description


def test_a_picture_without_a_word_is_described(program: Program, red: Path) -> None:
    last, outcome = answers(program, "", red)
    assert outcome.usage.prompt_tokens > 16
    assert last.reply.text


def test_a_stopped_specialist_is_free_at_once(program: Program) -> None:
    chats = Chats(program.store, program.media, program.assistant)
    talk, stop = program.store.create(ANN), threading.Event()
    chats.open(ANN, talk).say("The river runs to the sea.")
    for draft in chats.open(ANN, talk).answer(stop, Controls(sampling=LONG)):
        if draft.reply.text:
            stop.set()
    assert draft.reply.outcome
    assert draft.reply.outcome.finish == "stopped"
    assert draft.reply.outcome.usage.completion_tokens < 50
    assert all(held.leases == 0 for held in program.memory.snapshot().held)


def test_openai_clients_reach_every_specialist(checkpoints: Path, red: Path) -> None:
    built = build(read_settings(data=checkpoints, profile="tiny", device=f"sim:{BUDGET}"))
    data = base64.b64encode(red.read_bytes()).decode()
    with client_of(built) as client:
        names = {model.id for model in client.models.list()}
        assert {"auto", "tiny-mistral", "tiny-gpt2", "tiny-llava"} <= names
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        asked: Any = [{"type": "text", "text": "What is this?"}, picture]
        seen = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": asked}]
        )
        assert seen.choices[0].message.content
        for name in ("tiny-minigpt4-qformer", "tiny-gguf"):
            again = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": asked}]
            )
            assert again.model == name
            assert again.choices[0].message.content
        streamed = client.chat.completions.create(
            model="tiny-gpt2",
            messages=[{"role": "user", "content": "Is it red?"}],
            stream=True,
            max_tokens=8,
        )
        assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices)


def test_several_pictures_are_seen_together(program: Program, red: Path) -> None:
    blue = red.with_name("blue.png")
    Image.new("RGB", (60, 40), "blue").save(blue)
    last, outcome = answers(program, "Which is which?", red, blue)
    shown = tuple(part.sha256 for part in last.conversation.messages[0].images)
    assert outcome.routes[0].steps[0].pictures == shown
    assert models_of(outcome) == ["tiny-llava"], "one look at both"
    assert outcome.usage.prompt_tokens > 32


def test_offers_to_redo_are_few_and_begin_with_the_defaults(program: Program, red: Path) -> None:
    last, _ = answers(program, "What is this?", red)
    talk = replace(last.conversation, messages=(*last.conversation.messages, last.reply))
    offered = alternative_models(program, talk)
    assert offered[0] == "tiny-mistral"
    assert "tiny-llava" not in offered, "it has just answered"
    assert len(offered) == 4
