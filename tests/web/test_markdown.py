"""Markdown to HTML: what a model writes is shown whole, and none of it becomes a tag of its own."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as some

from multimodal.web.markdown import formula, render

TAGS = {
    "p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "div",
    "span", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "math", "mrow",
    "mi", "mn", "mo", "mtext", "mspace", "ms", "mfrac", "msqrt", "mroot", "mstyle", "merror",
    "mpadded", "mphantom", "menclose", "msub", "msup", "msubsup", "munder", "mover", "munderover",
    "mmultiscripts", "mtable", "mtr", "mtd",
}  # fmt: skip


class Reader(HTMLParser):
    """Collects the tags, the attributes and the words of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def read(text: str) -> Reader:
    return Reader("".join(render(text)))


def test_each_paragraph_list_and_table_is_a_block() -> None:
    blocks = render("One.\n\n- a\n- b\n\n| a |\n|---|\n| 1 |\n\n```python\nx = 1\n```")
    assert len(blocks) == 4
    assert [re.match(r"<(\w+)", block)[1] for block in blocks] == ["p", "ul", "div", "div"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Why does <form> and <script src=x> not work?", None),
        ("I have 2*3*4 and $5", None),
        ("It costs $5 and $6", None),
        ("I paid $5 and got 3$ back", None),
        ("![cat](/logout) and [go](/logout)", None),
        ("![cat](data:image/png;base64,AAAA)", None),
        ("<!-- hidden? --> seen", None),
        ("**bold** and `x < y`", "bold and x < y"),
        ("![cat](http://host.test/cat.png)", "cat"),
        ("![](http://host.test/cat.png)", "http://host.test/cat.png"),
    ],
)
def test_no_word_vanishes(text: str, words: str | None) -> None:
    assert read(text).words.strip() == (words or text)


@pytest.mark.parametrize("text", ["$x^2$", "$$x^2$$", r"\(x^2\)", r"\[x^2\]", "$$\nx^2\n$$"])
def test_every_way_to_write_a_formula_is_drawn(text: str) -> None:
    drawn = read(text)
    assert {"math", "msup"} <= drawn.tags
    assert drawn.words.strip() == "x2"


def test_a_formula_over_several_lines_is_one() -> None:
    blocks = render("\\[\na\n- b\n\n= c\n\\]")
    assert len(blocks) == 1
    assert Reader(blocks[0]).words.strip() == "a−b=c"


@pytest.mark.parametrize("tex", [r"\unknown{x}", "x^", "{", "", "x" * 5000, r"\frac"])
def test_what_is_no_formula_is_shown_as_written(tex: str) -> None:
    assert Reader(formula(tex, False)).words == tex


def test_code_has_its_colours_and_its_name() -> None:
    shown = read("```python\nif x < 1:\n    pass\n```")
    assert ("class", "tok-k") in shown.attributes
    assert shown.words.strip() == "pythonif x < 1:\n    pass"


def test_links_lead_to_the_web_or_to_mail_only_and_tell_nothing() -> None:
    for address in ("javascript:x", "/logout", "file:///etc/passwd", "data:text/html,x", "//a.b"):
        assert "a" not in read(f"[x]({address}) <{address}>").tags
    shown = read("[x](https://a.test) https://b.test <c@d.test>")
    assert [value for name, value in shown.attributes if name == "href"] == [
        "https://a.test",
        "https://b.test",
        "mailto:c@d.test",
    ]
    assert ("rel", "noopener noreferrer nofollow") in shown.attributes


PIECES = [
    "<img src=x onerror=y>", "<script>", "</", "style=", "&lt;", "&#60;img&#62;", "![a](http://x)",
    "[x]: http://y", "$", r"\(", r"\)", r"\[", r"\]", r"\text{<b>}", "\\", "`",
    r"\href{javascript:x}{y}", "```", "|", "*", "- ", "a", "1", " ", "\n", "\n\n",
]  # fmt: skip


@given(some.text(max_size=200) | some.lists(some.sampled_from(PIECES), max_size=25).map("".join))
def test_whatever_is_written_only_known_tags_come_out(text: str) -> None:
    shown = read(text)
    assert shown.tags <= TAGS
    names = {name for name, _ in shown.attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"style", "src", "srcset", "background", "poster", "action", "id", "name"}
