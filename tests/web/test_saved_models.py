"""Models that were saved as they were quantized, on the page: listed with their sizes and seconds,
and removed by one press."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from browser import place_of, visit
from conftest import running_app
from fakes import FakeSource, program
from playwright.sync_api import Browser
from quantized_store import keep
from tiny_specialists import BUDGET, save_specialists

from multimodal.settings import read_settings
from multimodal.web.page import Page
from multimodal.web.saved_models import NONE, may_remove, render_saved_models
from multimodal.weights.quantized import QuantizedCheckpoints


def save(weights: Path, model: str, size_bytes: int) -> QuantizedCheckpoints:
    store = QuantizedCheckpoints(weights, 10**9, lambda path: 10**12)
    keep(store, model, size_bytes)
    (found,) = (one for one in store.all() if one.model == model)
    store.note_seconds(found, 3.6)
    return store


def test_what_is_saved_is_listed_and_removed_by_one_press(browser: Browser, tmp_path: Path) -> None:
    save_specialists(tmp_path)
    weights = tmp_path / "weights"
    save(weights, "phi-2", 20_000_000)
    store = save(weights, "mistral-7b-instruct", 40_000_000)
    device = ("--device", f"sim:{BUDGET}")
    with (
        running_app(tmp_path, "--profile", "tiny", *device, weights=weights) as server,
        visit(browser, server.url) as person,
    ):
        person.unfold("Saved in fewer bits", "Saved model")
        told = person.page.locator("#saved-told .fit")
        told.wait_for()
        assert "Mistral 7B" in told.inner_text()
        assert "0.04 GB" in told.inner_text()
        assert "3.6 s instead of 10.4 s" in told.inner_text()
        field, button = (person.page.locator(f"#saved-{name}") for name in ("choice", "remove"))
        inner, outer = place_of(button), place_of(field)
        assert outer["x"] <= inner["x"]
        assert inner["x"] + inner["width"] <= outer["x"] + outer["width"]
        person.field("Saved model").click()
        person.page.get_by_role("option", name="Mistral 7B").click()
        person.page.locator("#saved-remove").click()
        told.get_by_text("Mistral 7B").wait_for(state="detached")
        assert "Phi-2" in told.inner_text()
        assert [one.model for one in store.all()] == ["phi-2"]


def test_where_nothing_is_saved_the_page_says_what_would_be() -> None:
    assert NONE in render_saved_models([], str)


@pytest.mark.parametrize(
    ("options", "may"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"share": True}, False),
        ({"host": "0.0.0.0"}, False),  # noqa: S104
        ({"share": True, "auth": "ann:secret"}, True),
    ],
)
def test_a_stranger_removes_nothing(options: dict[str, object], may: bool, tmp_path: Path) -> None:
    assert may_remove(read_settings(data=tmp_path, **options)) is may
    save(tmp_path / "weights", "phi-2", 100)
    with (
        closing(program(tmp_path, FakeSource(), **options)) as made,
        closing(Page(made, "a" * 64, "b" * 64)) as page,
    ):
        names = {event.name for event in page.blocks.fns.values()}
        assert ("_removed" in names) is may
