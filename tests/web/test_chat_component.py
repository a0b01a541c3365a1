"""The chat pane in a real browser, with engines that say what a test wants them to say."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import BOX, Person, each_look, launch, place_of, still, visit
from conftest import wait_until
from fake_page import FakePage, Pen, running_page
from fakes import picture_file
from playwright.sync_api import Browser, expect

from multimodal.errors import BackendError
from multimodal.messages import Message, Outcome, TextPart

GRACE_S = 1.5
LONG = " ".join(f"word{number}" for number in range(1500))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePage]:
    origins = ("http://chat.test",)
    with running_page(tmp_path_factory.mktemp("page"), GRACE_S, allow_origin=origins) as page:
        yield page


@pytest.fixture
def blue(tmp_path: Path) -> Path:
    return picture_file(tmp_path, (200, 300), "blue")


def is_at_end(person: Person) -> bool:
    return bool(
        person.page.locator("#chat .log").evaluate(
            "log => log.scrollHeight - log.scrollTop - log.clientHeight < 40"
        )
    )


# ---------------------------------------------------------------- reading while it is written


def test_one_can_read_back_while_an_answer_is_written(person: Person, chat: FakePage) -> None:
    pen = chat.pen()
    person.say("Tell me everything.")
    pen.write(LONG)
    expect(person.replies.last).to_contain_text("word1499")
    wait_until(lambda: is_at_end(person))
    person.page.locator("#chat .log").hover()
    person.page.mouse.wheel(0, -600)
    wait_until(lambda: not is_at_end(person))
    person.page.wait_for_timeout(300)  # the wheel's own movement
    log = person.page.locator("#chat .log")
    place = log.evaluate("log => log.scrollTop")
    for number in range(20):
        pen.write(f" more{number} and more and more of it")
        expect(person.replies.last).to_contain_text(f"more{number} ")
    after = log.evaluate("log => log.scrollTop")
    assert after == pytest.approx(place, abs=2), "the page went on by itself"
    person.page.get_by_role("button", name="Newest").click()
    wait_until(lambda: is_at_end(person))
    pen.write(LONG)
    pen.end()
    person.wait()
    wait_until(lambda: is_at_end(person))
    expect(person.page.get_by_role("button", name="Newest")).to_be_hidden()


def test_a_token_changes_one_message_only(person: Person, chat: FakePage) -> None:
    person.ask("first question")
    pen = chat.begin_answer(person, "second question", "First paragraph.\n\nSecond")
    person.page.evaluate(
        """() => {
        window.touched = [];
        const name = node => (node.nodeType === 1 ? node : node.parentElement);
        new MutationObserver(all => all.forEach(one => {
            const message = name(one.target)?.closest('.message');
            if (message) window.touched.push(message.dataset.id);
            for (const node of [...one.addedNodes, ...one.removedNodes])
                if (node.classList?.contains('message')) window.touched.push('made');
        })).observe(document.querySelector('#chat .messages'),
            {childList: true, subtree: true, characterData: true, attributes: true});
        window.first = document.querySelectorAll('#chat .message.assistant')[1]
            .querySelector('.block');
        }"""
    )
    for number in range(10):
        pen.write(f" token{number}")
        expect(person.replies.last).to_contain_text(f"token{number}")
    newest = person.answers.last.get_attribute("data-id")
    assert set(person.page.evaluate("window.touched")) == {newest}
    assert person.page.evaluate("window.first.isConnected"), "a whole paragraph was made anew"
    pen.end()
    person.wait()


def test_five_hundred_messages_open_and_stream(chat: FakePage, person: Person) -> None:
    person.ask("the first of many")
    store, owner = chat.program.store, chat.owner()
    conversation = store.headings(owner)[0].id
    for number in range(249):
        store.put_message(owner, conversation, Message("user", (TextPart(f"question {number}"),)))
        answer = TextPart(f"Answer **{number}**\n\n- one\n- two\n\n`code`")
        store.put_message(
            owner, conversation, Message("assistant", (answer,), outcome=Outcome(finish="stop"))
        )
    person.open()
    expect(person.page.locator("#chat .message")).to_have_count(500)
    wait_until(lambda: is_at_end(person))
    person.page.evaluate(
        """() => {
        window.before = [...document.querySelectorAll('#chat .message')];
        window.changes = 0;
        const old = new Set(window.before);
        new MutationObserver(all => all.forEach(one => {
            const target = one.target.nodeType === 1 ? one.target : one.target.parentElement;
            if (old.has(target?.closest('.message'))) window.changes += 1;
        })).observe(document.querySelector('#chat .messages'),
            {childList: true, subtree: true, characterData: true, attributes: true});
        }"""
    )
    chat.say("All is **well**.")
    assert "All is well." in person.ask("and now?")
    assert person.page.evaluate("window.before.every(node => node.isConnected)")
    # The newest answer so far loses its offers of other models; nothing else may change.
    assert person.page.evaluate("window.changes") <= 4


# ---------------------------------------------------------------- coming back


def test_a_reload_in_mid_answer_keeps_the_chat_and_the_answer(
    person: Person, chat: FakePage
) -> None:
    pen = chat.begin_answer(person, "Tell me about rivers.", "Rivers begin ")
    expect(person.page.locator("#conversations")).to_contain_text("Tell me about rivers.")
    person.open()
    expect(person.said.last).to_contain_text("Tell me about rivers.")
    expect(person.replies.last).to_contain_text("Rivers begin")
    expect(person.stop_button).to_be_visible()
    pen.write("in the mountains.")
    expect(person.replies.last).to_contain_text("Rivers begin in the mountains.")
    pen.end()
    person.wait()
    assert "Stopped" not in person.reply()
    assert "Interrupted" not in person.reply()


def test_an_answer_ends_when_its_page_was_closed_for_good(browser: Browser, chat: FakePage) -> None:
    with visit(browser, chat.url) as leaving:
        pen = chat.begin_answer(leaving, "Tell me about lakes.", "Lakes ")
        assert chat.source.active == 1
    pen.write_until(lambda: chat.source.active == 0)


def test_another_chat_may_be_read_while_an_answer_is_written(
    person: Person, chat: FakePage
) -> None:
    person.ask("about apples")
    person.new_chat()
    pen = chat.begin_answer(person, "about pears", "Pears are ")
    person.open_chat("about apples")
    expect(person.stop_button).to_be_hidden()
    pen.write("green.")
    person.page.locator("#conversations").get_by_text("about pears").click()
    expect(person.replies.last).to_contain_text("Pears are green.")
    pen.end()
    person.wait()


def test_drafts_and_attachments_stay_with_their_chat(person: Person, red: Path) -> None:
    person.ask("about apples")
    person.attach(red)
    person.type("half a thought")
    person.new_chat()
    expect(person.box).to_have_value("")
    expect(person.attachments).to_have_count(0)
    person.type("another thought")
    person.page.locator("#conversations").get_by_text("about apples").click()
    expect(person.box).to_have_value("half a thought")
    expect(person.attachments).to_have_count(1)
    person.page.wait_for_timeout(400)
    person.open()
    expect(person.box).to_have_value("half a thought")
    expect(person.attachments).to_have_count(1)
    person.send()
    person.wait()
    expect(person.said.last.locator(".picture img")).to_have_count(1)
    person.page.locator("#new").click()
    expect(person.box).to_have_value("another thought")


def test_an_attachment_that_the_server_no_longer_has_is_named(
    person: Person, chat: FakePage, red: Path
) -> None:
    person.attach(red)
    person.type("what is it?")
    person.page.wait_for_timeout(400)
    for upload in chat.program.settings.page_cache.rglob("red.png"):
        upload.unlink()
    person.open()
    expect(person.attachments.first).to_contain_text("is gone. Add it again.")
    person.send()
    assert "red.png" in person.complaint()
    expect(person.box).to_have_value("what is it?")


# ---------------------------------------------------------------- tables and mathematics

TABLE = """\
| Country | Capital | Inhabitants (millions) | Area (thousand km²) | Language |
|---|---|--:|--:|---|
| Liechtenstein | Vaduz | 0.04 | 0.16 | German |
| Switzerland | Bern | 8.9 | 41.3 | German, French, Italian, Romansh |
"""
FORMULAS = r"""
It is $a^2 + b^2 = c^2$, and \(\frac{1}{2}\), and $$\sum_{i=1}^n i$$ and

\[ \int_0^1 x \, dx \]

but $5 and $6 are amounts, and `\(x\)` is code.
"""


def test_a_table_is_read_on_the_phone(phone: Person, chat: FakePage) -> None:
    chat.say(TABLE)
    phone.ask("Compare them.")
    cells = phone.replies.last.locator("td")
    for index in range(cells.count()):
        box = place_of(cells.nth(index))
        assert box["width"] >= 60, "letters stand below each other"
        assert box["height"] <= 120
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    frame = phone.replies.last.locator(".table")
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth")
    frame.evaluate("frame => { frame.scrollLeft = 10000; }")
    assert frame.evaluate("frame => frame.scrollLeft") > 0


def test_mathematics_is_drawn_and_money_is_not(person: Person, chat: FakePage) -> None:
    chat.say(FORMULAS)
    person.ask("Show me.")
    reply = person.replies.last
    expect(reply.locator("math")).to_have_count(4)
    for index in range(4):
        assert place_of(reply.locator("math").nth(index))["width"] > 5
    shown = reply.inner_text()
    assert "but $5 and $6 are amounts" in shown
    assert r"\(x\)" in shown, "code is code"
    assert "frac" not in shown


# ---------------------------------------------------------------- voice


def test_voice_takes_two_presses(person: Person, chat: FakePage) -> None:
    chat.source.transcript = "what is a river"
    page = person.page
    person.record()
    expect(page.locator("#composer .recorder")).to_be_visible()
    wait_until(lambda: float(page.locator(".level").get_attribute("data-level") or 0) > 0.001)
    page.keyboard.press("Enter")  # the button that ends it has the focus
    person.wait()
    expect(person.said.last.locator("audio")).to_have_count(1)
    expect(person.said.last).to_contain_text("what is a river")
    assert "what is a river" in person.reply()


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_a_recording_can_be_discarded(person: Person, way: str) -> None:
    page = person.page
    person.record()
    if way == "Escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Discard the recording").click()
    expect(page.locator("#composer .recorder")).to_be_hidden()
    expect(page.locator(BOX)).to_be_focused()
    page.wait_for_timeout(300)
    assert person.attachments.count() == 0
    assert person.said.count() == 0


def test_a_recording_can_be_attached_and_sent_with_words(person: Person) -> None:
    page = person.page
    person.type("Write this down, please.")
    person.record()
    page.get_by_role("button", name="Attach", exact=True).click()
    expect(person.attachments).to_have_count(1)
    expect(page.locator(BOX)).to_have_value("Write this down, please.")
    person.send()
    person.wait()
    expect(person.said.last.locator("audio")).to_have_count(1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("NotAllowedError", "The microphone is blocked for this page."),
        ("NotFoundError", "No microphone was found."),
        ("NotReadableError", "in use by another program"),
    ],
)
def test_where_the_microphone_cannot_be_used_the_page_says_why(
    person: Person, fault: str, words: str
) -> None:
    person.page.evaluate(
        "name => { navigator.mediaDevices.getUserMedia = async () => {"
        " throw new DOMException('no', name); }; }",
        fault,
    )
    person.page.get_by_role("button", name="Record your voice").click()
    said = person.complaint()
    assert words in said
    assert "attach a recording" in said
    expect(person.page.locator("#composer .recorder")).to_be_hidden()


def test_over_plain_http_the_page_says_how_to_get_a_microphone(
    browser: Browser, chat: FakePage
) -> None:
    opened = launch(browser.browser_type, "--host-resolver-rules=MAP chat.test 127.0.0.1")
    with visit(opened, chat.url.replace("127.0.0.1", "chat.test")) as person:
        assert not person.page.evaluate("isSecureContext")
        person.page.get_by_role("button", name="Record your voice").click()
        assert "only to pages opened over https" in person.complaint()
    opened.close()


# ---------------------------------------------------------------- pictures

DROP = """([selector, name, data, kind]) => {
    const bytes = Uint8Array.from(atob(data), sign => sign.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, {type: kind}));
    const at = document.querySelector(selector);
    const send = type => at.dispatchEvent(new DragEvent(type,
        {dataTransfer: carried, bubbles: true, cancelable: true}));
    send('dragenter'); send('dragover');
    const isShown = !document.querySelector('#chat .drop').hidden;
    send('drop');
    return isShown;
}"""
PASTE = """([name, data, kind]) => {
    const bytes = Uint8Array.from(atob(data), sign => sign.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, {type: kind}));
    document.body.dispatchEvent(new ClipboardEvent('paste',
        {clipboardData: carried, bubbles: true, cancelable: true}));
}"""


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.mark.parametrize("place", ["#chat .log", "#chat .empty", "#composer", "#chat"])
def test_a_drop_anywhere_on_the_pane_attaches(person: Person, red: Path, place: str) -> None:
    shown = person.page.evaluate(DROP, [place, "red.png", encoded(red), "image/png"])
    assert shown, "nothing says that a drop is welcome"
    expect(person.attachments).to_have_count(1)
    expect(person.page.locator("#chat .drop")).to_be_hidden()
    person.ask("what is it?")
    expect(person.said.last.locator(".picture")).to_have_count(1)


def test_a_paste_attaches(person: Person, red: Path) -> None:
    person.page.evaluate(PASTE, ["image.png", encoded(red), "image/png"])
    expect(person.attachments).to_have_count(1)


def test_what_is_no_picture_is_refused_by_name(person: Person, tmp_path: Path) -> None:
    path = tmp_path / "letter.docx"
    path.write_bytes(b"PK..")
    kind = "application/octet-stream"
    person.page.evaluate(DROP, ["#chat .log", "letter.docx", encoded(path), kind])
    assert "“letter.docx” is not a picture or a recording." in person.complaint()
    assert person.attachments.count() == 0


def test_a_tap_on_a_thumbnail_removes_nothing(phone: Person, red: Path) -> None:
    phone.attach(red)
    phone.attachments.first.locator("img").tap()
    phone.attachments.first.locator(".name").tap()
    assert phone.attachments.count() == 1
    phone.page.get_by_role("button", name="Remove red.png").tap()
    assert phone.attachments.count() == 0


def test_two_pictures_share_a_frame_and_are_enlarged_by_keyboard(
    person: Person, red: Path, blue: Path
) -> None:
    person.ask("compare them", red, blue)
    pictures = person.said.last.locator(".pictures")
    expect(pictures).to_have_count(1)
    expect(pictures.locator("img")).to_have_count(2)
    edges = "node => node.getBoundingClientRect().right"
    ends = [pictures.evaluate(edges), person.said.last.locator("> .body").evaluate(edges)]
    assert ends[0] == pytest.approx(ends[1], abs=2), "pictures and words end on one line"
    for image in pictures.locator("img").all():
        assert "a red square" in (image.get_attribute("alt") or ""), "what a model saw in it"
    first = pictures.locator(".picture").first
    first.focus()
    person.page.keyboard.press("Enter")
    box = person.page.locator("#chat .lightbox")
    expect(box).to_be_visible()
    expect(box.locator(".place")).to_have_text("1 of 2")
    wait_until(lambda: box.locator("img").evaluate("image => image.naturalWidth") == 300)
    person.page.keyboard.press("ArrowRight")
    expect(box.locator(".place")).to_have_text("2 of 2")
    wait_until(lambda: box.locator("img").evaluate("image => image.naturalWidth") == 200)
    person.page.keyboard.press("ArrowRight")
    expect(box.locator(".place")).to_have_text("1 of 2")
    person.page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    expect(first).to_be_focused()


def test_a_picture_has_an_address_that_shows_no_folder_and_needs_its_key(
    person: Person, chat: FakePage, red: Path
) -> None:
    person.ask("what is it?", red)
    source = person.said.last.locator("img").get_attribute("src") or ""
    address = f"{chat.url}/{source}"
    assert str(chat.program.settings.data) not in person.page.content()
    assert person.context.request.get(address).status == 200
    key = source.split("/")[1]
    assert person.context.request.get(address.replace(key, "0" * len(key))).status == 404


# ---------------------------------------------------------------- while an answer is written


def test_a_message_sent_too_early_waits_and_can_be_taken_back(
    person: Person, chat: FakePage
) -> None:
    pen = chat.begin_answer(person, "the first", "An answer ")
    for text in ("the second", "the third"):
        person.say(text)
    waiting = person.page.locator("#chat .queue li")
    expect(waiting).to_have_count(2)
    expect(waiting.first).to_contain_text("Sent when the answer is done")
    expect(person.page.locator("#chat .alert p")).to_have_count(0)
    person.page.get_by_role("button", name="Do not send: the third").click()
    expect(waiting).to_have_count(1)
    expect(person.box).to_have_value("the third")
    pen.end()
    expect(person.said).to_have_count(2)
    expect(person.said.last).to_contain_text("the second")
    expect(waiting).to_have_count(0)
    pen.write("Another.")
    pen.end()
    person.wait()
    expect(person.box).to_have_value("the third")


def test_escape_stops_the_answer(person: Person, chat: FakePage) -> None:
    pen = chat.begin_answer(person, "Tell me everything.", "Once upon a time ")
    person.page.keyboard.press("Escape")
    pen.write_until(lambda: not person.stop_button.is_visible())
    assert "Stopped." in person.reply()


def test_shift_and_enter_begin_a_new_line(person: Person) -> None:
    person.page.focus(BOX)
    person.page.keyboard.type("one")
    person.page.keyboard.press("Shift+Enter")
    person.page.keyboard.type("two")
    expect(person.box).to_have_value("one\ntwo")
    assert person.said.count() == 0


def test_what_is_under_way_is_said(person: Person, chat: FakePage) -> None:
    chat.source.gate.clear()
    pen = chat.pen()
    person.say("hello")
    try:
        if not chat.source.loaded:
            expect(person.routes.last).to_contain_text("Loading")
    finally:
        chat.source.gate.set()
    expect(person.routes.last).to_contain_text("Reading")
    pen.write("Good day.")
    expect(person.routes.last).to_contain_text("Writing")
    pen.end()
    person.wait()


def test_a_failed_answer_says_why_and_can_be_asked_for_again(
    person: Person, chat: FakePage
) -> None:
    pen = chat.pen()
    person.say("hello")
    pen.write("Well ", BackendError("The engine is out of paper. Send it again."))
    person.wait()
    assert "The engine is out of paper. Send it again." in person.reply()
    assert "Well" in person.reply()
    chat.say("Better now.")
    person.do("Answer again")
    person.wait()
    assert person.reply() == "Better now."


# ---------------------------------------------------------------- editing


def test_an_edit_is_opened_closed_and_sent_by_keyboard(person: Person) -> None:
    person.ask("one apple")
    button = person.page.get_by_role("button", name="Edit", exact=True).last
    button.focus()
    person.page.keyboard.press("Enter")
    editor = person.page.get_by_label("Edit the message")
    expect(editor).to_be_focused()
    expect(editor).to_have_value("one apple")
    person.page.keyboard.type(" or two")
    person.page.keyboard.press("Escape")
    expect(editor).to_have_count(0)
    expect(button).to_be_focused()
    expect(person.said.last).to_contain_text("one apple")
    person.page.keyboard.press("Enter")
    person.page.keyboard.press("Enter")  # a new line, for it is a text of many lines
    person.page.keyboard.type("and a pear")
    person.page.keyboard.press("Control+Enter")
    person.wait()
    expect(person.said.last).to_contain_text("one apple\nand a pear")
    assert "pear" in person.reply()


def test_an_edit_of_an_early_turn_says_what_it_removes_and_keeps_it_until_then(
    person: Person,
) -> None:
    for text in ("the first", "the second", "the third"):
        person.ask(text)
    person.said.first.hover()
    person.said.first.get_by_role("button", name="Edit").click()
    editor = person.page.locator("#chat .editor")
    expect(editor).to_contain_text("The 5 messages after it will be removed.")
    expect(person.said).to_have_count(3)
    editor.get_by_role("button", name="Cancel").click()
    person.open()
    expect(person.said).to_have_count(3)
    person.said.first.hover()
    person.said.first.get_by_role("button", name="Edit").click()
    person.page.get_by_label("Edit the message").fill("the other first")
    editor.get_by_role("button", name="Send, and remove 5").click()
    person.wait()
    expect(person.said).to_have_count(1)
    assert "the other first" in person.reply()


def test_answering_an_early_turn_again_asks_first(person: Person) -> None:
    for text in ("the first", "the second"):
        person.ask(text)
    person.answers.first.hover()
    person.answers.first.get_by_role("button", name="Answer again").click()
    expect(person.answers.first).to_contain_text("2 later messages will be removed.")
    person.page.get_by_role("button", name="Keep").click()
    expect(person.said).to_have_count(2)
    person.answers.first.hover()
    person.answers.first.locator(".actions .retry").click()
    person.answers.first.locator(".confirm").get_by_role("button", name="Answer again").click()
    person.wait()
    expect(person.said).to_have_count(1)


# ---------------------------------------------------------------- nothing that is said is HTML

WORDS = "Why does <form> and <script src=x> not work? I have 2*3*4 and $5"
HOSTILE = [
    "![picture](http://evil.test/1.png)",
    "![x](/logout)",
    "[go](/logout)",
    "![x][ref]\n\n[ref]: http://evil.test/2.png",
    "<img src=http://evil.test/3.png srcset='http://evil.test/4.png 2x'>",
    "<div style='background:url(http://evil.test/5.png)'>box</div>",
    "<style>*{background:url(http://evil.test/6.png)}</style>",
    "<audio src=http://evil.test/7.mp3 autoplay></audio>",
    "<video src=http://evil.test/8.mp4 poster=http://evil.test/9.png autoplay></video>",
    "<svg><image href='http://evil.test/10.png'/></svg>",
    "```mermaid\ngraph TD; A[<img src=http://evil.test/11.png>]-->B\n```",
    "<div style='position:fixed;inset:0;background:red'>covered</div>",
    "<form action=http://evil.test/12><input name=q><button>send</button></form>",
    "<iframe src=http://evil.test/13></iframe>",
    "<link rel=stylesheet href=http://evil.test/14.css>",
    "<base href=http://evil.test/>",
    "<meta http-equiv=refresh content='0;url=http://evil.test/15'>",
    r"\(\text{<img src=http://evil.test/16.png>}\) $\href{http://evil.test/17}{x}$",
    "<img src=x onerror=\"document.title='owned'\">",
    "[click](javascript:document.title='owned')",
]


def visible(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("speaker", ["model", "person"])
def test_nothing_that_is_said_fetches_covers_or_runs(
    person: Person, chat: FakePage, speaker: str
) -> None:
    chat.say("\n\n".join(HOSTILE) if speaker == "model" else "Yes.")
    asked: list[str] = []
    person.page.on("request", lambda request: asked.append(request.url))
    person.ask("Say it." if speaker == "model" else "\n\n".join(HOSTILE))
    person.open()
    assert asked
    said = person.answers.last if speaker == "model" else person.said.last
    said.wait_for()
    person.page.wait_for_timeout(1000)
    assert [url for url in asked if not url.startswith((chat.url, "data:", "blob:"))] == []
    assert not [url for url in asked if "logout" in url]
    shown = said.locator("> .body")
    foreign = "img, audio, video, svg:not(.copy svg), form, input, iframe, style, link"
    assert shown.locator(foreign).count() == 0
    assert person.page.title() != "owned"
    assert person.page.url.startswith(chat.url)
    for words in ("box", "covered", "document.title='owned'", "<form action=", "<iframe src="):
        assert visible(words) in visible(shown.inner_text()), f"{words} has vanished"
    for link in shown.locator("a").all():
        assert (link.get_attribute("href") or "").startswith(("http://", "https://", "mailto:"))
        rel = link.get_attribute("rel") or ""
        assert {"noopener", "noreferrer", "nofollow"} <= set(rel.split())


def test_what_a_person_types_is_shown_as_typed(person: Person) -> None:
    typed = f"{WORDS}\n  **bold** `code` # no heading\n\n![x](http://evil.test/1.png) \\(x\\)"
    person.ask(typed)
    assert person.said.last.locator("> .body").inner_text() == typed
    person.open()
    assert person.said.last.locator("> .body").inner_text() == typed


def test_what_was_read_and_heard_is_shown_in_every_word(
    person: Person, chat: FakePage, red: Path, examples: Path
) -> None:
    chat.source.transcript = WORDS
    person.ask("", examples / "question-en.wav")
    assert WORDS in person.said.last.inner_text()
    assert WORDS in person.route()
    chat.source.sight = WORDS
    assert WORDS in person.ask("What does it say?", red)
    chat.say("It is 2*3*4 = 24, *really*.")
    assert person.ask("How much?") == "It is 2*3*4 = 24, really."


# ---------------------------------------------------------------- for everybody

STATES = ["empty", "answered", "judged", "streaming", "enlarged", "error", "editing"]


def bring(person: Person, chat: FakePage, state: str, red: Path) -> Pen | None:
    """The pane in one of its states; the pen of an answer that is still being written."""
    page, pen = person.page, None
    if state == "empty":
        page.locator("#chat .examples button").first.wait_for()
        return pen
    chat.say(
        TABLE + FORMULAS + "\n```python\nif x < 1:  # small\n    print('a', 2)\n```\n> so it is"
    )
    person.ask("Compare them.", *([red] if state == "enlarged" else []))
    if state == "answered":
        person.route()
    elif state == "judged":
        person.do("Answer again")
        person.wait()
        person.do("Good answer")
    elif state == "streaming":
        pen = chat.begin_answer(person, "Go on.", "Once **upon** a time")
        person.say("And then?")
    elif state == "enlarged":
        person.said.last.locator(".picture").click()
    elif state == "error":
        person.say(" ")
        person.complaint()
    elif state == "editing":
        person.do("Edit")
    return pen


@each_look(still(1280), still(390))
@pytest.mark.parametrize("state", STATES)
def test_nothing_of_the_pane_keeps_anybody_out(
    browser: Browser, server: FakePage, red: Path, state: str, look: dict[str, Any]
) -> None:
    width = look["viewport"]["width"]
    with visit(browser, server.url, **look) as person:
        pen = bring(person, server, state, red)
        person.page.wait_for_timeout(300)
        assert person.barriers("#chat") == []
        assert person.small_targets("#chat :is(button, summary, select, .icon)") == []
        assert person.page.evaluate("document.documentElement.scrollWidth") <= width
        composer = place_of(person.page.locator("#composer"))
        assert composer["x"] >= 0
        assert composer["x"] + composer["width"] <= width
        assert composer["y"] + composer["height"] <= look["viewport"]["height"]
        if pen is not None:
            person.page.get_by_role("button", name="Do not send").click()
            pen.end()
            person.wait()


def test_the_pane_is_used_by_keyboard_alone(person: Person, red: Path) -> None:
    """Every button is reached by the tabulator, in an order that a reader would expect."""
    person.ask("compare", red)
    person.page.focus(BOX)
    names = []
    for _ in range(14):
        person.page.keyboard.press("Shift+Tab")
        names.append(
            person.page.evaluate(
                "() => { const at = document.activeElement;"
                " return at.getAttribute('aria-label') || at.textContent.trim(); }"
            )
        )
    reached = " | ".join(names)
    expected = ("Attach pictures", "Answer again", "Copy the answer", "Good answer", "Bad answer")
    for name in (*expected, "Why this model", "Edit"):
        assert name in reached, reached
    person.page.focus(BOX)
    following = []
    for _ in range(3):
        person.page.keyboard.press("Tab")
        label = "document.activeElement.getAttribute('aria-label')"
        following.append(person.page.evaluate(label))
    assert following == ["Record your voice", "Talk hands-free", "Send"]
