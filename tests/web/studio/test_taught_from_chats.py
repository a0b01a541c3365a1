"""What a person thinks of answers becomes a model, from the first thumb to “Undo”: a real page,
real jobs of KTO and DPO, and a model of two layers that names a colour.

It says “red” more often than “blue”, whatever is asked; the person likes blue. Three questions are
asked, answered anew and rated by clicks, the others by the service behind the page, as the same
person: that takes a second instead of a minute.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from browser import Person, visit
from conftest import free_port, wait_until
from fake_page import newest_owner
from fakes import client_at
from job_results import BASE, TEXT, start_program
from own_models import write_profile
from playwright.sync_api import Browser, Locator, expect
from tiny_models import add_model, causal_config, tokenizer

from multimodal.access import Hosts
from multimodal.build import Program
from multimodal.chats.service import Chats
from multimodal.messages import Message
from multimodal.studio.records import ENDS, Report
from multimodal.web.launch import open_page
from multimodal.web.presence import TICK_S

pytestmark = pytest.mark.timeout(1200)

LIKED, DISLIKED = "It is blue.", "It is red."
GOODS = (
    "fox dog cat car river sun sea sky hat cup door wall rose bird fish ship tree lamp road book"
)
QUESTIONS = [f"What colour is the {good}?" for good in GOODS.split()]
BY_CLICKS = 3
TRIES = 40
"""Until a model that says “red” six times of ten has said the other colour."""
TITLE = "Tiny-llama"
HELD_OUT = "0.3"
"""Twelve of forty ratings, which tell whether it learned, and six of twenty pairs, too few to."""
SETTINGS = {
    "Epochs": "3",
    "Learning rate": "0.002",
    "Batch": "4",
    "Accumulation": "1",
    "Longest sample (tokens)": "64",
    "LoRA rank": "4",
}


@dataclass(frozen=True)
class Teaching:
    url: str
    program: Program


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cards with the model that names a colour."""
    folder = tmp_path_factory.mktemp("colours")
    config = save_painter(folder / BASE)
    part = {"library": "transformers", "model": "AutoModelForCausalLM", "config": config}
    add_model(
        folder / "models",
        BASE,
        TEXT,
        folder / BASE,
        family="causal_lm",
        model="",
        config={},
        architecture={"kind": "modules", "parts": {"text": part}},
        sampling={"temperature": 1, "top_p": 0.9, "max_tokens": 12},
    )
    write_profile(folder / "models", "tiny", {TEXT: [BASE]})
    return folder / "models"


@pytest.fixture(scope="module")
def teaching(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teaching]:
    port = free_port()
    hosts = Hosts("127.0.0.1")
    with (
        closing(start_program(tmp_path_factory.mktemp("data"), models)) as program,
        open_page(program, port, hosts),
    ):
        yield Teaching(f"http://127.0.0.1:{port}", program)


@pytest.fixture(scope="module")
def me(browser: Browser, teaching: Teaching) -> Iterator[Person]:
    """Has asked all questions, and rated a red and a blue answer to each."""
    with visit(browser, teaching.url) as person:
        person.unfold("Instructions and sampling", "Temperature")
        for question in QUESTIONS[:BY_CLICKS]:
            teach_by_clicks(person, question)
        owner = newest_owner(teaching.program)
        for question in QUESTIONS[BY_CLICKS:]:
            teach_by_service(teaching.program, owner, question)
        yield person


def save_painter(folder: Path) -> dict[str, Any]:
    """A model that answers all questions with `DISLIKED`, and four times of ten with `LIKED`; its
    configuration."""
    torch.manual_seed(0)
    config = causal_config("llama")
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config)
    )
    reader = tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    answers = [DISLIKED] * 3 + [LIKED] * 2
    for step in range(60):
        at = [(step * 3 + shift) % len(QUESTIONS) for shift in range(3)]
        told = [
            [{"role": "user", "content": QUESTIONS[one]}, {"role": "assistant", "content": answer}]
            for one in at
            for answer in answers
        ]
        batch = reader.apply_chat_template(told, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return config


# ---------------------------------------------------------------- what the person thinks


def rate(person: Person, answer: str) -> None:
    person.do("Good answer" if answer == LIKED else "Bad answer")
    person.wait()


def teach_by_clicks(person: Person, question: str) -> None:
    """Ask in a new chat, rate the answer, have it written anew until it is another one, and rate
    that."""
    person.new_chat()
    first = person.ask(question)
    rate(person, first)
    for _ in range(TRIES):
        person.do("Answer again")
        person.wait()
        if (other := person.reply()) != first:
            break
    rate(person, other)


def teach_by_service(program: Program, owner: str, question: str) -> None:
    """The same."""
    store = program.store
    chat = Chats(store, program.media, program.assistant).open(owner, store.create(owner))
    chat.say(question, [])

    def answer() -> Message:
        *_, last = chat.answer(threading.Event())
        return last.reply

    first = other = answer()
    for _ in range(TRIES):
        chat.archive_reply(other.id)
        if (other := answer()).text != first.text:
            break
    for reply in (first, other):
        chat.rate(reply.id, "up" if reply.text == LIKED else "down")


# ---------------------------------------------------------------- the studio


def go(person: Person, address: str) -> Locator:
    """The studio at this address, once it has what the server says."""
    person.page.goto(f"{person.url}/{address}")
    shown = person.page.locator(".studio")
    expect(shown).to_have_attribute("aria-busy", "false")
    return shown


def press(person: Person, name: str | re.Pattern[str]) -> None:
    person.page.locator(".studio").get_by_role("button", name=name).click()


def learn(person: Person, program: Program, source: str, name: str) -> Report:
    """Teach the model from the chats, by the page, and wait until it is done; what was measured."""
    go(person, "#studio/chats")
    press(person, source)
    press(person, re.compile("^Learn from"))
    form = person.page.locator("form.new")
    if form.locator("details.others").get_attribute("open") is None:
        form.get_by_text("Further settings").click()
    given = {"Name of the result": name, "Held out (share)": HELD_OUT, **SETTINGS}
    for label, value in given.items():
        form.get_by_label(label, exact=True).fill(value)
    press(person, "Start")
    expect(person.page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    job = program.jobs.get(name)
    wait_until(lambda: job.status.state in ENDS, timeout_s=600, every_s=0.5)
    assert job.status.state == "done", job.status.error
    report = job.folder.report()
    assert report is not None
    return report


# ---------------------------------------------------------------- the chat


def surest_answer(person: Person, model: str) -> str:
    """What the model of that title says to a question that it was rated for, at temperature 0."""
    person.new_chat()
    person.choose("Model", model)
    person.write("Temperature", "0")
    return person.ask(QUESTIONS[0])


def offered(teaching: Teaching) -> list[str]:
    with client_at(teaching.url) as client:
        return [model.id for model in client.models.list()]


def leaves_the_menu(person: Person, title: str) -> None:
    """The menu is told of changes with the next tick of the page."""
    for _ in range(20):
        person.page.wait_for_timeout(1000 * TICK_S)
        person.page.locator("#model input").click()
        found = person.page.get_by_role("option").filter(has_text=title).count()
        person.page.keyboard.press("Escape")
        person.page.locator("#new").focus()
        if found == 0:
            return
    raise AssertionError(f"{title} is still there")


def changes_answers_until_it_is_undone(person: Person, teaching: Teaching, name: str) -> None:
    """From the page of a result that is offered, or may be."""
    title = f"{TITLE} + {name}"
    press(person, "Chat with it")
    expect(person.box).to_be_visible()
    expect(person.page.locator("#model input")).to_have_value(re.compile(re.escape(title)))
    assert name in offered(teaching)
    person.write("Temperature", "0")
    assert "blue" in person.ask(QUESTIONS[0])
    assert surest_answer(person, f"{TITLE} ·") == DISLIKED
    go(person, f"#studio/job/{name}")
    press(person, "Undo: take it out of the chat")
    expect(person.page.locator(".studio").get_by_text("Undo")).to_have_count(0)
    assert name not in offered(teaching)
    person.page.get_by_role("link", name="Back to the chat").click()
    leaves_the_menu(person, title)
    assert surest_answer(person, f"{TITLE} ·") == DISLIKED


# ---------------------------------------------------------------- from the first thumb to “Undo”


def test_thumbs_teach_by_kto_what_the_person_likes(me: Person, teaching: Teaching) -> None:
    go(me, "#studio/chats")
    counts = me.page.locator(".from-chats dl")
    expect(counts).to_contain_text(re.compile(rf"Thumbs up\s*{len(QUESTIONS)}"))
    report = learn(me, teaching.program, "From thumbs (KTO)", "thumbs")
    assert report.measure == "margin"
    assert report.figures["after"] > report.figures["before"]
    assert report.passed, report.verdict
    expect(me.page.locator(".report")).to_contain_text(report.verdict)
    changes_answers_until_it_is_undone(me, teaching, "thumbs")


def test_answers_written_anew_teach_by_dpo_and_few_pairs_are_installed_only_by_force(
    me: Person, teaching: Teaching
) -> None:
    report = learn(me, teaching.program, "From replaced answers (DPO)", "redos")
    assert report.measure == "margin"
    assert report.figures["after"] > report.figures["before"]
    assert "cannot be told with 6 held-out samples" in report.verdict
    expect(me.page.locator(".report")).to_contain_text(report.verdict)
    expect(me.page.get_by_role("button", name="Chat with it")).to_have_count(0)
    press(me, "Install anyway")
    me.page.get_by_role("dialog").get_by_role("button", name="Install anyway").click()
    changes_answers_until_it_is_undone(me, teaching, "redos")
