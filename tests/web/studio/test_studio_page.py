"""The studio in a real browser, on real jobs that count instead of teaching."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from browser import LAPTOP, PHONE, Person, each_look, visit
from conftest import wait_until
from PIL import Image
from playwright.sync_api import Browser, Locator, expect
from studio_page import (
    PREVIEW,
    StudioPage,
    add_metrics,
    drawing_job,
    finished_job,
    make_job,
    running_job,
    running_studio,
    write_export,
)

from multimodal.studio.data.captions import Caption, CaptionPreview, ShownPicture
from multimodal.studio.data.pictures import PicturePreview
from multimodal.studio.records import Metric
from multimodal.web.studio.curves import MOST_POINTS

WIDER = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
"""By how many pixels the page is wider than the screen."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioPage]:
    with running_studio(tmp_path_factory.mktemp("studio")) as page:
        yield page


@pytest.fixture(autouse=True)
def nothing_taught(studio: StudioPage) -> Iterator[None]:
    """Each test begins without a job, and ends what it began."""
    yield
    for job in studio.jobs.all():
        if job.is_busy:
            studio.jobs.stop(job.id, now=True)
            wait_until(lambda job=job: not job.is_busy)
        studio.jobs.remove(job.id)
    studio.studio.installed.clear()
    studio.studio.exports.states.clear()
    studio.studio.missing = ()
    studio.studio.preview = PREVIEW


@pytest.fixture
def me(browser: Browser, studio: StudioPage) -> Iterator[Person]:
    with visit(browser, studio.url) as person:
        yield person


def go(person: Person, address: str) -> Locator:
    """The studio at this address, once it has what the server says."""
    person.page.goto(f"{person.url}/{address}")
    shown = person.page.locator(".studio")
    expect(shown).to_have_attribute("aria-busy", "false")
    return shown


def field(person: Person, label: str) -> Locator:
    return person.page.locator("form.new").get_by_label(label, exact=True)


def press(person: Person, name: str) -> None:
    person.page.locator(".studio").get_by_role("button", name=name, exact=True).click()


def choose_plan(person: Person, folder: Path, steps: int = 60, step_s: float = 0.05) -> None:
    """Upload data, which is a plan of `tiny_jobs`."""
    plan = folder / "plan.txt"
    plan.write_text(json.dumps({"steps": steps, "step_s": step_s}), "utf-8")
    person.page.set_input_files("input[type=file].picker:not([multiple])", [])
    with person.page.expect_file_chooser() as chooser:
        press(person, "Choose a file …")
    chooser.value.set_files(plan)
    expect(person.page.locator('[data-told="upload"]')).to_contain_text("plan.txt")


def begin(person: Person, folder: Path, name: str = "mine", **plan: Any) -> None:
    """Start a job by the form."""
    go(person, "#studio/new")
    field(person, "Name of the result").fill(name)
    choose_plan(person, folder, **plan)
    press(person, "Start")
    expect(person.page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def points(person: Person, plot: str = "Loss") -> list[str]:
    """Of the first curve of a plot, as it is drawn."""
    path = person.page.locator(f'figure[data-key="{plot}"] path.curve-1').first
    return re.findall(r"[-\d.]+ [-\d.]+", path.get_attribute("d") or "")


# ---------------------------------------------------------------- there and back


def test_the_studio_is_beside_the_chat_and_a_reload_stays_there(me: Person) -> None:
    expect(me.page.locator("#chat")).to_be_visible()
    me.page.get_by_role("link", name="Studio").click()
    expect(me.page.get_by_role("heading", name="Nothing has been taught yet")).to_be_visible()
    expect(me.page.locator("#chat")).to_be_hidden()
    me.page.reload()
    expect(me.page.get_by_role("heading", name="Nothing has been taught yet")).to_be_visible()
    me.page.get_by_role("link", name="Back to the chat").click()
    expect(me.page.locator("#chat")).to_be_visible()
    expect(me.page.locator(".studio")).to_be_hidden()
    me.page.go_back()
    expect(me.page.locator(".studio")).to_be_visible()


def test_a_new_chat_leads_out_of_the_studio(me: Person) -> None:
    go(me, "#studio")
    me.page.locator("#new").click()
    expect(me.box).to_be_visible()
    assert me.ask("hello there") == "hello there"


def test_what_is_typed_in_the_chat_is_there_after_a_visit_to_the_studio(me: Person) -> None:
    me.type("half a sentence")
    me.page.get_by_role("link", name="Studio").click()
    expect(me.box).to_be_hidden()
    me.page.get_by_role("link", name="Back to the chat").click()
    expect(me.box).to_have_value("half a sentence")


# ---------------------------------------------------------------- a job


def test_a_job_is_begun_watched_stopped_and_resumed(
    me: Person, studio: StudioPage, tmp_path: Path
) -> None:
    begin(me, tmp_path, steps=120)
    job = studio.jobs.get("mine")
    expect(me.page.locator(".state")).to_contain_text("Running")
    wait_until(lambda: job.status.step > 10)
    expect(me.page.locator('figure[data-key="Loss"]')).to_be_visible()
    seen = len(points(me))
    wait_until(lambda: len(points(me)) > seen)
    press(me, "Stop")
    expect(me.page.locator(".state")).to_contain_text("Stopped")
    resume = me.page.get_by_role("button", name="Resume")
    expect(resume).not_to_have_attribute("aria-disabled", "true")
    resume.click()
    expect(me.page.locator(".state")).to_contain_text("Done")
    expect(me.page.locator(".report")).to_contain_text("It counts.")
    assert len(points(me)) == 120


def test_a_reload_during_a_run_shows_the_whole_curve(
    me: Person, studio: StudioPage, tmp_path: Path
) -> None:
    begin(me, tmp_path, steps=400)
    job = studio.jobs.get("mine")
    wait_until(lambda: job.status.step > 20)
    me.page.reload()
    expect(me.page.locator('figure[data-key="Loss"]')).to_be_visible()
    assert job.status.state == "running"
    told = len(job.folder.metrics())
    wait_until(lambda: len(points(me)) >= min(told, 20))
    words = me.page.locator("figure svg[role=img]").first.get_attribute("aria-label") or ""
    assert "training: from 1 at step 1 to" in words


def test_an_answer_of_the_form_that_comes_late_does_not_stop_what_follows_the_job(
    me: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is to stop the page's timer is held until the job's page is there."""
    go(me, "#studio/new")
    field(me, "Name of the result").fill("mine")
    choose_plan(me, tmp_path)
    timer, is_there = gr.Timer, threading.Event()
    stopping: list[bool] = []

    def late(*given: Any, active: bool = True, **more: Any) -> Any:
        if not active:
            stopping.append(True)
        if len(stopping) == 1:
            is_there.wait(60)
        return timer(*given, active=active, **more)

    monkeypatch.setattr(gr, "Timer", late)
    field(me, "Epochs").fill("4")
    command = me.page.locator(".plan code")
    wait_until(lambda: bool(stopping) or "--epochs 4" in (command.text_content() or ""))
    press(me, "Start")
    expect(me.page.get_by_role("heading", name="mine", exact=True)).to_be_visible()
    is_there.set()
    expect(me.page.locator(".state")).to_contain_text("Done")


def test_four_thousand_steps_are_drawn_lightly(me: Person, studio: StudioPage) -> None:
    folder = make_job(studio.jobs, "long", step=4000, steps=4000, runs=1)
    add_metrics(folder, 4000)
    go(me, "#studio/job/long")
    assert len(points(me)) <= MOST_POINTS
    assert len(me.page.locator("[data-part=job]").inner_html()) < 150_000


def test_a_chat_goes_on_beside_a_run(me: Person, studio: StudioPage, tmp_path: Path) -> None:
    begin(me, tmp_path, steps=400)
    wait_until(lambda: studio.jobs.get("mine").status.step > 3)
    me.page.locator("#new").click()
    assert me.ask("are you there") == "are you there"
    assert studio.jobs.get("mine").status.state == "running"


def test_what_is_unfolded_stays_so_while_the_curves_grow(me: Person, studio: StudioPage) -> None:
    with running_job(studio.jobs) as folder:
        go(me, "#studio/job/under-way")
        me.page.get_by_text("The figures as a table").click()
        stop = me.page.get_by_role("button", name="Stop", exact=True)
        stop.focus()
        folder.add(Metric(201, 5.0, 402.0, {"loss": 0.4321}))
        expect(me.page.locator("figure .newest-value").first).to_contain_text("0.432")
        expect(me.page.get_by_role("table")).to_be_visible()
        expect(stop).to_be_focused()


def test_values_are_read_under_the_pointer(me: Person, studio: StudioPage) -> None:
    finished_job(studio.jobs)
    go(me, "#studio/job/ledger")
    canvas = me.page.locator("figure .canvas").first
    canvas.hover()
    expect(canvas.locator(".tip")).to_contain_text(
        re.compile(r"Step \d+\ntraining: [\d.]+\nheld out")
    )
    me.page.mouse.move(2, 2)
    expect(canvas.locator(".tip")).to_be_hidden()


def test_a_failure_says_why_and_shows_the_log(me: Person, studio: StudioPage) -> None:
    folder = make_job(studio.jobs, "broken", state="failed", error="The card is full.", runs=1)
    folder.log.write_text("loading\nout of memory\n", "utf-8")
    go(me, "#studio/job/broken")
    expect(me.page.get_by_role("note", name="Why it failed")).to_contain_text("The card is full.")
    me.page.get_by_text("The end of its log").click()
    expect(me.page.locator("pre.log")).to_contain_text("out of memory")
    resume = me.page.get_by_role("button", name="Resume")
    expect(resume).to_have_attribute("aria-disabled", "true")
    expect(resume).to_have_accessible_description(re.compile("It cannot be resumed"))


def test_a_job_is_removed_once_that_is_confirmed(me: Person, studio: StudioPage) -> None:
    finished_job(studio.jobs)
    go(me, "#studio/job/ledger")
    press(me, "Remove")
    asked = me.page.get_by_role("dialog")
    expect(asked).to_contain_text("Remove ledger?")
    me.page.keyboard.press("Escape")
    expect(asked).to_be_hidden()
    expect(me.page.get_by_role("button", name="Remove", exact=True)).to_be_focused()
    press(me, "Remove")
    asked.get_by_role("button", name="Remove", exact=True).click()
    expect(me.page.get_by_role("heading", name="Nothing has been taught yet")).to_be_visible()
    assert studio.jobs.all() == []


def test_a_job_leaves_as_a_file_and_comes_back(
    me: Person, studio: StudioPage, tmp_path: Path
) -> None:
    finished_job(studio.jobs)
    go(me, "#studio/job/ledger")
    with me.page.expect_download() as saved:
        me.page.get_by_role("link", name="Download as a file").click()
    path = tmp_path / "ledger.zip"
    saved.value.save_as(path)
    assert path.read_bytes() == b"PK ledger"
    go(me, "#studio")
    with me.page.expect_file_chooser() as chooser:
        press(me, "Import a finished job …")
    chooser.value.set_files(path)
    expect(me.page.get_by_role("heading", name="brought", exact=True)).to_be_visible()


def test_the_address_of_a_file_cannot_be_guessed(me: Person, studio: StudioPage) -> None:
    finished_job(studio.jobs)
    go(me, "#studio/job/ledger")
    address = me.page.get_by_role("link", name="Download as a file").get_attribute("href")
    assert address is not None
    other = re.sub("studio/[0-9a-f]{4}", "studio/0000", address)
    assert me.page.request.get(f"{me.url}/{address}").status == 200
    assert me.page.request.get(f"{me.url}/{other}").status == 404


# ---------------------------------------------------------------- the form


def test_a_result_is_exported_and_fetched_with_its_certificate(
    me: Person, studio: StudioPage, tmp_path: Path
) -> None:
    finished_job(studio.jobs, "ledger")
    shown = go(me, "#studio/job/ledger")
    shown.get_by_label("Format").select_option("gguf:q5_1")
    shown.get_by_role("button", name="Export", exact=True).click()
    expect(shown.get_by_role("status").filter(has_text="Beginning")).to_be_visible()
    assert studio.studio.exports.asked[-1] == ("ledger", "gguf", ("q5_1",))
    studio.studio.exports.states["ledger"] = write_export(tmp_path / "exports/ledger/gguf")
    shown.get_by_text("All 1 checks passed").click()
    expect(shown.get_by_role("region", name="Certificate of gguf")).to_contain_text("chat template")
    with me.page.expect_download() as saved:
        shown.get_by_role("link", name="ledger-q8_0.gguf").click()
    assert saved.value.path().read_bytes() == b"GGUF and weights"
    address = shown.get_by_role("link", name="certificate.json").get_attribute("href")
    assert address is not None
    wrong = address.replace("certificate.json", "notes.txt")
    assert me.page.request.get(f"{me.url}/{wrong}").status == 404
    guessed = re.sub(r"studio/[0-9a-f]+", f"studio/{'0' * 32}", address)
    assert me.page.request.get(f"{me.url}/{guessed}").status == 404


def test_faults_stand_beside_their_fields_and_nothing_typed_is_lost(
    me: Person, studio: StudioPage
) -> None:
    go(me, "#studio/new")
    field(me, "Epochs").fill("many")
    press(me, "Start")
    name = field(me, "Name of the result")
    expect(name).to_be_focused()
    expect(name).to_have_accessible_description("Give the result a name.")
    expect(field(me, "Epochs")).to_have_accessible_description(re.compile("Write a number"))
    expect(field(me, "Epochs")).to_have_value("many")
    expect(me.page.locator("#fault-data")).to_have_text("Choose what it is to learn from.")
    assert studio.jobs.all() == []
    name.fill("mine")
    field(me, "Epochs").fill("2")
    expect(me.page.locator("#fault-epochs")).to_be_empty()
    expect(me.page.locator("#fault-name")).to_be_empty()


def test_a_form_that_nobody_touched_complains_of_nothing(me: Person) -> None:
    go(me, "#studio/new")
    expect(me.page.locator(".plan")).to_contain_text("The exact command appears here")
    assert me.page.locator(".fault:not(:empty)").count() == 0


def test_the_form_is_kept_over_a_reload(me: Person, tmp_path: Path) -> None:
    go(me, "#studio/new")
    field(me, "Name of the result").fill("kept")
    field(me, "Method").select_option("dpo")
    choose_plan(me, tmp_path)
    me.page.reload()
    expect(field(me, "Name of the result")).to_have_value("kept")
    expect(field(me, "Method")).to_have_value("dpo")
    expect(me.page.locator('[data-told="upload"]')).to_contain_text("plan.txt")
    expect(me.page.locator(".plan code")).to_contain_text("--name kept")


def test_the_command_follows_the_form(me: Person, tmp_path: Path) -> None:
    me.context.grant_permissions(["clipboard-read", "clipboard-write"])
    go(me, "#studio/new")
    field(me, "Name of the result").fill("mine")
    choose_plan(me, tmp_path)
    field(me, "Epochs").fill("2")
    command = me.page.locator(".plan code")
    expect(command).to_contain_text("--epochs 2.0")
    expect(command).not_to_contain_text("--batch")
    expect(me.page.locator(".plan")).to_contain_text("1.50 GB of the 2.50 GB")
    press(me, "Copy the command")
    expect(me.page.get_by_role("button", name="Copied")).to_be_visible()
    assert me.page.evaluate("navigator.clipboard.readText()") == command.inner_text()


def test_what_it_will_do_says_that_it_is_worked_out(
    me: Person, studio: StudioPage, tmp_path: Path
) -> None:
    go(me, "#studio/new")
    field(me, "Name of the result").fill("mine")
    studio.studio.estimates.clear()
    try:
        choose_plan(me, tmp_path)
        expect(me.page.locator('.plan[aria-busy="true"]')).to_be_visible()
        expect(me.page.locator('[data-told="upload"]')).to_contain_text("plan.txt, 1 kB")
    finally:
        studio.studio.estimates.set()
    expect(me.page.locator(".plan code")).to_contain_text("--name mine")
    expect(me.page.locator(".plan")).not_to_have_attribute("aria-busy", "true")


def test_settings_leave_and_come_back_as_toml(me: Person, tmp_path: Path) -> None:
    go(me, "#studio/new")
    field(me, "Name of the result").fill("mine")
    field(me, "Learning rate").fill("0.0003")
    choose_plan(me, tmp_path)
    expect(me.page.locator(".plan code")).to_contain_text("--learning-rate")
    with me.page.expect_download() as saved:
        press(me, "Save as TOML")
    path = tmp_path / "mine.toml"
    saved.value.save_as(path)
    field(me, "Name of the result").fill("other")
    field(me, "Learning rate").fill("")
    with me.page.expect_file_chooser() as chooser:
        press(me, "Settings from TOML …")
    chooser.value.set_files(path)
    expect(field(me, "Name of the result")).to_have_value("mine")
    expect(field(me, "Learning rate")).to_have_value("0.0003")
    expect(me.page.locator('[data-told="upload"]')).to_contain_text("plan.txt")


def test_a_method_shows_its_own_settings(me: Person) -> None:
    go(me, "#studio/new")
    expect(field(me, "LoRA rank")).to_be_visible()
    field(me, "Method").select_option("full")
    expect(field(me, "LoRA rank")).to_be_hidden()
    field(me, "Method").select_option("grpo")
    expect(me.page.get_by_role("group", name="Rewards")).to_be_visible()
    expect(me.page.locator("#method-about")).to_contain_text("reinforces")
    field(me, "Method").select_option("diffusion")
    expect(field(me, "Pixels on a side")).to_be_visible()
    expect(field(me, "Longest sample (tokens)")).to_be_hidden()
    expect(me.page.locator("#method-about")).to_contain_text("from scratch")


def test_what_was_drawn_is_seen_as_it_became_clear(me: Person, studio: StudioPage) -> None:
    go(me, f"#studio/job/{drawing_job(studio.jobs).id}")
    newest = me.page.get_by_alt_text("Pictures that it drew, of one, two")
    expect(newest).to_be_visible()
    assert newest.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 16]
    earlier = me.page.get_by_alt_text("Pictures that it drew at step 100")
    expect(earlier).to_be_hidden()
    me.page.get_by_text("Earlier drawings (1)").click()
    expect(earlier).to_be_visible()
    expect(me.page.locator(".report")).to_contain_text("97.5 % (97.3 % to 97.6 %)")


def test_the_preview_tells_trained_tokens_apart_without_colour(me: Person, tmp_path: Path) -> None:
    go(me, "#studio/new")
    field(me, "Name of the result").fill("mine")
    choose_plan(me, tmp_path)
    press(me, "Preview the data")
    trained = me.page.locator(".rendered mark").first
    expect(trained).to_have_text("Marta keeps it.<|im_end|>")
    expect(trained).to_have_css("text-decoration-line", "underline")
    expect(me.page.locator(".preview .legend")).to_contain_text("trained underlined")
    expect(me.page.get_by_role("heading", name="The data, as the model reads it")).to_be_focused()


def test_a_preview_without_a_name_leaves_no_fault_there(me: Person, tmp_path: Path) -> None:
    go(me, "#studio/new")
    choose_plan(me, tmp_path)
    press(me, "Preview the data")
    expect(me.page.locator(".preview")).to_be_visible()
    field(me, "Epochs").fill("4")
    expect(field(me, "Epochs")).to_be_focused()
    me.page.wait_for_timeout(1500)  # longer than the form waits until it asks
    expect(field(me, "Name of the result")).not_to_have_attribute("aria-invalid", "true")
    press(me, "Start")
    expect(field(me, "Name of the result")).to_have_attribute("aria-invalid", "true")


def jpeg(size: tuple[int, int]) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, "teal").save(made, "JPEG")
    return made.getvalue()


LONG = "A very long caption of a picture. " * 8
PREVIEWS = {
    "captions": CaptionPreview(
        9, 1, (ShownPicture(jpeg((192, 60)), (Caption(LONG, "What is it?"), Caption("<b>"))),), ()
    ),
    "classes": PicturePreview(
        (("cat", 30, 10), ("dog" * 30, 15, 5)), {"cat": (jpeg((192, 108)),) * 3}, ("A notice.",)
    ),
    "no classes": PicturePreview((("", 30, 10),), {"": (jpeg((60, 192)),) * 3}, ()),
}


@pytest.mark.parametrize("kind", PREVIEWS)
def test_pictures_are_previewed_for_everybody(
    browser: Browser, studio: StudioPage, tmp_path: Path, kind: str
) -> None:
    studio.studio.preview = PREVIEWS[kind]
    with visit(browser, studio.url, color_scheme="dark", **PHONE) as person:
        go(person, "#studio/new")
        choose_plan(person, tmp_path)
        press(person, "Preview the data")
        shown = person.page.locator(".preview")
        shown.locator("img").first.wait_for()
        assert person.barriers(".preview") == []
        assert person.page.evaluate(WIDER) == 0
        told = shown.inner_text()
        assert ("the first 1 class" in told) == (kind == "classes")
        assert ("<b>" in told) == (kind == "captions")


# ---------------------------------------------------------------- what was learned


def test_chat_with_it_opens_a_chat_with_the_result(me: Person, studio: StudioPage) -> None:
    finished_job(studio.jobs)
    go(me, "#studio/job/ledger")
    press(me, "Chat with it")
    expect(me.box).to_be_visible()
    expect(me.page.locator("#model input")).to_have_value(re.compile("SmolLM2 135M"))
    assert me.ask("hello you") == "hello you"
    assert studio.studio.installed == {"ledger": "smollm2-135m-instruct"}
    go(me, "#studio/job/ledger")
    press(me, "Undo: take it out of the chat")
    expect(me.page.get_by_role("button", name="Undo: take it out of the chat")).to_have_count(0)
    assert studio.studio.installed == {}


def test_what_did_not_learn_is_installed_only_when_that_is_confirmed(
    me: Person, studio: StudioPage
) -> None:
    finished_job(studio.jobs, is_passed=False)
    go(me, "#studio/job/ledger")
    expect(me.page.locator(".report")).to_contain_text("No")
    expect(me.page.get_by_role("button", name="Chat with it")).to_have_count(0)
    press(me, "Install anyway")
    asked = me.page.get_by_role("dialog")
    asked.get_by_role("button", name="Keep as it is").click()
    assert studio.studio.installed == {}
    press(me, "Install anyway")
    asked.get_by_role("button", name="Install anyway").click()
    expect(me.page.get_by_role("button", name="Chat with it")).to_be_visible()
    assert list(studio.studio.installed) == ["ledger"]


# ---------------------------------------------------------------- one's own chats


def test_rows_of_my_chats_are_edited_and_taught(me: Person, studio: StudioPage) -> None:
    go(me, "#studio/chats")
    press(me, "From thumbs (KTO)")
    rows = me.page.locator(".row-card")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("checkbox").uncheck()
    rows.nth(0).get_by_label("Answer").fill("Johann Wolfgang von Goethe.")
    press(me, "Learn from 1 rows …")
    expect(field(me, "Method")).to_have_value("kto")
    field(me, "Name of the result").fill("tastes")
    command = me.page.locator(".plan code")
    expect(command).to_contain_text("my-chats-kto.jsonl")
    path = re.search(r"--data (\S+)", command.inner_text())
    assert path is not None
    (row,) = map(json.loads, Path(path[1]).read_text("utf-8").splitlines())
    assert row["completion"][0]["content"] == "Johann Wolfgang von Goethe."
    assert studio.studio.asked_of


# ---------------------------------------------------------------- who may use it


def test_without_the_packages_the_page_says_how_to_get_them(me: Person, studio: StudioPage) -> None:
    studio.studio.missing = ("trl",)
    go(me, "#studio/new")
    expect(me.page.get_by_role("heading", name="The studio needs a few more")).to_be_visible()
    expect(me.page.locator(".nothing code")).to_have_text('pip install "multimodal-chat[studio]"')
    expect(me.page.locator("form.new")).to_be_hidden()


def test_the_studio_loads_nothing_from_elsewhere(browser: Browser, studio: StudioPage) -> None:
    finished_job(studio.jobs)
    with visit(browser, studio.url) as person:
        asked: list[str] = []
        person.page.on("request", lambda request: asked.append(request.url))
        go(person, "#studio/job/ledger")
        go(person, "#studio/new")
        elsewhere = [url for url in asked if not url.startswith((studio.url, "data:", "blob:"))]
        assert elsewhere == []


# ---------------------------------------------------------------- for everybody


@each_look(LAPTOP, PHONE)
def test_nobody_is_kept_out(
    browser: Browser, studio: StudioPage, look: dict[str, Any], tmp_path: Path
) -> None:
    finished_job(studio.jobs)
    finished_job(studio.jobs, "poor", is_passed=False)
    with (
        running_job(studio.jobs),
        visit(browser, studio.url, **look) as person,
    ):
        for address in ("", "/job/under-way", "/job/ledger", "/job/poor", "/new", "/chats"):
            go(person, f"#studio{address}")
            for fold in person.page.locator(".studio summary:visible").all():
                fold.click()
            assert person.barriers(".studio") == [], address
            assert (
                person.small_targets(".studio :is(a.button, button, input, select)", "label") == []
            )
            assert person.page.evaluate(WIDER) == 0, f"{address} is wider than the screen"


def test_everything_is_reached_by_the_keyboard_alone(
    me: Person, studio: StudioPage, tmp_path: Path
) -> None:
    notes = tmp_path / "plan.txt"
    notes.write_text(json.dumps({"steps": 3, "step_s": 0.01}), "utf-8")
    keys = me.page.keyboard
    me.page.get_by_role("link", name="Studio").focus()
    keys.press("Enter")
    me.page.get_by_role("link", name="New job").first.focus()
    keys.press("Enter")
    expect(field(me, "Name of the result")).to_be_visible()
    field(me, "Name of the result").focus()
    keys.type("by-hand")
    keys.press("Tab")
    keys.press("ArrowDown")  # from “A file” to “A path on this machine”
    keys.press("Tab")
    expect(field(me, "File or folder")).to_be_focused()
    keys.type(str(notes))
    expect(me.page.locator(".plan code")).to_contain_text("by-hand")
    keys.press("Enter")
    expect(me.page.get_by_role("heading", name="by-hand", exact=True)).to_be_visible()
    expect(me.page.locator(".state")).to_contain_text("Done")
