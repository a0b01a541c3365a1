"""Drawing on the page: a real browser, the real app, a tiny random pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tiny_diffusion as tiny
from browser import Person
from conftest import Server, running_app, wait_until
from fakes import FakeSource, program
from own_models import write_card, write_profile

from multimodal.web.page import Page


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app with a profile of a person's own, whose one model draws noise."""
    data = tmp_path_factory.mktemp("studio")
    files = tiny.saved(data / "pipeline", tiny.pipeline("sd"))
    write_card(
        data / "models",
        "tiny-diffusion",
        "text-to-image",
        "diffusion",
        source={"kind": "folder", "path": str(files)},
        architecture={"kind": "measured", "weights_bytes": 5_000_000},
        drawing={"steps": 24, "width": 256, "height": 256},
    )
    write_profile(data / "models", "studio", {"text-to-image": ["tiny-diffusion"]})
    with running_app(data, "--profile", "studio") as app:
        yield app


def test_a_drawing_is_previewed_shown_and_kept(person: Person, server: Server) -> None:
    person.say("Draw a cat in the snow")
    preview = person.page.locator("#chat .message.assistant img[src^='data:image/jpeg']")
    preview.first.wait_for()
    assert preview.first.evaluate("image => image.naturalWidth") == 256
    assert "Drawing" in person.routes.last.inner_text()
    person.wait()
    assert preview.count() == 0
    shown = person.answers.last.locator(".picture img")
    assert server.data.as_posix() not in person.page.content()
    wait_until(lambda: shown.evaluate("image => image.naturalWidth") == 256)
    assert "had nothing to say" not in person.page.locator("#chat").inner_text()
    person.open()
    person.answers.last.locator(".picture img").wait_for()


def test_how_pictures_are_drawn_can_be_set(person: Person) -> None:
    page = person.page
    person.unfold("Pictures", "Steps")
    person.write("Steps", "3")
    person.write("Width (pixels)", "100")
    person.write("Height (pixels)", "64")
    person.write("Negative prompt", "dogs")
    person.ask("Draw a cat")
    told = person.route()
    assert "3 steps of denoising" in told
    assert "seed" in told
    assert "Drawn at 96x64" in told
    person.open()
    person.answers.last.locator(".picture img").wait_for()
    person.unfold("Pictures", "Steps")
    assert page.locator("#steps input").input_value() == "3"
    assert page.locator("#negative textarea").input_value() == "dogs"


def test_stop_ends_a_drawing(person: Person) -> None:
    person.unfold("Pictures", "Steps")
    person.page.locator("#steps input").fill("200")
    person.say("Draw a cat")
    person.page.locator("#chat .message.assistant img").first.wait_for()
    person.stop_button.click()
    person.wait()
    assert "Stopped." in person.reply()


def test_a_profile_that_cannot_draw_offers_no_settings_for_it(tmp_path: Path) -> None:
    with closing(program(tmp_path, FakeSource())) as made:
        assert Page(made, "secret", "key").ui.drawing == []
