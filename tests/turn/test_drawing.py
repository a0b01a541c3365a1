"""A wish for a picture, from the words to the file: router, assistant, store, HTTP, terminal."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from fakes import FakeSource, Talk, client_of, picture, program, served
from PIL import Image
from text_requests import turns_of

from multimodal.build import Program
from multimodal.catalog.cards import Catalog
from multimodal.cli.terminal import ask
from multimodal.errors import RequestError
from multimodal.events import Done, ImageStored, TextDelta
from multimodal.messages import (
    Controls,
    Conversation,
    Drawing,
    ImagePart,
    Message,
    Part,
    Route,
    Sampling,
    Task,
    TextPart,
)
from multimodal.requests import ImageGenerationRequest
from multimodal.turn.draft import Draft
from multimodal.turn.image_prompts import prompt_of, redraw_wish
from multimodal.turn.request_builder import Turn, turns
from multimodal.turn.router import Router

PHOTO = ImagePart("a" * 64, "image/webp", 64, 64, "photo.jpg")
CAT = ImagePart("b" * 64, "image/png", 64, 64, "a cat.png", "a cat")


@pytest.fixture
def profile() -> str:
    """With a model that draws."""
    return "gpu-12gb"


def said(*parts: Part, before: tuple[Message, ...] = (), model: str = "auto") -> Conversation:
    return Conversation((*before, Message("user", parts)), Controls(model))


def asked(source: FakeSource) -> ImageGenerationRequest:
    assert isinstance(source.requests[-1], ImageGenerationRequest)
    return source.requests[-1]


# ------------------------------------------------------------ what to draw


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        ("Draw a cat in the snow", "a cat in the snow"),
        ("Hi! Can you please draw me a house?", "a house"),
        ("Make me a picture of a dog.", "a dog"),
        ("Create a photo-realistic picture of a fox", "a photo-realistic picture of a fox"),
        ("I'd like an image of a red car", "a red car"),
        ("Create a logo for my bakery", "a logo for my bakery"),
        ("Paint a sunset over the sea", "a painting of a sunset over the sea"),
        ("Can you sketch a dragon?", "a sketch of a dragon"),
        ("Thanks, that helped! Now draw a dog. It is asleep.", "a dog. It is asleep"),
        ("Dessine-moi un mouton", "un mouton"),
        ("Crée une image d'un château", "un château"),
        ("a cat, in oil", "a cat, in oil"),
        ("Draw!", "Draw!"),
    ],
)
def test_the_prompt_is_the_thing_to_draw(words: str, prompt: str) -> None:
    assert prompt_of(words) == prompt


@pytest.mark.parametrize(
    ("words", "wish"),
    [
        ("Draw this as a watercolour", "a watercolour"),
        ("Can you turn this into a cartoon?", "a cartoon"),
        ("make it look like an oil painting", "an oil painting"),
        ("Turn this photo into a pencil sketch, please", "a pencil sketch, please"),
        ("paint this in the style of Van Gogh", "in the style of Van Gogh"),
        ("Please redraw it with a hat", "with a hat"),
        ("Create a pencil sketch of this", "a pencil sketch"),
        ("Transforme cette photo en dessin", "dessin"),
        ("Turn this into French", None),
        ("Convert it to a table", None),
        ("Turn it into a poem", None),
        ("Make me an image of a dog", None),
        ("Draw the moon as a face", None),
        ("Make it blue", None),
        ("What is in this picture?", None),
        ("Describe this in the style of a pirate", None),
    ],
)
def test_a_wish_to_draw_anew_names_what_becomes_of_it(words: str, wish: str | None) -> None:
    assert redraw_wish(words) == wish


# ------------------------------------------------------------ the route


@pytest.fixture(scope="module")
def router(catalog: Catalog) -> Router:
    return Router(catalog, catalog.profile("gpu-12gb"))


def only_step(route: Route) -> tuple[Task, str | None]:
    (step,) = route.steps
    return step.task, step.sha256


def test_a_wish_for_a_picture_goes_to_the_model_that_draws(router: Router) -> None:
    route = router.decide(said(TextPart("Draw a cat")))
    assert (route.rule, only_step(route)) == ("draw", (Task.DRAW, None))


def test_a_picture_that_was_sent_is_drawn_anew(router: Router) -> None:
    route = router.decide(said(PHOTO, TextPart("Turn this into a watercolour")))
    assert (route.rule, only_step(route)) == ("redraw", (Task.DRAW, PHOTO.sha256))
    assert route.reason.endswith(".")


@pytest.mark.parametrize("words", ["What is this?", "Translate the text", "Turn this into a poem"])
def test_other_questions_about_a_picture_still_look_at_it(router: Router, words: str) -> None:
    assert router.decide(said(PHOTO, TextPart(words))).rule == "picture"


def test_what_was_just_made_or_shown_may_be_drawn_anew(router: Router) -> None:
    wish = TextPart("Now draw it as a watercolour")
    made = (Message("user", (TextPart("Draw a cat"),)), Message("assistant", (CAT,)))
    shown = (
        Message("user", (PHOTO, TextPart("What is this?"))),
        Message("assistant", (TextPart("A cat."),)),
    )
    for before, meant in ((made, CAT), (shown, PHOTO)):
        route = router.decide(said(wish, before=before))
        assert (route.rule, only_step(route)) == ("redraw", (Task.DRAW, meant.sha256))
    talk = (Message("user", (TextPart("Hi"),)), Message("assistant", (TextPart("Hello"),)))
    later = router.decide(said(TextPart("Draw it in blue"), before=(*made, *talk)))
    assert later.rule == "draw", "what was made longer ago is no longer meant"


def test_without_a_model_that_draws_pictures_are_looked_at(catalog: Catalog) -> None:
    router = Router(catalog, catalog.profile("embedded"))
    route = router.decide(said(PHOTO, TextPart("Turn this into a watercolour")))
    assert (route.rule, [step.task for step in route.steps]) == ("picture", [Task.IMAGE, Task.TEXT])


def test_the_chosen_model_draws_whatever_the_words_are(router: Router) -> None:
    name = "stable-diffusion-1.5"
    route = router.decide(said(TextPart("a cat, in oil"), model=name))
    assert (route.rule, only_step(route)) == ("draw", (Task.DRAW, None))
    route = router.decide(said(PHOTO, TextPart("a cat, in oil"), model=name))
    assert (route.rule, only_step(route)) == ("redraw", (Task.DRAW, PHOTO.sha256))
    with pytest.raises(RequestError, match="draws from words"):
        router.decide(said(PHOTO, model=name))


# ------------------------------------------------------------ the assistant


def test_a_drawing_is_kept_with_how_it_was_made(made: Program, source: FakeSource) -> None:
    drawing = Drawing("dogs", 5, 3.0, 96, 64)
    controls = Controls(sampling=Sampling(seed=7), drawing=drawing)
    conversation = Conversation((Message("user", (TextPart("Draw a cat"),)),), controls)
    events = list(made.assistant.reply(conversation, threading.Event()))
    request = asked(source)
    assert (request.prompt, request.negative_prompt, request.seed) == ("a cat", "dogs", 7)
    assert (request.steps, request.guidance) == (5, 3.0)
    assert (request.width, request.height, request.source) == (96, 64, None)
    (part,) = [event.part for event in events if isinstance(event, ImageStored)]
    assert (part.width, part.height, part.description, part.name) == (96, 64, "a cat", "a cat.png")
    with Image.open(made.media.path(part)) as kept:
        assert kept.getpixel((5, 5)) == (255, 0, 0)
        assert kept.info == {
            "prompt": "a cat",
            "seed": "7",
            "model": "Stable Diffusion 1.5",
            "negative prompt": "dogs",
        }
    done = events[-1]
    assert isinstance(done, Done)
    assert done.outcome.usage is not None
    assert (done.outcome.usage.seed, done.outcome.usage.steps) == (7, 5)
    assert done.outcome.finish == "stop"


def test_drawing_anew_begins_with_the_picture(made: Program, source: FakeSource) -> None:
    photo = made.media.add_image(picture((80, 40), "blue", "PNG"), "photo.png")
    talk = said(photo, TextPart("Draw this as a watercolour"))
    list(made.assistant.reply(talk, threading.Event()))
    assert asked(source).prompt == "a watercolour"
    assert asked(source).source is not None
    assert asked(source).source.getpixel((1, 1)) == (0, 0, 255)  # type: ignore[union-attr]


def test_a_kept_drawing_can_be_talked_about_and_changed(talk: Talk, source: FakeSource) -> None:
    talk.say("Draw a cat in the snow")
    drafts = list(talk.drafts())
    assert any(draft.preview for draft in drafts)
    assert drafts[-1].preview is None
    (part,) = talk.kept()[-1].images
    assert talk.made.store.media_in_use() == {part.sha256}
    talk.ask("What did you draw?")
    said_before = turns_of(source.requests[-1])[:2]
    assert said_before == (
        ("user", "Draw a cat in the snow"),
        ("assistant", "[Picture: a cat in the snow]"),
    )
    talk.ask("Draw a house")
    talk.ask("Turn it into a watercolour")
    assert asked(source).prompt == "a house, a watercolour"
    assert asked(source).source is not None


def test_a_made_picture_stands_as_words_for_the_text_model() -> None:
    made = (Message("user", (TextPart("Draw a cat"),)), Message("assistant", (CAT,)))
    assert turns(Conversation(made)) == (
        Turn("user", "Draw a cat"),
        Turn("assistant", "[Picture: a cat]"),
    )


def test_words_after_a_picture_do_not_push_it_out() -> None:
    draft = Draft(Conversation(), Message("assistant", ()))
    draft = draft.apply(ImageStored(CAT)).apply(TextDelta("There ")).apply(TextDelta("it is."))
    assert (draft.reply.images, draft.reply.text) == ((CAT,), "There it is.")


def test_a_stopped_drawing_leaves_no_picture(talk: Talk) -> None:
    talk.say("Draw a cat")
    for draft in talk.drafts():
        if draft.preview is not None:
            talk.stop.set()
    assert draft.reply.images == ()
    assert draft.outcome.finish == "stopped"


# ------------------------------------------------------------ HTTP, terminal


@pytest.fixture
def client(made: Program) -> Iterator[openai.OpenAI]:
    with client_of(made) as client:
        yield client


def opened(base64_png: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(base64_png or "", validate=True)))


def test_pictures_are_generated_as_openai_does(client: openai.OpenAI, source: FakeSource) -> None:
    more = {"negative_prompt": "dogs", "steps": 4, "guidance_scale": 2.5, "seed": 7}
    reply = client.images.generate(
        model="auto",
        prompt=" a cat ",
        n=2,
        size="512x768",  # type: ignore[arg-type]
        response_format="b64_json",
        extra_body=more,
    )
    assert reply.data is not None
    pictures = [opened(item.b64_json) for item in reply.data]
    assert [picture.size for picture in pictures] == [(512, 768)] * 2
    assert [picture.info["seed"] for picture in pictures] == ["7", "8"]
    told = reply.x_drawing  # type: ignore[attr-defined]
    assert (told["model"], told["seed"], told["steps"]) == ("stable-diffusion-1.5", 7, 4)
    request = asked(source)
    assert request == ImageGenerationRequest(
        "a cat", "dogs", 512, 768, 4, 2.5, 7, count=2, preview_every_s=None
    )


def test_what_is_not_asked_is_left_to_the_card(client: openai.OpenAI, source: FakeSource) -> None:
    client.images.generate(model="dall-e-3", prompt="a cat", size="auto")
    assert asked(source) == ImageGenerationRequest("a cat", preview_every_s=None)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({}, "prompt"),
        ({"prompt": "a cat", "response_format": "url"}, "b64_json"),
        ({"prompt": "a cat", "size": "large"}, "size 'large' is not one such as 512x512"),
        ({"prompt": "a cat", "size": "99999x64"}, "size"),
        ({"prompt": "a cat", "n": 11}, "n:"),
        ({"prompt": "a cat", "steps": 0}, "steps"),
        ({"prompt": "a cat", "model": "mistral-7b-instruct"}, "does not draw"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(
    client: openai.OpenAI, body: dict[str, Any], sentence: str
) -> None:
    reply = httpx.post(f"{client.base_url}images/generations", json=body)
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]["message"]


def test_a_profile_that_cannot_draw_says_so(source: FakeSource, tmp_path: Path) -> None:
    with served(program(tmp_path, source)) as url:
        reply = httpx.post(f"{url}/v1/images/generations", json={"prompt": "a cat"})
        assert reply.status_code == 400
        assert "has no model that draws" in reply.json()["error"]["message"]


def test_a_chat_reply_carries_its_picture_beside_the_words(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Draw a cat"}]
    whole = client.chat.completions.create(model="auto", messages=messages)
    message = whole.choices[0].message
    assert message.content == ""
    (made,) = message.images  # type: ignore[attr-defined]
    head, _, data = made["image_url"]["url"].partition(",")
    assert (made["type"], head) == ("image_url", "data:image/png;base64")
    assert opened(data).size == (64, 64)
    streamed = client.chat.completions.create(model="auto", messages=messages, stream=True)
    deltas = [chunk.choices[0].delta for chunk in streamed if chunk.choices]
    assert [d.images for d in deltas if hasattr(d, "images")] == [[made]]


def test_the_terminal_prints_where_the_picture_is(
    made: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = ask(made, Conversation(), "Draw a cat", [])
    (part,) = talk.messages[-1].images
    assert str(made.media.path(part)) in capsys.readouterr().out.splitlines()
    again = ask(made, replace(talk), "Turn it into a watercolour", [])
    assert again.messages[-1].images[0].description == "a cat, a watercolour"


@pytest.mark.parametrize(
    "words",
    [
        "word " * 20_000,
        "draw this " * 10_000,
        "turn it into " * 8_000,
        "make it a " * 10_000,
        "make it a " + "very " * 20_000,
        "a" * 100_000,
        "draw it. " * 11_000,
        "Draw " + " " * 90_000 + "a",
    ],
)
def test_the_longest_wish_is_read_at_once(words: str) -> None:
    """Counted in processor time, which is the same on a busy machine."""
    started_s = time.thread_time()
    redraw_wish(words)
    prompt_of(words)
    assert time.thread_time() - started_s < 10
